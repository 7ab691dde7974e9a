"""Training files of users: JSON Lines or a JSON array, our rows or OpenAI's chats."""

import json
from typing import Any

from pydantic import ValidationError

from narrowcast.datasets import Row
from narrowcast.errors import InvalidInput

_ROLES = ["system", "user", "assistant"]


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
    if isinstance(entry, dict) and "messages" in entry:
        entry = _from_chat(entry["messages"], place)
    try:
        row = Row.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "row"
        # What is no text, or not there at all, is not an empty text.
        code = "empty_output" if field == "output" and first["type"] == "string_too_short" else None
        raise _invalid(f"{place}: {field}: {first['msg']}", param=place, code=code) from None
    for field in ("instruction", "input", "output"):
        if not getattr(row, field).strip():
            code = "empty_output" if field == "output" else None
            raise _invalid(f"{place}: {field} is empty", param=place, code=code)
    return row.model_copy(update={"document": None})


def _from_chat(messages: Any, place: str) -> dict[str, Any]:
    well_formed = isinstance(messages, list) and all(isinstance(message, dict) for message in messages)
    if not well_formed or [message.get("role") for message in messages] != _ROLES:
        # One prompt for training and serving: other chats would train what /v1/reports never sends.
        raise _invalid(
            f"{place}: messages must be one system, one user and one assistant message", param=place
        )
    if messages[-1].get("weight", 1) != 1:
        raise _invalid(
            f"{place}: the assistant's message has a weight other than 1; leave the row out, or the weight",
            param=place,
        )
    contents = [message.get("content") for message in messages]
    return dict(zip(("instruction", "input", "output"), contents, strict=True))


def _invalid(message: str, *, code: str | None = None, param: str = "file") -> InvalidInput:
    return InvalidInput(message, code=code or "invalid_training_file", param=param)
