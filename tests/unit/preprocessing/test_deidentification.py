import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowcast_gateway.preprocessing.deidentification import Deidentifier, Kind
from narrowcast_gateway.preprocessing.deidentification.patterns import find_by_pattern
from narrowcast_gateway.preprocessing.pipeline import DocumentProcessor

from .word_files import REPORT, docx_bytes


def redacted(deidentifier: Deidentifier, text: str) -> str:
    return deidentifier.redact([text])[0][0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("В сравнении с МРТ от 12.03.2024 г. без динамики.", "В сравнении с МРТ от [ДАТА] без динамики."),
        ("Исследование 12 марта 2024 г., повторно.", "Исследование [ДАТА], повторно."),
        ("Операция в марте 2019 года.", "Операция в [ДАТА]."),
        ("Травма в 2019 г.", "Травма в [ДАТА]"),
        ("Снимки 2024-03-12 и 12/03/24.", "Снимки [ДАТА] и [ДАТА]."),
        ("Пациентка 54 лет.", "Пациентка [ВОЗРАСТ]."),
        ("Карта № А-92120.", "Карта № [НОМЕР]."),
        ("История болезни № 247971/25.", "История болезни № [НОМЕР]."),
        ("СНИЛС 614-319-276 51.", "СНИЛС [НОМЕР]."),
        ("Полис 7547464358538870.", "Полис [НОМЕР]."),
        ("Паспорт 4510 123456.", "Паспорт [НОМЕР]."),
        ("Тел. +7 (495) 123-45-67.", "Тел. [ТЕЛЕФОН]."),
        ("Почта ivanov@mail.ru.", "Почта [ПОЧТА]."),
        ("Проживает: г. Москва, ул. Ленина, д. 5, кв. 12", "Проживает: [АДРЕС]"),
        ("Оперирован в ГКБ № 15.", "Оперирован в [УЧРЕЖДЕНИЕ]."),
    ],
)
def test_data_with_a_form(deidentifier: Deidentifier, text: str, expected: str) -> None:
    assert redacted(deidentifier, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Грыжа диска L4-L5 12 мм, протрузии дисков: C5-C6, Th12-L1.",
        "Киста Бейкера 12х15х20 мм, разрыв мениска 3 степени по Столлеру.",
        "Узлы Шморля. Тело Гоффа не изменено. Связка Вризберга.",
        "Очаги глиоза до 4 мм, Fazekas 1, индекс Эванса 0,28.",
        "Перелом по Шатцкеру II, PI-RADS 4, BI-RADS 3, Modic I.",
        "Исследование на томографе 1,5 Тл, срез 4 мм, серия № 5.",
        "Контроль через 6 месяцев. Оперирован 5 лет назад.",
        "Размеры 1.5x2.0 см, объём 325,67 мл, ЧСС 87 уд/мин.",
        "Киста 10.12 мм, от 10.12 до 15.11 мм.",
    ],
)
def test_medicine_stays(deidentifier: Deidentifier, text: str) -> None:
    assert redacted(deidentifier, text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Осмотрена Иванова Мария Петровна, жалоб нет.",
        "Согласовано с Валеевым А.М. по телефону.",
        "Консультирован врачом И. И. Сидоренко.",
        "ОСМОТРЕНА ИВАНОВА МАРИЯ ПЕТРОВНА, ЖАЛОБ НЕТ.",
        "Пациентка Шнеерсон обследована повторно.",
    ],
)
def test_names_go(deidentifier: Deidentifier, text: str) -> None:
    result = redacted(deidentifier, text)
    assert "[ФИО]" in result
    for word in ("Иванов", "Мари", "Петровн", "Валеев", "Сидоренко", "Шнеерсон"):
        assert word.lower() not in result.lower()


def test_every_form_of_a_harvested_name_goes(deidentifier: Deidentifier) -> None:
    names = deidentifier.harvest(["Пациент:\tЖук Осип Гдальевич", "Врач-рентгенолог ______ Белая Т.К."])
    text = "Снимки Жука выданы Жуку. Жуком подписано. Белое вещество и белая линия не изменены."
    (result,), counts = deidentifier.redact([text], names)
    assert not re.search("жук", result, re.IGNORECASE)
    assert "белая линия" in result
    assert counts[Kind.PERSON] == 3


def test_only_the_sections_survive(processor: DocumentProcessor) -> None:
    result = processor.process(docx_bytes())
    assert result.study == "МРТ коленного сустава"
    assert result.description == REPORT[5]
    assert result.conclusion == "МР-признаки кисты Бейкера."
    assert result.redactions == {}


def test_counts_hold_no_values(processor: DocumentProcessor) -> None:
    lines = [*REPORT[:5], "У Абдулхакимова Р.М. от 12.03.2024 киста 5 мм.", *REPORT[6:]]
    result = processor.process(docx_bytes(lines))
    assert result.description == "У [ФИО] от [ДАТА] киста 5 мм."
    assert result.redactions == {"person": 1, "date": 1}


NUMBER = st.decimals(min_value=0, max_value=999, places=1).map(lambda value: str(value).replace(".", ","))
MEASUREMENT = st.one_of(
    st.tuples(NUMBER, st.sampled_from(["мм", "см", "мл", "Тл", "%", "град", "HU"])).map(" ".join),
    st.lists(st.integers(1, 99).map(str), min_size=2, max_size=3)
    .map("х".join)
    .map(lambda size: f"{size} мм"),
    st.tuples(st.sampled_from(["C", "Th", "L", "S"]), st.integers(1, 12)).map(
        lambda level: f"{level[0]}{level[1]}"
    ),
    st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda pair: f"L{pair[0]}-L{pair[1] + 1}"),
    st.integers(1, 4).map(lambda grade: f"Grade {grade}"),
    st.integers(1, 5).map(lambda grade: f"PI-RADS {grade}"),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MEASUREMENT, min_size=1, max_size=6))
def test_measurements_fit_no_pattern(measurements: list[str]) -> None:
    assert not list(find_by_pattern("Киста " + ", очаг ".join(measurements) + "."))


def test_names_in_news(deidentifier: Deidentifier, test_data: Path) -> None:
    """factRuEval-2016: parts of persons' names found; the benchmark gives the exact share."""
    folder = test_data / "ner" / "factRuEval-2016" / "devset"
    total = found = 0
    for spans in sorted(folder.glob("*.spans"))[:60]:
        text = spans.with_suffix(".txt").read_text(encoding="utf-8")
        covered = {i for span in deidentifier.find(text) for i in range(span.start, span.stop)}
        for line in spans.read_text(encoding="utf-8").splitlines():
            _, kind, start, length, *_ = line.split()
            if kind in {"surname", "name", "patronymic"}:
                total += 1
                found += covered.issuperset(range(int(start), int(start) + int(length)))
    assert total > 300
    assert found / total > 0.96
