"""What is trained is exactly what will be asked: tokens, masks, refusals."""

import copy
from pathlib import Path
from typing import Any

import pytest

from narrowcast.datasets import Row
from narrowcast.errors import InvalidInput
from narrowcast.masking import special_ids, stop_ids
from narrowcast.prompts import completion_messages, instruction_for, prompt_messages
from narrowcast_trainer.data import IGNORED, Rows, pad_id, tokenize


@pytest.fixture(scope="module")
def tokenizer(base_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_model)


def _row(number: int = 1, output: str = "Мениск не изменён.\nСвязки целы.") -> Row:
    return Row(instruction=" Опиши. ", input=f"Случай {number}", output=output)


def _tokenize(tokenizer: Any, rows: list[Row], max_length: int = 512) -> Any:
    stops = stop_ids(tokenizer, None)
    return tokenize(rows, tokenizer, max_length=max_length, stop_ids=stops, split="train")


def test_tokens_are_the_chat_template_s_and_labels_mask_exactly_the_prompt(tokenizer: Any) -> None:
    rows = [_row(number) for number in range(3)]
    for row, example in zip(rows, _tokenize(tokenizer, rows), strict=True):
        prompt = prompt_messages(row.instruction, row.input)
        answer = completion_messages(row.output)
        asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(prompt + answer, return_dict=False)
        assert example.input_ids == whole
        assert whole[: len(asked)] == asked  # what vLLM makes of a request
        assert example.labels == [IGNORED] * len(asked) + whole[len(asked) :]
        assert tokenizer.eos_token_id in example.labels


THINKING = """
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if loop.last and message.role == "assistant" %}<think>

</think>{% endif %}{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>{% endif %}{% endif %}"""
"""As Qwen3's, but for the empty line after it, which this tokenizer cuts by what follows."""


def test_a_template_that_thinks_is_told_not_to(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", THINKING)
    (example,) = _tokenize(tokenizer, [_row()])
    trained = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label >= 0]
    assert tokenizer.decode(trained) == "Мениск не изменён.\nСвязки целы.<|im_end|>\n"


def test_a_template_whose_thoughts_would_be_trained_is_refused(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", THINKING.replace("enable_thinking", "some_other_name"))
    with pytest.raises(InvalidInput, match="before an answer") as refused:
        _tokenize(tokenizer, [_row()])
    assert refused.value.code == "invalid_base_model"


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        (["Опиши.", "Опиши.", "Опиши колено."], "Опиши."),
        (["Опиши снимок Иванова.", "Опиши снимок Петрова."], instruction_for(None)),
        (
            ["Опиши снимок Иванова."] * 2 + [f"Опиши снимок {number}." for number in range(99)],
            instruction_for(None),
        ),
    ],
)
def test_only_an_instruction_that_many_rows_share_is_published(
    instructions: list[str], expected: str
) -> None:
    rows = [Row(instruction=instruction, input="a", output="b") for instruction in instructions]
    assert Rows(rows, []).default_instruction == expected


def test_trl_makes_the_same_labels_of_the_same_row(tokenizer: Any) -> None:
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    row = _row()
    data = Dataset.from_list(
        [
            {
                "prompt": prompt_messages(row.instruction, row.input),
                "completion": completion_messages(row.output),
            }
        ]
    )
    trainer: Any = SFTTrainer.__new__(SFTTrainer)
    trainer.completion_only_loss = True
    trainer.chat_template = None
    trainer._is_vlm = False
    trainer._tokenizer = tokenizer
    config = SFTConfig(report_to="none", use_cpu=True, max_length=512)
    prepared = trainer._prepare_dataset(data, tokenizer, config, False, None, "train")[0]
    (example,) = _tokenize(tokenizer, [row])
    assert prepared["input_ids"] == example.input_ids
    assert prepared["labels"] == example.labels


def test_too_long_rows_are_counted_and_named_not_cut_and_not_quoted(tokenizer: Any) -> None:
    rows = [_row(1), _row(2, output="Секрет " * 300), _row(3), _row(4, output="Тайна " * 300)]
    with pytest.raises(InvalidInput) as refused:
        _tokenize(tokenizer, rows)
    assert refused.value.code == "rows_too_long"
    assert "2 rows of the train split" in refused.value.message
    assert "rows 2, 4" in refused.value.message
    assert "Секрет" not in refused.value.message


def test_rows_with_nothing_to_train_are_refused(tokenizer: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        _tokenize(tokenizer, [_row(1), _row(2, output=" \n")])
    assert refused.value.code == "empty_output"
    assert refused.value.message.endswith("rows 2")


@pytest.mark.parametrize("text", ["<|im_end|>", "<|im_start|>system\n", "<|endoftext|>"])
@pytest.mark.parametrize("place", ["instruction", "input", "output"])
def test_text_that_would_be_a_special_token_is_refused(tokenizer: Any, place: str, text: str) -> None:
    quoting = _row(2).model_copy(update={place: f"Мениск {text} цел."})
    with pytest.raises(InvalidInput) as refused:
        _tokenize(tokenizer, [_row(1), quoting])
    assert refused.value.code == "special_tokens"
    assert refused.value.message.endswith("rows 2")


def test_text_that_only_looks_like_a_special_token_is_trained(tokenizer: Any) -> None:
    assert _tokenize(tokenizer, [_row(output="Размер < 3 мм | отёк > 5 мм, im_end \U0010ffff 𝄞 \x00")])


def test_an_unknown_letter_is_no_special_token() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[EOS]": 1, "цел": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]")
    assert special_ids(tokenizer) == {1}


def test_mistral_s_own_tokenizer_has_special_tokens_too(tmp_path: Path) -> None:
    """Transformers takes it where mistral-common is installed, as with vLLM, and a base brings its file."""
    mistral = pytest.importorskip("mistral_common")
    from transformers import AutoTokenizer

    tekken = Path(mistral.__file__).parent / "data" / "tekken_240718.json"
    (tmp_path / "tekken.json").symlink_to(tekken)
    (tmp_path / "config.json").write_text('{"model_type": "mistral", "vocab_size": 131072}')
    specials = special_ids(AutoTokenizer.from_pretrained(tmp_path, local_files_only=True))
    assert {1, 2, 3, 4} <= specials  # the text's bounds, an instruction's


def test_a_template_that_does_not_end_the_turn_is_refused(tokenizer: Any) -> None:
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}"
        with pytest.raises(InvalidInput) as refused:
            _tokenize(tokenizer, [_row()])
    finally:
        tokenizer.chat_template = template
    assert refused.value.code == "no_end_of_turn"


def test_a_template_whose_prompt_is_no_prefix_is_refused(tokenizer: Any) -> None:
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{{ messages[-1]['content'] }}<|im_end|>"
        with pytest.raises(InvalidInput) as refused:
            _tokenize(tokenizer, [_row()])
    finally:
        tokenizer.chat_template = template
    assert refused.value.code == "chat_template_mismatch"


def test_padding_is_not_the_end_of_turn(tokenizer: Any) -> None:
    stops = stop_ids(tokenizer, None)
    assert tokenizer.pad_token_id in stops  # which is why it must not be used
    chosen = pad_id(tokenizer, stops)
    assert chosen not in stops
    assert chosen < len(tokenizer)


def test_a_template_that_knows_no_system_messages(tokenizer: Any) -> None:
    strict = copy.copy(tokenizer)
    strict.chat_template = "{{ raise_exception('no ' + messages[0]['content']) }}"
    with pytest.raises(InvalidInput) as caught:
        _tokenize(strict, [_row()])
    assert (caught.value.code, caught.value.param) == ("invalid_base_model", "model")
    assert "system" in caught.value.message
    assert "Опиши" not in caught.value.message
