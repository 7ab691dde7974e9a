"""Synthetic reports: the truth they carry, their sizes, variety and cost."""

import re
import tracemalloc
from collections import Counter
from itertools import islice

import pytest

from narrowcast_local.samples import Report, generate, names
from narrowcast_local.samples.declension import surname
from narrowcast_local.samples.findings import (
    CONCLUSION_MAX,
    CONCLUSION_MIN,
    DESCRIPTION_MAX,
    DESCRIPTION_MIN,
)
from narrowcast_local.samples.marks import KINDS
from narrowcast_local.samples.report import make_report


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return list(generate(5000))


def leaked(report: Report) -> bool:
    parts = [(report.text.rindex(part), part) for part in (report.description, report.conclusion)]
    return any(start <= datum.start < start + len(part) for datum in report.personal for start, part in parts)


def test_same_seed_same_reports_other_seed_others() -> None:
    first = list(generate(60, seed=3))
    assert first == list(generate(60, seed=3))
    assert [report.blocks for report in first] == [report.blocks for report in generate(60, seed=3)]
    assert all(one.text != other.text for one, other in zip(first, generate(60, seed=4), strict=True))


def test_report_depends_on_its_index_alone() -> None:
    assert next(islice(generate(1000), 777, None)) == make_report(777)
    assert list(generate(40)) == list(islice(generate(120), 40))


def test_spans_are_exact_ordered_and_apart(reports: list[Report]) -> None:
    for report in reports:
        end = 0
        for datum in report.personal:
            assert datum.kind in KINDS
            assert datum.start >= end
            assert report.text[datum.start : datum.end] == datum.text != ""
            end = datum.end


def test_nothing_personal_is_left_unmarked(reports: list[Report]) -> None:
    """With the spans blanked out, nothing looks like initials, a date, an age or a long number."""
    personal = re.compile(r"\b[А-ЯЁ]\. ?[А-ЯЁ]\.|\b(19|20)\d\d\b|\d (год|года|лет)\b|\d{4,}|\bкв\.")
    ordinary = {surname(word, gender) for word in names.WORDS for gender in ("m", "f")}
    for report in reports:
        rest = report.text.replace("Ф.И.О.", "ФИО...")
        for datum in report.personal:
            rest = rest[: datum.start] + "#" * len(datum.text) + rest[datum.end :]
        assert personal.search(rest) is None, report.id
        words = set(re.findall(r"\w[\w-]*", rest))
        for datum in report.personal:
            family = datum.text.split()[0]
            if datum.kind == "person" and "." not in family and family not in ordinary:
                assert family not in words, report.id


def test_no_private_use_character_survives(reports: list[Report]) -> None:
    assert not any("\ue000" <= letter <= "\uf8ff" for report in reports for letter in report.text)


def test_sections_stand_in_the_text(reports: list[Report]) -> None:
    for report in reports:
        assert report.description in report.text
        assert report.conclusion in report.text
        assert report.text.index(report.description) < report.text.rindex(report.conclusion)


def test_sizes(reports: list[Report]) -> None:
    descriptions = [len(report.description) for report in reports]
    conclusions = [len(report.conclusion) for report in reports]
    assert min(descriptions) >= DESCRIPTION_MIN
    assert max(descriptions) <= DESCRIPTION_MAX
    assert sum(descriptions) / len(descriptions) <= 260
    assert min(conclusions) >= CONCLUSION_MIN
    assert max(conclusions) <= CONCLUSION_MAX
    assert 55 <= sum(conclusions) / len(conclusions) <= 75


def test_descriptions_vary(reports: list[Report]) -> None:
    assert 1 - len({report.description for report in reports}) / len(reports) < 0.01
    assert len({report.conclusion for report in reports}) / len(reports) > 0.5
    assert len({report.personal[0].text for report in reports}) / len(reports) > 0.9


def test_shares_of_normal_studies_and_of_leaks(reports: list[Report]) -> None:
    normal = sum(
        any(words in report.conclusion for words in ("не выявлено", "не получено", "без патологических"))
        for report in reports
    )
    assert 0.15 <= normal / len(reports) <= 0.20
    assert 0.12 <= sum(map(leaked, reports)) / len(reports) <= 0.18


def test_sentences_end_in_one_full_stop(reports: list[Report]) -> None:
    for report in reports:
        assert ".." not in report.text
        assert "  " not in report.description
        assert report.description.endswith(".")
        assert report.conclusion.endswith(".")


def test_every_study_meets_every_layout() -> None:
    pairs = Counter((report.study, report.layout) for report in generate(28))
    assert len(pairs) == 28
    assert len({layout for _, layout in pairs}) == 7


def test_eponyms_are_there_and_not_personal(reports: list[Report]) -> None:
    text = "\n".join(report.text for report in reports)
    eponyms = [
        *("Бейкера", "Эванса", "Fazekas", "Шморля", "Вризберга", "Гоффа", "Вирхова-Робена", "Киари"),
        *("Тарлова", "Лушки", "Modic", "Доусона", "Мак-Рея", "Клиппеля-Фейля", "Мейердингу", "Genant"),
    ]
    personal = {datum.text for report in reports for datum in report.personal}
    assert [word for word in eponyms if word not in text] == []
    assert not personal & set(eponyms)


def test_conclusion_agrees_with_description(reports: list[Report]) -> None:
    """Every millimetre and every vertebral level of a conclusion stands in the description as well."""
    checked = 0
    for report in reports:
        sentences = report.conclusion.replace("\n", " ").replace(",", " ").split()
        for word, unit in zip(sentences, [*sentences[1:], ""], strict=True):
            if unit.startswith("мм"):
                assert f"{word} мм" in report.description, report.id
                checked += 1
            level = word.strip(".")
            if "отдел" in report.study and level[:1] in "CL" and level[1:2].isdigit():
                assert level in report.description, report.id
                checked += 1
    assert checked > 1000


def test_memory_does_not_grow_with_the_count() -> None:
    tracemalloc.start()
    for _ in generate(3000, seed=1):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # bytes; the reports together are more than ten times that
