"""What the rows of a preview have in sum, and which fault is named first."""

import pytest

from narrowcast.masking import RowLimits, mask_fault
from narrowcast_gateway.previews.accepting import prefers_text
from narrowcast_gateway.previews.service import FaultyRows, TokenizedRow, summarize

START, STOP = 1, 2


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
