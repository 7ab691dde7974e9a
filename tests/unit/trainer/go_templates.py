"""As much of Go's text/template as Ollama's templates need, as Ollama executes them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_COMPARED = {
    "eq": lambda one, other: one == other,
    "le": lambda one, other: one <= other,
    "and": lambda one, other: one and other,
    "slice": lambda messages, start: messages[start:],
    "len": len,
}


@dataclass
class _Branch:
    condition: str
    content: list[Any] = field(default_factory=list)


@dataclass
class _Block:
    """An ``if`` with its ``else``, or a ``range``, which has one branch."""

    loop: bool
    branches: list[_Branch]


def rendered(template: str, system: str, *chat: str) -> str:
    """Return what a template makes of a system message and of questions and answers in turn."""
    roles = ["system", *(("user", "assistant")[number % 2] for number in range(len(chat)))]
    pairs = zip(roles, (system, *chat), strict=True)
    messages = [{".Role": role, ".Content": content} for role, content in pairs]
    content = _parsed(iter(re.split(r"(\{\{.*?\}\})", template, flags=re.DOTALL)))
    return _executed(content, {"$.System": system, ".Messages": messages, "$.Messages": messages})


def _parsed(parts: Iterator[str], block: _Block | None = None) -> list[Any]:
    content: list[Any] = [] if block is None else block.branches[0].content
    whole = content
    for part in parts:
        word, _, rest = part.removeprefix("{{ ").removesuffix(" }}").partition(" ")
        if not part.startswith("{{ "):
            content.append(part)
        elif word in {"range", "if"}:
            inner = _Block(word == "range", [_Branch(rest)])
            _parsed(parts, inner)
            content.append(inner)
        elif word == "else" and block is not None:
            block.branches.append(_Branch(rest.removeprefix("if ") or '"always"'))
            content = block.branches[-1].content
        elif word == "end" and block is not None:
            return whole
        else:
            content.append(_Branch(word))
    assert block is None, "no end"
    return whole


def _executed(content: list[Any], known: dict[str, Any]) -> str:
    text = ""
    for part in content:
        if isinstance(part, str):
            text += part
        elif isinstance(part, _Branch):
            text += _value(part.condition, known)
        elif part.loop:
            (body,) = part.branches
            assert body.condition in {".Messages", "$i, $_ := .Messages"}
            for number, message in enumerate(known[".Messages"]):
                text += _executed(body.content, known | {"$i": number} | message)
        else:
            taken = (branch for branch in part.branches if _value(branch.condition, known))
            text += _executed(next(taken, _Branch("")).content, known)
    return text


def _value(expression: str, known: dict[str, Any]) -> Any:
    words = iter(re.findall(r'[()]|"[^"]*"|[^\s()]+', expression))

    def operand(word: str) -> Any:
        if word == "(":
            return call()
        if word.startswith('"'):
            return word[1:-1]
        return int(word) if word.isdigit() else known[word]

    def call() -> Any:
        name = next(words)
        if name not in _COMPARED:
            return operand(name)
        arguments = []
        for word in words:
            if word == ")":
                break
            arguments.append(operand(word))
        return _COMPARED[name](*arguments)  # type: ignore[operator]

    return call()
