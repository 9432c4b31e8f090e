"""Whether a delivered group can be what it claims to be."""

from asyncds.protocol.codec import GroupArrays, ProtocolError, unpack_group
from asyncds.protocol.wire import Group


def checked_group(
    group: Group,
    *,
    least: int,
    most: int,
    answers: set[str],
    vocab_size: int | None,
    only_version: int | None,
    newest_version: int,
) -> GroupArrays:
    """The arrays of a group. Raises ProtocolError with what is wrong.

    least, most: how many completions it may have. answers: names of the equivalences that it must
    have answers under. vocab_size: no token id may be as large; None while it is not known.
    only_version: what every token of an evaluation must be sampled by. newest_version: no weights
    beyond it were ever sent.
    """
    arrays = unpack_group(group)
    n = len(arrays.lengths)
    if not least <= n <= most:
        raise ProtocolError(f"{n} completions instead of {least} to {most}")
    if set(arrays.answers) != answers:
        raise ProtocolError(f"answers under {', '.join(arrays.answers)}, which it did not name")
    highest = int(max(arrays.completion_ids.max(), arrays.prompt_ids.max()))
    if vocab_size is not None and highest >= vocab_size:
        raise ProtocolError(f"token id {highest} outside the vocabulary of {vocab_size}")
    seen = set(arrays.versions.tolist())
    if only_version is not None and seen != {only_version}:
        raise ProtocolError(f"versions {seen} in an evaluation of {only_version}")
    newest = int(arrays.versions.max())
    if newest > newest_version:
        raise ProtocolError(f"weights {newest}, newer than any that were sent ({newest_version})")
    return arrays
