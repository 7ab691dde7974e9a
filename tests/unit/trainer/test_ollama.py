"""The Modelfile's template against the chat templates of the families that sites use."""

from pathlib import Path
from typing import Any

import pytest

from narrowcast.errors import JobFailed
from narrowcast.prompts import completion_messages, prompt_messages
from narrowcast_trainer.export.ollama import chat_format, modelfile

from .go_templates import rendered as go_rendered

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set system = messages[0].content %}{% for message in messages[1:] %}"
    "{% if message.role == 'user' %}[INST] {% if loop.first %}{{ system }}\n\n{% endif %}{{ message.content }}[/INST]"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
NEMO = (
    "{{ bos_token }}{% set system = messages[0].content %}{% for message in messages[1:] %}"
    "{% if message.role == 'user' %}[INST]{% if loop.last %}{{ system }}\n\n{% endif %}{{ message.content }}[/INST]"
    "{% else %}{{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""The system message is in the last question."""
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if loop.last and message.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Qwen3's: what is trained has an empty block of thoughts before the answer, earlier answers have none."""
ONE_TURN = (
    "{% if messages | length > 2 %}{{ raise_exception('one question, please') }}{% endif %}"
    "### {{ messages[0].content }}\n{{ messages[1].content }}\n### Ответ: {{ '{{' }}"
)
COUNTED = "{{ messages[0].content }}{% for message in messages[1:] %}\n{{ loop.index }}. {{ message.content }}{% endfor %}"
"""A dialogue that no template of Ollama's could follow."""
CHANGES_TEXT = "{% for message in messages %}{{ message.content | replace('«', '\"') }}|{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"


@pytest.fixture(scope="module")
def tokenizer(base_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_model)


CHAT = ("Составь «описание».", "Киста 5 мм;\nнорма.", "Ответ.", "И ещё?", "Нет.", "{{ Где? }}")
"""A system message, then questions and answers in turn."""


def rendered(tokenizer: Any, system: str, *chat: str) -> str:
    """Return what the base's own template makes of it, asked as trainer and vLLM ask it."""
    messages = prompt_messages(system, chat[0])
    for number, text in enumerate(chat[1:]):
        messages += prompt_messages("", text)[1:] if number % 2 else completion_messages(text)
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    )


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("template", [None, LLAMA3, MISTRAL, NEMO, THINKING])
def test_a_prompt_is_what_the_base_s_own_template_makes(
    tokenizer: Any, template: str | None, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if template is not None:
        monkeypatch.setattr(tokenizer, "chat_template", template)
    found = chat_format(tokenizer)
    chat = CHAT[: 2 * turns]
    assert go_rendered(found.go_template(), *chat) == found.prompt(*chat) == rendered(tokenizer, *chat)


@pytest.mark.parametrize("template", [ONE_TURN, COUNTED])
def test_without_a_dialogue_the_last_question_is_asked_alone(
    tokenizer: Any, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    found = chat_format(tokenizer)
    for turns in (1, 2, 3):
        system, *chat = CHAT[: 2 * turns]
        alone = rendered(tokenizer, system, chat[-1])
        assert go_rendered(found.go_template(), system, *chat) == found.prompt(system, *chat) == alone
    # An answer that the model is to go on with is none of the questions.
    assert go_rendered(found.go_template(), *CHAT[:3]) == rendered(tokenizer, *CHAT[:2])


def test_a_token_that_llama_cpp_adds_itself_is_left_out(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AddsBos:
        bos_token, bos_token_id = tokenizer.bos_token, tokenizer.bos_token_id
        apply_chat_template = tokenizer.apply_chat_template

        def __call__(self, _text: str) -> dict[str, list[int]]:
            return {"input_ids": [self.bos_token_id, 7]}

    monkeypatch.setattr(tokenizer, "chat_template", LLAMA3)
    assert chat_format(tokenizer).before_system.startswith(tokenizer.bos_token)
    assert chat_format(AddsBos()).before_system.startswith("<|start_header_id|>system")


@pytest.mark.parametrize("template", [CHANGES_TEXT, NO_SYSTEM, "{{ messages[1].content }}"])
def test_a_template_that_cannot_be_observed_is_refused(
    tokenizer: Any, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(JobFailed) as caught:
        chat_format(tokenizer)
    assert caught.value.code == "chat_template_not_portable"


def test_the_modelfile(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = modelfile(
        "model.gguf",
        chat_format(tokenizer),
        instruction="Опиши «МРТ».",
        stops=["<|im_end|>"],
        context=131_072,
    )
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """{{ range .Messages }}')
    assert 'SYSTEM """Опиши «МРТ»."""\nPARAMETER stop """<|im_end|>"""\n' in text
    assert "PARAMETER temperature 0\nPARAMETER repeat_penalty 1\nPARAMETER num_ctx 8192\n" in text
    monkeypatch.setattr(tokenizer, "chat_template", ONE_TURN)
    assert '### Ответ: {{ "{{" }}{{ end' in chat_format(tokenizer).go_template(), "Go reads braces"


def test_what_a_modelfile_cannot_hold(tokenizer: Any) -> None:
    chat = chat_format(tokenizer)
    with pytest.raises(JobFailed) as caught:
        modelfile("model.gguf", chat, instruction='Опиши """МРТ""".', stops=[], context=2048)
    assert (caught.value.code, "instruction" in caught.value.message) == ("chat_template_not_portable", True)
    assert "Опиши" not in caught.value.message
    unknown = modelfile("model.gguf", chat, instruction="Опиши.", stops=[], context=None)
    assert "PARAMETER num_ctx 8192\n" in unknown
