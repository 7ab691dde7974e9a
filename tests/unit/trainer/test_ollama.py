"""The Modelfile's template against the chat templates of the families that sites use."""

from pathlib import Path
from typing import Any

import pytest

from narrowcast.errors import JobFailed
from narrowcast.prompts import completion_messages, prompt_messages
from narrowcast_trainer.export.ollama import chat_format, modelfile

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
ONE_TURN = (
    "{% if messages | length > 2 %}{{ raise_exception('one question, please') }}{% endif %}"
    "### {{ messages[0].content }}\n{{ messages[1].content }}\n### Ответ: {{ '{{' }}"
)
CHANGES_TEXT = "{% for message in messages %}{{ message.content | replace('«', '\"') }}|{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"


@pytest.fixture(scope="module")
def tokenizer(base_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_model)


def rendered(tokenizer: Any, messages: list[Any]) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("template", [None, LLAMA3, MISTRAL, ONE_TURN])
def test_a_prompt_is_what_the_base_s_own_template_makes(
    tokenizer: Any, template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if template is not None:
        monkeypatch.setattr(tokenizer, "chat_template", template)
    question = prompt_messages("Составь «описание».", "Киста 5 мм;\nнорма.")
    chat = chat_format(tokenizer)
    assert chat.prompt(*(message["content"] for message in question)) == rendered(tokenizer, question)
    if template != ONE_TURN:
        more = [*completion_messages("Ответ."), *prompt_messages("", "И ещё?")[1:]]
        dialogue = (
            chat.prompt(question[0]["content"], question[1]["content"])
            + f"{chat.before_answer}Ответ.{chat.after_answer}И ещё?{chat.after_user}"
        )
        assert dialogue == rendered(tokenizer, [*question, *more])


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


@pytest.mark.parametrize("template", [CHANGES_TEXT, "{{ messages[1].content }}"])
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
    assert '### Ответ: {{ "{{" }}{{ else' in chat_format(tokenizer).go_template(), "Go reads braces"
