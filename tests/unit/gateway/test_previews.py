"""What the rows of a preview have in sum, which fault is named first, which bases are refused."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from narrowcast.datasets import Row
from narrowcast.errors import InvalidInput
from narrowcast.masking import RowLimits, mask_fault
from narrowcast_gateway.previews.accepting import prefers_text
from narrowcast_gateway.previews.service import FaultyRows, TokenizedRow, summarize
from narrowcast_gateway.previews.tokenizer import BaseTokenizer
from narrowcast_trainer.data import tokenize

START, STOP = 1, 2
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}BEFORE{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("before", ["", "\n ", "<think>\n\n</think>\n\n", "- ", "Ответ: "])
async def test_a_base_that_adds_to_an_answer_is_refused_as_the_trainer_refuses_it(
    base_model: Path, before: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    tokenizer.chat_template = TURNS.replace("BEFORE", before)

    def vllm(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content or "{}")
        if request.url.path == "/tokenize":
            ids = tokenizer.apply_chat_template(
                asked["messages"], add_generation_prompt=asked["add_generation_prompt"], return_dict=False
            )
            return httpx.Response(200, json={"tokens": ids})
        if request.url.path == "/detokenize":
            return httpx.Response(200, json={"prompt": tokenizer.decode(asked["tokens"])})
        health = {"stop_token_ids": [STOP], "special_token_ids": [START, STOP], "context_length": None}
        return httpx.Response(200, json=health)

    def refusal(error: InvalidInput) -> tuple[Any, ...]:
        return error.code, error.param, error.message

    previewed = trained = None
    async with httpx.AsyncClient(transport=httpx.MockTransport(vllm)) as http:
        try:
            await BaseTokenizer(http, "base", "http://vllm").limits(512)
        except InvalidInput as error:
            previewed = refusal(error)
    row = Row(instruction="Опиши.", input="Норма", output="Без особенностей.")
    try:
        tokenize([row], tokenizer, max_length=512, stop_ids={STOP}, split="train")
    except InvalidInput as error:
        trained = refusal(error)
    assert previewed == trained
    assert (previewed and previewed[:2]) == (("invalid_base_model", "model") if before.strip() else None)


@pytest.mark.parametrize(
    ("prompt", "whole", "max_length", "fault"),
    [
        ([5, 6], [5, 6, 7, STOP], 4, None),
        ([5, 6], [5, 6, 7, STOP], 3, "rows_too_long"),
        ([5, 6], [5, 6, 7], 2, "no_end_of_turn"),
        ([5, STOP], [5, STOP, 7], 9, "no_end_of_turn"),
        ([5, 6], [5, 8, 7, STOP], 2, "chat_template_mismatch"),
        ([5, STOP], [5, STOP], 9, "chat_template_mismatch"),
        ([5, 6, 7], [5, 6], 9, "chat_template_mismatch"),
        ([START, 6, STOP], [START, 6, STOP, 7, STOP], 9, None),
        ([START, 6], [START, 6, STOP, 7, STOP, STOP], 2, "special_tokens"),
        ([START, START, 6], [START, START, 6, STOP, 7], 9, None),
        ([START] * 4, [*[START] * 4, 7], 9, "special_tokens"),
    ],
)
def test_what_keeps_a_row_from_being_trained_on(
    prompt: list[int], whole: list[int], max_length: int, fault: str | None
) -> None:
    limits = RowLimits(max_length, frozenset({STOP}), frozenset({START, STOP}), template_tokens=3)
    assert mask_fault(prompt, whole, limits) == fault


def test_a_summary_counts_what_is_trained_and_names_the_faulty() -> None:
    rows = [TokenizedRow(number, 10, 4, None) for number in range(1, 4)]
    rows += [TokenizedRow(number, 30, 4, "rows_too_long") for number in range(4, 40)]
    rows.append(TokenizedRow(40, 10, 10, "chat_template_mismatch"))
    summary = summarize(rows)
    assert (summary.tokens, summary.trained_tokens) == (30 + 36 * 30 + 10, 3 * 6 + 36 * 26)
    assert (summary.longest_row, summary.longest_row_tokens) == (4, 30)
    assert summary.faults == [
        FaultyRows("chat_template_mismatch", 1, [40]),
        FaultyRows("rows_too_long", 36, list(range(4, 24))),
    ]


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("text/plain", True),
        ("TEXT/PLAIN", True),
        ("text/*", True),
        ("text/plain; charset=utf-8", True),
        ("text/plain, */*", True),
        ("text/plain, application/json", True),
        ("application/json;q=0.5, text/plain;q=0.6", True),
        ("text/plain;q=0", False),
        ("text/plain; q=0.0, */*", False),
        ("text/plain;q=0, text/*", False),
        ("text/plain;q=0.1, */*", False),
        ("application/json, text/plain, */*", False),
        ("text/plain;q=0.5, application/*", False),
        ("text/html, */*", False),
        ("*/*", False),
        ("", False),
        (";q=0,,", False),
    ],
)
def test_text_is_for_those_who_want_it_most(accept: str, text: bool) -> None:
    assert prefers_text(accept) is text
