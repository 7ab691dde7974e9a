"""The Modelfile: how Ollama prompts the model, so that it sees what vLLM would show it.

Ollama's templates are Go's, the base's is Jinja's. They are not translated but observed: the
base's template is rendered with markers in the place of messages, and what stands between the
markers becomes the template. A test compares its tokens with vLLM's.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from jinja2 import TemplateError

from narrowcast.errors import JobFailed
from narrowcast.prompts import CHAT_TEMPLATE_KWARGS, Message, completion_messages, prompt_messages

_SYSTEM: Final = "NARROWCAST-SYSTEM"
_USER: Final = "NARROWCAST-USER"
_ANSWER: Final = "NARROWCAST-ANSWER"
_NEXT: Final = "NARROWCAST-NEXT"
_MARKERS: Final = re.compile(f"({_SYSTEM}|{_USER}|{_ANSWER}|{_NEXT})")
_SAMPLE: Final = ("1) Норма;\n2) киста 5 мм.", "Кисты «нет».", "А рядом?", "Да.", "Где?")
"""Questions and answers in turn, to see whether what was found holds for other texts."""
_LONGEST_CONTEXT: Final = 8192
"""Tokens; Ollama reserves memory for all of them when it loads the model, and its own default is 4096."""
_LEFT: Final = "(len (slice $.Messages $i))"
"""How many messages are left in Ollama's loop, this one among them."""


@dataclass(frozen=True)
class Turns:
    """What a base's chat template puts around the turns before the last question."""

    before_answer: str
    """Between a question and its answer."""
    after_answer: str
    """Up to the next question, or to the system message that stands before it."""
    system_late: bool
    """Whether the system message stands before the last question, not before the first."""


@dataclass(frozen=True)
class ChatFormat:
    """What a base's chat template puts around messages."""

    before_system: str
    after_system: str
    after_user: str
    """Ends where the model takes over."""
    turns: Turns | None = None
    """None: it takes no second question, or writes one in another way. The model sees the last one alone."""

    def prompt(self, system: str, *messages: str) -> str:
        """Return what Ollama makes of a system message and of questions and answers in turn."""
        *earlier, question = messages
        told = f"{system}{self.after_system}"
        if self.turns is not None:
            after = (self.turns.before_answer, self.turns.after_answer)
            dialogue = "".join(text + after[number % 2] for number, text in enumerate(earlier))
            told = f"{dialogue}{told}" if self.turns.system_late else f"{told}{dialogue}"
        return f"{self.before_system}{told}{question}{self.after_user}"

    def go_template(self) -> str:
        """Return Ollama's template. A system message is always there: the Modelfile has one."""
        before, after, end = _text(self.before_system), _text(self.after_system), _text(self.after_user)
        early, late = "{{ .Content }}" + after, "{{ $.System }}" + after
        if self.turns is None:
            # One of the last two messages is the last question: Ollama joins those of the same role.
            where = f'and (eq .Role "user") (le {_LEFT} 2)'
            loop = f"{{{{ if {where} }}}}{before}{late}{{{{ .Content }}}}{end}"
        else:
            early, late = ("", _at_last(late, "")) if self.turns.system_late else (early, "")
            loop = (
                f'{{{{ if eq .Role "system" }}}}{before}{early}'
                f'{{{{ else if eq .Role "user" }}}}{late}{{{{ .Content }}}}'
                f"{_at_last(end, _text(self.turns.before_answer))}"
                f'{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{_text(self.turns.after_answer)}'
            )
        numbered = "$i, $_ := " if _LEFT in loop else ""
        return f"{{{{ range {numbered}.Messages }}}}{loop}{{{{ end }}}}{{{{ end }}}}"


def chat_format(tokenizer: Any) -> ChatFormat:
    """Return what the tokenizer's chat template puts around messages.

    A beginning-of-text token that the tokenizer puts before every text is left out: llama.cpp does
    as the tokenizer, and would put a second one.

    Args:
        tokenizer: the base's, with its chat template.

    Raises:
        JobFailed: ``chat_template_not_portable``: it changes messages, or what it writes depends on them.
    """
    try:
        found = _one_question(_render(tokenizer, _SYSTEM, _USER))
        if not _holds(found, tokenizer, 1):
            raise _not_portable()
    except TemplateError:  # its text is the template's own
        raise _not_portable() from None
    # It may take no second question; reports need one.
    with suppress(TemplateError):
        dialogue = replace(found, turns=_turns(_render(tokenizer, _SYSTEM, _USER, _ANSWER, _NEXT)))
        if _holds(dialogue, tokenizer, 3) and _holds(dialogue, tokenizer, 5):
            found = dialogue
    if tokenizer.bos_token and tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id:
        return replace(found, before_system=found.before_system.removeprefix(tokenizer.bos_token))
    return found


def modelfile(
    gguf: str,
    chat: ChatFormat,
    *,
    instruction: str,
    stops: list[str],
    context: int | None,
    adapter: str | None = None,
) -> str:
    """Return a Modelfile for ``ollama create``.

    Args:
        gguf: file name of the model, or of the base if ``adapter`` is given.
        chat: the base's.
        instruction: the system message of requests that bring none.
        stops: texts at which the answer ends.
        context: tokens that the base was made for; None if it does not say.
        adapter: file name of a LoRA to be put onto it.

    Raises:
        JobFailed: ``chat_template_not_portable``: a text that a Modelfile cannot hold.
    """
    lines = [f"FROM ./{gguf}"]
    if adapter:
        lines.append(f"ADAPTER ./{adapter}")
    lines += [f"TEMPLATE {_quoted(chat.go_template())}", f"SYSTEM {_quoted(instruction)}"]
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    # Greedy and without a penalty for repetition, as reports are drafted: a report repeats itself rightly.
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    lines.append(f"PARAMETER num_ctx {min(context or _LONGEST_CONTEXT, _LONGEST_CONTEXT)}")
    return "\n".join(lines) + "\n"


def _render(tokenizer: Any, system: str, *messages: str) -> str:
    question, *more = messages
    chat: list[Message] = prompt_messages(system, question)
    for number, text in enumerate(more):
        chat += prompt_messages("", text)[1:] if number % 2 else completion_messages(text)
    rendered = tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True, **CHAT_TEMPLATE_KWARGS
    )
    return str(rendered)


def _holds(found: ChatFormat, tokenizer: Any, messages: int) -> bool:
    """Return whether the format makes of other messages what the template itself does."""
    chat = ("Составь «описание».", *_SAMPLE[:messages])
    return found.prompt(*chat) == _render(tokenizer, *chat)


def _one_question(rendered: str) -> ChatFormat:
    texts, markers = _taken_apart(rendered)
    if markers != [_SYSTEM, _USER]:
        raise _not_portable()
    before_system, after_system, after_user = texts
    return ChatFormat(before_system, after_system, after_user)


def _turns(rendered: str) -> Turns | None:
    texts, markers = _taken_apart(rendered)
    if markers == [_SYSTEM, _USER, _ANSWER, _NEXT]:
        return Turns(texts[2], texts[3], system_late=False)
    if markers == [_USER, _ANSWER, _SYSTEM, _NEXT]:  # Mistral-Nemo's
        return Turns(texts[1], texts[2], system_late=True)
    return None


def _taken_apart(rendered: str) -> tuple[list[str], list[str]]:
    parts = _MARKERS.split(rendered)
    return parts[::2], parts[1::2]


def _not_portable(why: str = "it changes the messages, or refuses a system message") -> JobFailed:
    return JobFailed(
        f"the base's chat template cannot be written as Ollama's: {why}", code="chat_template_not_portable"
    )


def _at_last(last: str, earlier: str) -> str:
    if last == earlier:
        return last
    other = f"{{{{ else }}}}{earlier}" if earlier else ""
    return f"{{{{ if eq {_LEFT} 1 }}}}{last}{other}{{{{ end }}}}"


def _text(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    if '"""' in text:
        raise JobFailed(
            'a Modelfile cannot hold """, which the base\'s chat template or the adapter\'s instruction has',
            code="chat_template_not_portable",
        )
    return f'"""{text}"""'
