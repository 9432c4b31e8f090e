"""Errors of libraries in one line, for sentences that quote them."""


def one_line(error: BaseException) -> str:
    """The first line of an error's text, and more lines where that ends with a colon.

    The name of its type where it has no text.
    """
    said = ""
    for line in filter(None, (line.strip() for line in str(error).splitlines())):
        said = f"{said} {line}".strip()
        if not said.endswith(":"):
            break
    return said or type(error).__name__
