"""Training files of users: JSON Lines or a JSON array, our rows or OpenAI's chats."""

import json
import unicodedata
from typing import Any

from pydantic import ValidationError

from narrowcast.datasets import Row
from narrowcast.errors import InvalidInput

_ROLES = ["system", "user", "assistant"]
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls", "functions", "tool_calls", "function_call")
_INVISIBLE = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Blanks that Unicode has among letters and symbols."""


def parse_rows(data: bytes) -> list[Row]:
    """Return the file's rows.

    Raises:
        InvalidInput: code ``invalid_training_file`` or ``empty_output``; ``param`` names the line or row.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _invalid("the file is not UTF-8 text") from None
    entries = _array(text) if text.lstrip().startswith("[") else _lines(text)
    if not entries:
        raise _invalid("the file has no rows", code="empty_training_file")
    return [_row(entry, place) for place, entry in entries]


def _array(text: str) -> list[tuple[str, Any]]:
    try:
        array = json.loads(text)
    except (ValueError, RecursionError):
        raise _invalid("the file is not valid JSON") from None
    return [(f"row {number}", entry) for number, entry in enumerate(array, start=1)]


def _lines(text: str) -> list[tuple[str, Any]]:
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entries.append((f"line {number}", json.loads(line)))
        except (ValueError, RecursionError):
            raise _invalid(f"line {number} is not valid JSON", param=f"line {number}") from None
    return entries


def _row(entry: Any, place: str) -> Row:
    if not isinstance(entry, dict):
        raise _invalid(f"{place} is no object", param=place)
    if "messages" in entry:
        _refuse_tools(entry, place)
        entry = _from_chat(entry["messages"], place)
    try:
        row = Row.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        # What is no text, or not there at all, is not an empty text.
        code = "empty_output" if field == "output" and first["type"] == "string_too_short" else None
        raise _invalid(f"{place}: {field}: {first['msg']}", param=place, code=code) from None
    for field in ("instruction", "input", "output"):
        if _is_blank(getattr(row, field)):
            code = "empty_output" if field == "output" else None
            raise _invalid(f"{place}: {field} is empty", param=place, code=code)
    return row.model_copy(update={"document": None})


def _is_blank(text: str) -> bool:
    """Whether nothing of it is seen: spaces, controls, format characters such as U+200B, lone marks."""
    return all(unicodedata.category(char)[0] in "CMZ" or char in _INVISIBLE for char in text)


def _refuse_tools(holder: dict[str, Any], place: str) -> None:
    for name in _TOOLS:
        if holder.get(name):
            raise _invalid(f"{place}: {name} cannot be trained with here; leave the row out", param=place)


def _from_chat(messages: Any, place: str) -> dict[str, Any]:
    well_formed = isinstance(messages, list) and all(isinstance(message, dict) for message in messages)
    if not well_formed or [message.get("role") for message in messages] != _ROLES:
        # One prompt for training and serving: other chats would train what /v1/reports never sends.
        raise _invalid(
            f"{place}: messages must be one system, one user and one assistant message", param=place
        )
    for message in messages:
        _refuse_tools(message, place)
    weight = messages[-1].get("weight", 1)
    if weight != 1 or isinstance(weight, bool):
        raise _invalid(
            f"{place}: the assistant's message has a weight other than 1; leave the row out, or the weight",
            param=place,
        )
    contents = [message.get("content") for message in messages]
    return dict(zip(("instruction", "input", "output"), contents, strict=True))


def _invalid(message: str, *, code: str | None = None, param: str = "file") -> InvalidInput:
    return InvalidInput(message, code=code or "invalid_training_file", param=param)
