"""The Modelfile: how Ollama prompts the model, so that it sees what vLLM would show it.

Ollama's templates are Go's, the base's is Jinja's. They are not translated but observed: the
base's template is rendered with markers in the place of messages, and what stands between the
markers becomes the template. A test compares its tokens with vLLM's.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from jinja2 import TemplateError

from narrowcast.errors import JobFailed
from narrowcast.prompts import completion_messages, prompt_messages

_MARKERS: Final = ("NARROWCAST-SYSTEM", "NARROWCAST-USER", "NARROWCAST-ANSWER", "NARROWCAST-NEXT")
_LONGEST_CONTEXT: Final = 8192
"""Tokens; Ollama reserves memory for all of them when it loads the model, and its own default is 4096."""


@dataclass(frozen=True)
class ChatFormat:
    """What a base's chat template puts around messages."""

    before_system: str
    after_system: str
    after_user: str
    """Ends where the model takes over."""
    before_answer: str = ""
    """What an answer of an earlier turn has before it, and the model is not prompted with."""
    after_answer: str = ""
    """Up to the next question; empty if the template takes no second one."""

    def prompt(self, system: str, user: str) -> str:
        """Return what Ollama makes of a system and a user message."""
        return f"{self.before_system}{system}{self.after_system}{user}{self.after_user}"

    def go_template(self) -> str:
        """Return Ollama's template. A system message is always there: the Modelfile has one."""
        return (
            '{{ range .Messages }}{{ if eq .Role "system" }}'
            f"{_text(self.before_system)}{{{{ .Content }}}}{_text(self.after_system)}"
            '{{ else if eq .Role "user" }}{{ .Content }}'
            f"{_text(self.after_user)}"
            '{{ else if eq .Role "assistant" }}'
            f"{_text(self.before_answer)}{{{{ .Content }}}}{_text(self.after_answer)}"
            "{{ end }}{{ end }}"
        )


def chat_format(tokenizer: Any) -> ChatFormat:
    """Return what the tokenizer's chat template puts around messages.

    A beginning-of-text token that the tokenizer puts before every text is left out: llama.cpp does
    as the tokenizer, and would put a second one.

    Args:
        tokenizer: the base's, with its chat template.

    Raises:
        JobFailed: ``chat_template_not_portable``: it changes messages, or what it writes depends on them.
    """
    system, user, answer, following = _MARKERS
    question = prompt_messages(system, user)
    before_system, after_system, after_user = _between(_render(tokenizer, question), system, user)
    found = ChatFormat(before_system, after_system, after_user)
    # It may take no second question; reports need one.
    with suppress(TemplateError, JobFailed):
        dialogue = [*question, *completion_messages(answer), *prompt_messages("", following)[1:]]
        before, after, _ = _between(_render(tokenizer, dialogue), answer, following)
        prompted = found.prompt(system, user)
        if before.startswith(prompted):
            found = replace(found, before_answer=before.removeprefix(prompted), after_answer=after)
    other = ("Составь «описание».", "1) Норма;\n2) киста 5 мм.")
    if found.prompt(*other) != _render(tokenizer, prompt_messages(*other)):
        raise _not_portable()
    if tokenizer.bos_token and tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id:
        return replace(found, before_system=before_system.removeprefix(tokenizer.bos_token))
    return found


def modelfile(
    gguf: str,
    chat: ChatFormat,
    *,
    instruction: str,
    stops: list[str],
    context: int,
    adapter: str | None = None,
) -> str:
    """Return a Modelfile for ``ollama create``.

    Args:
        gguf: file name of the model, or of the base if ``adapter`` is given.
        chat: the base's.
        instruction: the system message of requests that bring none.
        stops: texts at which the answer ends.
        context: tokens that the base was made for.
        adapter: file name of a LoRA to be put onto it.
    """
    lines = [f"FROM ./{gguf}"]
    if adapter:
        lines.append(f"ADAPTER ./{adapter}")
    lines += [f"TEMPLATE {_quoted(chat.go_template())}", f"SYSTEM {_quoted(instruction)}"]
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    # Greedy and without a penalty for repetition, as reports are drafted: a report repeats itself rightly.
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    lines.append(f"PARAMETER num_ctx {min(context, _LONGEST_CONTEXT)}")
    return "\n".join(lines) + "\n"


def _render(tokenizer: Any, messages: list[Any]) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _between(text: str, first: str, second: str) -> tuple[str, str, str]:
    before, found, rest = text.partition(first)
    between, found_too, after = rest.partition(second)
    if not found or not found_too:
        raise _not_portable()
    return before, between, after


def _not_portable() -> JobFailed:
    return JobFailed(
        "the base's chat template cannot be written as Ollama's: it changes the messages",
        code="chat_template_not_portable",
    )


def _text(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    if '"""' in text:
        raise _not_portable()
    return f'"""{text}"""'
