"""Calls of tools, in the forms in which models write them.

============  ==========================================================================
Hermes, Qwen  ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, any number of them
Llama 3       the whole completion is ``{"name": …, "parameters": {…}}``
Mistral       the whole completion is ``[{"name": …, "arguments": {…}}, …]``
============  ==========================================================================

Control tokens, such as Mistral's ``[TOOL_CALLS]``, are no part of a completion's text.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


class ToolCallError(ValueError):
    """A call that can't be read; the message can be told to the model."""


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool by its name."""

    name: str
    arguments: dict[str, Any]


def tool_calls(completion: str) -> list[ToolCall]:
    """The calls in a completion, in order; [] where there are none. Raises ToolCallError."""
    if tagged := _TAGGED.findall(completion):
        return [_call(_json(text)) for text in tagged]
    text = completion.strip()
    if not text.startswith(("{", "[")):
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []  # an answer that begins with a bracket
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        return []
    return [_call(call) for call in calls]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ToolCallError(f"the tool call is no JSON: {error}") from None


def _call(found: Any) -> ToolCall:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise ToolCallError("a tool call has a name and arguments")
    arguments = found.get("arguments", found.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if not isinstance(arguments, dict):
        raise ToolCallError("the arguments of a tool call are an object")
    return ToolCall(found["name"], arguments)
