"""Groups and shards for tests of the control plane: hypothesis strategies, and a plain maker."""

import numpy as np
from hypothesis import strategies as st

from asyncds.protocol.codec import GroupArrays
from asyncds.protocol.spans import given_spans


def make_group(
    *,
    n: int = 2,
    versions: tuple[int, ...] = (0,),
    correct: tuple[bool, ...] = (),
    prompt: tuple[int, ...] = (1, 2),
    length: int = 3,
    token: int = 5,
) -> GroupArrays:
    """n completions of `length` tokens; the versions are spread over the tokens in order."""
    tokens = n * length
    right = np.array([bool(c) for c in correct] or [False] * n)
    return GroupArrays(
        prompt_ids=np.array(prompt, dtype=np.int32),
        lengths=np.full(n, length, dtype=np.int32),
        completion_ids=np.full(tokens, token, dtype=np.int32),
        logprobs=np.full(tokens, -0.5, dtype=np.float32),
        versions=np.array(
            [versions[i * len(versions) // tokens] for i in range(tokens)], dtype=np.int32
        ),
        rewards=right.astype(np.float32),
        correct=right,
        finished=np.ones(n, dtype=bool),
        answers={"written": ["4" if c else "" for c in right]},
    )


def sampled_masks(length: int) -> st.SearchStrategy[np.ndarray]:
    """Which tokens of a completion were sampled: all, or any but none."""
    some = st.lists(st.booleans(), min_size=length, max_size=length).filter(any)
    return (st.just([True] * length) | some).map(lambda mask: np.array(mask, dtype=np.bool_))


@st.composite
def group_arrays(draw: st.DrawFn) -> GroupArrays:
    """Any valid group."""
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    n, tokens = len(lengths), sum(lengths)
    sampled = np.concatenate([draw(sampled_masks(length)) for length in lengths])
    s = int(sampled.sum())
    number = st.integers(0, 2**31 - 1)

    def flat(elements: st.SearchStrategy, size: int, dtype: type) -> np.ndarray:
        return np.array(draw(st.lists(elements, min_size=size, max_size=size)), dtype=dtype)

    return GroupArrays(
        prompt_ids=np.array(draw(st.lists(number, min_size=1, max_size=5)), dtype=np.int32),
        lengths=np.array(lengths, dtype=np.int32),
        completion_ids=flat(number, tokens, np.int32),
        logprobs=flat(st.floats(-(2.0**99), 0, width=32), s, np.float32),
        # Few values, so that runs of equal versions occur.
        versions=flat(st.sampled_from([0, 1, 7, 2**31 - 1]), s, np.int32),
        rewards=flat(st.floats(-10, 10, width=32), n, np.float32),
        correct=flat(st.booleans(), n, np.bool_),
        finished=flat(st.booleans(), n, np.bool_),
        reasons=draw(st.lists(st.sampled_from(["", "turns", "timeout"]), min_size=n, max_size=n)),
        answers={
            name: draw(st.lists(st.text(max_size=5), min_size=n, max_size=n))
            for name in draw(st.lists(st.text(max_size=5), min_size=1, max_size=3, unique=True))
        },
        parts={
            name: flat(st.floats(-10, 10, width=32), n, np.float32)
            for name in draw(st.sampled_from([(), ("exact",), ("exact", "format-2")]))
        },
        given=given_spans(sampled),
    )
