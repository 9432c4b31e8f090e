"""One way to write an answer: ``clean`` undoes what only changes how it looks.

Every function here maps text to text, and has one idea. What comes out is LaTeX in which the only
style left is ``\\text{…}``, around words; numbers have no separators, and spaces are single.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable

_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "✕": r"\times ",
    "÷": r"\div ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "π": r"\pi ",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ",
    "λ": r"\lambda ", "μ": r"\mu ", "µ": r"\mu ", "φ": r"\phi ", "ω": r"\omega ", "σ": r"\sigma ",
    "ρ": r"\rho ", "ε": r"\epsilon ", "Δ": r"\Delta ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ",
    "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≃": r"\approx ",
    "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "⌀": r"\emptyset ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "∖": r"\setminus ", "°": r"^\circ ", "º": r"^\circ ",
    "℃": r"^\circ C", "℉": r"^\circ F", "∠": r"\angle ", "△": r"\triangle ", "⇒": r"\Rightarrow ",
    "→": r"\to ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    "⌈": r"\lceil ", "⌉": r"\rceil ", "’": "'", "‘": "'", "′": "'", "“": '"', "”": '"',
    "\u2061": "", "\u2062": "", "\u200b": "", "\ufeff": "", "£": r"\pounds ", "€": r"\euro ",
    "¥": r"\yen ", "₹": r"\rupee ", "¢": r"\cent ",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_ROOTS = {"√": "", "∛": "[3]", "∜": "[4]"}

# Styles of mathematics say nothing; those of text say that what they hold are words.
_MATH_STYLES = (
    "mathbf|boldsymbol|bm|pmb|mathnormal|mathsf|mathtt|underline|ensuremath|boxed|fbox|mathord"
)
_TEXT_STYLES = (
    "text|textbf|textit|textrm|textsf|texttt|textsc|textnormal|textup|emph|mbox|hbox|mathrm|mathit"
)
_SIZES = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|tiny|small|normalsize|large|Large|LARGE|huge"
    r"|Huge|bf|rm|it|boldmath|color\s*\{\w*\})(?![a-zA-Z])"
    r"|\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\.?"
)
_SPACES = re.compile(
    r"(?:(?<!\\)\\[,;:>\s]|~|\\(?:thinspace|medspace|thickspace|enspace|quad|qquad|nobreakspace|space)"
    r"(?![a-zA-Z])|\\(?:hspace|vspace|phantom|hphantom)\*?\s*\{[^{}]*\}|\s)+"
)
_COMMANDS = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\varnothing": r"\emptyset",
    r"\leqslant": r"\le", r"\leqq": r"\le", r"\leq": r"\le", r"\lt": "<", r"\geqslant": r"\ge",
    r"\geqq": r"\ge", r"\geq": r"\ge", r"\gt": ">", r"\neq": r"\ne", r"\degree": r"^\circ",
    r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\lparen": "(",
    r"\rparen": ")", r"\simeq": r"\approx", r"\dots": r"\ldots", r"\cdots": r"\ldots",
    r"\colon": ":", r"\implies": r"\Rightarrow", r"\iff": r"\Leftrightarrow",
    r"\longrightarrow": r"\to", r"\rightarrow": r"\to", r"\backslash": r"\setminus",
    r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\mid": "|", r"\infin": r"\infty",
    r"\ast": "*", r"\minus": "-", r"\plus": "+", r"\percent": r"\%", r"\R": r"\mathbb{R}",
    r"\N": r"\mathbb{N}", r"\Z": r"\mathbb{Z}", r"\Q": r"\mathbb{Q}", r"\Reals": r"\mathbb{R}",
    r"\langle": "(", r"\rangle": ")", r"\comma": ",", r"\nobreak": "", r"\sim": r"\approx",
}  # fmt: skip
_NUMBER = r"\d+(?:\.\d+)?"
_FUNCTIONS = r"sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp|det|gcd|lcm|max|min|mod"


def clean(text: str) -> str:
    """An answer as plain LaTeX: styles, sizes, spaces and separators of digits are gone."""
    for step in (
        ascii_only,
        without_delimiters,
        plain_commands,
        plain_spaces,
        without_styles,
        plain_spaces,
        plain_numbers,
        plain_notation,
        without_punctuation,
        without_outer_braces,
    ):
        text = step(text)
    return text


def squeezed(text: str) -> str:
    """The text without spaces, but for those between two numbers."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def ascii_only(text: str) -> str:
    """Unicode's mathematics as LaTeX: ``√2`` is ``\\sqrt{2}``, ``½`` is ``\\frac{1}{2}``."""
    text = re.sub("([³⁴])√", lambda m: "∛" if m[1] == "³" else "∜", text)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    text = re.sub(r"[₀-₉]+", lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
    text = "".join(map(_ascii, text))
    return re.sub(
        rf"([√∛∜])\s*({_NUMBER}|\\?[a-zA-Z]+|(?=[{{(]))",
        lambda m: rf"\sqrt{_ROOTS[m[1]]}" + (f"{{{m[2]}}}" if m[2] else ""),
        text,
    )


def _ascii(character: str) -> str:
    if character.isascii() or character in _ROOTS:
        return character
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    if character.isspace():
        return " "
    plain = unicodedata.normalize("NFKC", character)
    if (digit := unicodedata.digit(character, None)) is not None:
        return str(digit)
    if "\u2044" in plain:
        above, below = plain.split("\u2044")
        return rf" \frac{{{above}}}{{{below}}}"
    return plain


def without_delimiters(text: str) -> str:
    """Strip marks around mathematics: ``$…$``, ``\\(…\\)``, ``\\[…\\]``, Markdown's `` ` ``.

    ``\\$``, or a single ``$`` before a number, is the currency.
    """
    text = re.sub(r"\\[()\[\]](?!\d*(?:em|ex|pt|cm)\])|`", " ", text)
    text = re.sub(r"^\s*\*\*(.*)\*\*\s*$", r"\1", text, flags=re.DOTALL)
    text = text.replace(r"\$", r"\dollar ")
    if len(re.findall(r"\$", text)) % 2:
        text = re.sub(r"\$(?=\s*[\d.])", r"\\dollar ", text, count=1)
    return text.replace("$", " ")


def plain_commands(text: str) -> str:
    """Commands that mean the same as another are that other; those for sizes are gone."""
    text = re.sub(r"\\\\(?=[a-zA-Z])", r"\\", text) if "matrix" not in text else text
    text = re.sub(r"\\\\\s*$", "", text)
    text = _SIZES.sub(" ", text)
    text = re.sub(r"\\textcolor\s*\{\w*\}", r"\\ensuremath", text)
    text = re.sub(r"\\operatorname\*?\s*\{\s*(" + _FUNCTIONS + r")\s*\}", r"\\\1 ", text)
    text = re.sub(r"\\mathbb ?([RNZQC])(?![a-zA-Z])", r"\\mathbb{\1}", text)
    return re.sub(r"\\[a-zA-Z]+", lambda m: _COMMANDS.get(m[0], m[0]), text)


def without_styles(text: str) -> str:
    """Contents of styles as they stand, letters of text styles within ``\\text{…}``."""
    text = unwrapped(text, _MATH_STYLES, lambda content: content)
    return unwrapped(text, _TEXT_STYLES, _words)


def unwrapped(text: str, commands: str, change: Callable[[str], str]) -> str:
    """The text with each ``\\command{content}`` replaced by ``change(content)``."""
    for match in reversed(list(re.finditer(rf"\\(?:{commands})\s*\{{", text))):
        end = closing(text, match.end() - 1)
        if end is None:
            continue
        content = change(text[match.end() : end])
        if match.start() and text[match.start() - 1] in "^_":
            content = f"{{{content}}}"
        text = text[: match.start()] + content + text[end + 1 :]
    return text


def closing(text: str, start: int) -> int | None:
    """Where the brace or bracket at ``start`` is closed, of its own kind; None if nowhere."""
    opener = text[start]
    closer = {"{": "}", "(": ")", "[": "]"}[opener]
    depth = 0
    for i in range(start, len(text)):
        if i and text[i - 1] == "\\" and opener == "{":
            continue
        depth += (text[i] == opener) - (text[i] == closer)
        if not depth:
            return i
    return None


def _words(content: str) -> str:
    """Words within ``\\text{…}``, one for a run of them; digits, signs and commands outside."""
    word = r"[a-zA-Z][a-zA-Z]*(?:['.-](?=[a-zA-Z])[a-zA-Z]+)*"
    pieces = re.compile(
        rf"(\\(?:[a-zA-Z]+|.)(?:\{{[^{{}}]*\}})*)|(\b(?:and|or)\b|{word}(?:\s+(?!(?:and|or)\b){word})*)"
    )
    marked = pieces.sub(lambda m: m[1] or rf"\text{{{m[2]}}}", content)
    return f" {marked} " if content[:1].isspace() or content[-1:].isspace() else marked


def plain_spaces(text: str) -> str:
    """Spaces of any width are one space, those of negative width none."""
    text = re.sub(r"\\!|\\/|\\negthinspace(?![a-zA-Z])|\{\s*\}(?=\d)", "", text)
    return _SPACES.sub(" ", text).strip()


def plain_numbers(text: str) -> str:
    """Numbers without separators: ``12\\,345``, ``12{,}345`` and ``12,345`` are 12345.

    A comma counts as a separator only where all commas of the text may, and nothing is in brackets:
    ``1,000`` is a number, ``(1,000)`` a pair. ``1.000,5`` and ``3{,}14`` have decimal commas.
    """
    text = re.sub(r"(?<![\d.])(\d{1,3}(?:\s*\{,\}\s*\d{3})+)(?!\d)", _joined, text)
    text = re.sub(r"(?<=\d)\{[,.]\}(?=\d)", ".", text)
    text = re.sub(r"(?<![\d.,])(\d{1,3}(?: \d{3})+),(?=\d+(?![\d,]))", r"\1.", text)
    text = re.sub(r"(?<![\d.])(\d{1,3}(?: \d{3})+)(?![\d/]| /)", _joined, text)
    text = re.sub(r"(?<=\.)(\d{3}(?: \d{3})*(?: \d{1,3}))(?![\d/])", _joined, text)
    if re.fullmatch(r"[^\d,.]*\d{1,3}(?:\.\d{3})+,\d+[^\d,.]*", text):
        text = text.replace(".", "").replace(",", ".")
    if re.fullmatch(r"[^\d.]*\d{1,3}(?:\.\d{3}){2,}[^\d.]*", text):
        text = text.replace(".", "")
    if re.fullmatch(r"[^\d,.()\[\]{}]*0,\d+[^\d,.()\[\]{}]*", text):
        text = text.replace(",", ".")
    text = re.sub(r"(?<![\d.])(\d{1,3}(?:'\d{3})+)(?!\d)", _joined, text)
    grouped = r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!\d)|(?<![\d,.])\d{1,3}(?:, 000)+(?!\d)"
    if "," not in re.sub(grouped, "", text) and not re.match(r"\\\{|[(\[]", text):
        text = re.sub(grouped, _joined, text)
    return text


def _joined(match: re.Match[str]) -> str:
    return re.sub(r"[^\d.]", "", match[0])


def plain_notation(text: str) -> str:
    """Powers, roots, fractions and scientific notation as LaTeX writes them."""
    text = re.sub(r"(?<![\d.\w}])\.(?=\d)", "0.", text)
    text = re.sub(rf"(?<![\w.])({_NUMBER})[eE]([+-]?\d+)(?![\w.^])", r"\1\\times 10^{\2}", text)
    text = re.sub(rf"({_NUMBER}) ?[xX*] ?10 ?\^", r"\1\\times 10^", text)
    text = re.sub(
        rf"(?<![\w\\.]|[_^])({_NUMBER}) ?\((?! ?(?:\\text|[a-zA-Z]{{2}}))", r"\1\\cdot (", text
    )
    if "," not in text:
        text = re.sub(r"\) ?\((?=[-\d.]+\))", r")\\cdot (", text)
    text = re.sub(r"\*\*|\^ +", "^", text)
    text = re.sub(r"_ ?(\d)", r"_{\1}", text)
    text = re.sub(r"(\d)(?: ?\^ ?)?\{?(?:\\text\{)?(?:st|nd|rd|th)\}?\}?$", r"\1", text)
    text = re.sub(r"\^([+-]?\d+)", r"^{\1}", text)
    text = re.sub(r"\^\{\+(\d+)\}", r"^{\1}", text)
    text = re.sub(r"\\frac ?(\d) ?(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac ?(\d) ?\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac ?\{[^{}]*\}) ?(\d)", r"\1{\2}", text)
    text = re.sub(r"\\(?:d|t)?binom ?(\d) ?(\d)", r"\\binom{\1}{\2}", text)
    text = re.sub(r"\\sqrt ([\d])", r"\\sqrt{\1}", text)
    return _bracketed_roots(text)


def _bracketed_roots(text: str) -> str:
    """``sqrt(2)`` and ``\\sqrt(2)`` as ``\\sqrt{2}``."""
    for match in reversed(list(re.finditer(r"\\?(?<![a-zA-Z])sqrt ?([({])", text))):
        end = closing(text, match.end() - 1)
        if end is not None:
            content = text[match.end() : end]
            text = f"{text[: match.start()]}\\sqrt{{{content}}}{text[end + 1 :]}"
    return text


_LEADING = re.compile(
    r"""^(?: [:;,=&] | \#+(?=\ ) | \+(?!\ *$) | \\(?:approx|therefore|Rightarrow)(?![a-zA-Z])
    | (?:\\text\{)? (?:the\ )?(?:final\ )?(?:correct\ )?(?:answer|result|solution)
      (?: \ (?:is|equals)\}? | \}?(?=\ ?[:=]) )
    | (?:\\text\{[a-zA-Z ]{2,}\}|[a-zA-Z ]{2,}) ?:(?=\ *[\d\\(.$+-])
    | (?:\\text\{)? (?:approximately|approx|about|around|roughly|exactly|nearly|is|equals|thus|hence
      |so)\}?\.?(?=\ *[\d\\(.$+-]) )\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_INTRODUCTION = re.compile(
    r"\\text\{(?:(?:there|are|is|were|was|we|have|get|a|total|of|in|all|the|it|they|so|thus|hence"
    r"|therefore)[ },]+)+ ?(?=[-\d\\(.$])",
    re.IGNORECASE,
)
_REMARK = re.compile(r"\((?:\\text\{)?(?!(?:mod|base|not|or|and)\b)[a-zA-Z ]{3,}\}?\.?\)")
_MARKS = re.compile(r"\\(?:checkmark|blacksquare|square|qed|tag ?\*?\{[^{}]*\})(?![a-zA-Z])")


def without_punctuation(text: str) -> str:
    """Strip what introduces an answer, comments on it or ends its sentence; ``!`` stays."""
    before = None
    text = _MARKS.sub("", text)
    while text != before:
        before = text
        text = re.sub(r"(?:(?<!\\)[.,;:?\s]|\\[.;:]|\\\\)+$", "", text)
        shorter = _INTRODUCTION.sub("", _LEADING.sub("", text).strip(), count=1)
        shorter = re.sub(rf"^{_REMARK.pattern} ?|(?<=[\d}}]) ?{_REMARK.pattern}$", "", shorter)
        text = shorter or text
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'*_":
            text = text[1:-1].strip()
    return text


def without_outer_braces(text: str) -> str:
    """``{5}`` is 5."""
    while text.startswith("{") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def split(text: str, separators: Iterable[str]) -> list[str]:
    """The parts between separators that stand outside all brackets and braces."""
    found = re.compile("|".join(sorted(separators, key=len, reverse=True)))
    parts, depth, start, i = [], 0, 0, 0
    while i < len(text):
        if depth == 0 and (match := found.match(text, i)):
            parts.append(text[start:i].strip())
            i = start = match.end()
            continue
        if text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth = max(depth - 1, 0)
        i += 2 if text[i] == "\\" and text[i + 1 : i + 2] not in ("{", "}") else 1
    return [*parts, text[start:].strip()]
