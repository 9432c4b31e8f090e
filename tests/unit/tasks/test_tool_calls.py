"""Calls of tools, in every form that is read, and what is none."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncds.tasks.tool_calls import ToolCall, ToolCallError, tool_calls

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
calls = st.builds(ToolCall, st.text(), st.dictionaries(st.text(), values, max_size=3))


def tagged(call: ToolCall) -> str:
    # A tag in an argument would end the call, whoever writes it.
    said = json.dumps({"name": call.name, "arguments": call.arguments}).replace("<", "\\u003c")
    return f"<tool_call>\n{said}\n</tool_call>"


@given(st.lists(calls, min_size=1, max_size=3), st.text(alphabet="abc \n"))
def test_hermes(wanted: list[ToolCall], before: str) -> None:
    assert tool_calls(before + "\n".join(map(tagged, wanted))) == wanted
    assert tool_calls((before + tagged(wanted[0])).removesuffix("</tool_call>")) == wanted[:1]


@given(calls)
def test_llama(call: ToolCall) -> None:
    assert tool_calls(json.dumps({"name": call.name, "parameters": call.arguments})) == [call]


@given(st.lists(calls, min_size=1, max_size=3))
def test_mistral(wanted: list[ToolCall]) -> None:
    said = [{"name": call.name, "arguments": call.arguments} for call in wanted]
    assert tool_calls(json.dumps(said)) == wanted
    as_text = [{"name": c.name, "arguments": json.dumps(c.arguments)} for c in wanted]
    assert tool_calls(json.dumps(as_text)) == wanted


@given(st.text())
def test_any_text_is_calls_or_none_or_a_sentence(text: str) -> None:
    with suppress(ToolCallError):
        assert all(isinstance(call, ToolCall) for call in tool_calls(text))


@pytest.mark.parametrize("text", ["42", "[1, 2]", "{x}", "", "{}", '{"answer": 42}', "[" * 100_000])
def test_an_answer_is_no_call(text: str) -> None:
    assert tool_calls(text) == []


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("{", "no JSON"),
        ("[1]", "a name and arguments"),
        ('{"name": 3}', "a name and arguments"),
        ('{"name": "f", "arguments": [1]}', "are an object"),
        ('{"name": "f", "arguments": "x"}', "no JSON"),
    ],
)
def test_what_can_not_be_read_is_told(said: str, sentence: str) -> None:
    with pytest.raises(ToolCallError, match=sentence):
        tool_calls(f"<tool_call>{said}</tool_call>")
