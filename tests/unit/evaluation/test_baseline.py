import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from narrowcast_gateway.evaluation.baseline import NearestReport
from narrowcast_gateway.evaluation.rouge import RougeScore, score

REPOSITORY = Path(__file__).parents[3]
DATA = Path(os.environ.get("NARROWCAST_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
RUSSIAN_PAIRS = DATA / "ru_radiology" / "pairs.jsonl"

BRAIN, SPINE = "МРТ головного мозга", "МРТ позвоночника"
ROWS = [
    (BRAIN, "Киста шишковидной железы", "Железа кистозно изменена."),
    (BRAIN, "Признаки дисциркуляторной энцефалопатии", "Перивентрикулярные очаги."),
    (SPINE, "Грыжа диска L4-L5", "Грыжа 5 мм в позвоночный канал."),
    (SPINE, "Патологии не выявлено", "Диски не изменены."),
]


def test_copies_the_output_of_the_nearest_input() -> None:
    nearest = NearestReport(ROWS)
    assert nearest.answer(BRAIN, "Дисциркуляторная энцефалопатия") == "Перивентрикулярные очаги."
    assert nearest.answer(SPINE, "ГРЫЖИ дисков L4-L5, L5-S1") == "Грыжа 5 мм в позвоночный канал."


def test_stays_within_the_instruction() -> None:
    assert NearestReport(ROWS).answer(f" {BRAIN}\n", "Грыжа диска L4-L5") in {row[2] for row in ROWS[:2]}


def test_unknown_instruction_takes_all_rows() -> None:
    assert NearestReport(ROWS).answer("КТ", "Грыжа диска L4-L5") == "Грыжа 5 мм в позвоночный канал."


def test_of_equally_near_reports_the_most_typical_is_copied() -> None:
    usual, odd = "Желудочки не расширены. Очагов нет.", "Артефакты от движений."
    rows = [(BRAIN, "Без патологии", output) for output in (odd, f"{usual} Кисты нет.", usual)]
    assert NearestReport(rows).answer(BRAIN, "без патологии").startswith(usual)


def test_equal_candidates_are_taken_in_the_order_of_the_rows() -> None:
    rows = [(BRAIN, "Норма", f"вариант{number}") for number in range(50)]
    assert {NearestReport(rows).answer(BRAIN, "Норма") for _ in range(3)} == {"вариант0"}


@pytest.mark.parametrize("text", ["", "—", "xyz"])
def test_answers_when_nothing_is_in_common(text: str) -> None:
    assert NearestReport(ROWS).answer(SPINE, text) in {row[2] for row in ROWS[2:]}


def test_inputs_without_words() -> None:
    assert NearestReport([(BRAIN, "—", "Норма.")]).answer(BRAIN, "—") == "Норма."


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no training rows"):
        NearestReport([])


def test_real_russian_reports() -> None:
    """Not below what copying the one nearest impression of the same modality was measured to score."""
    if not RUSSIAN_PAIRS.is_file():
        pytest.skip(f"no test data at {RUSSIAN_PAIRS}; name its folder in NARROWCAST_TEST_DATA")
    pairs = [json.loads(line) for line in RUSSIAN_PAIRS.read_text(encoding="utf-8").splitlines()]
    answered = list(_leave_one_file_out(pairs))
    result: dict[str, RougeScore] = score([right for right, _ in answered], [given for _, given in answered])
    assert result["rouge1"].f1 >= 0.578
    assert result["rouge2"].f1 >= 0.404
    assert result["rougeL"].f1 >= 0.523


def _leave_one_file_out(pairs: list[dict[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield each report's findings and what is copied for it from the other files' reports."""
    for file in sorted({pair["file"] for pair in pairs}):
        others = [(p["modality"], p["impression"], p["findings"]) for p in pairs if p["file"] != file]
        nearest = NearestReport(others)
        for pair in pairs:
            if pair["file"] == file:
                yield pair["findings"], nearest.answer(pair["modality"], pair["impression"])
