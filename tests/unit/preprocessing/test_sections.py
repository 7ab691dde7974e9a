import pytest

from narrowcast.errors import DocumentRejected
from narrowcast_gateway.preprocessing.sections import find_sections
from narrowcast_gateway.preprocessing.studies import find_study

SEEN = "Желудочки не расширены."
MEANT = "МР-картина без патологии."


@pytest.mark.parametrize(
    "lines",
    [
        ["Описание:", SEEN, "Заключение:", MEANT],
        ["ОПИСАНИЕ", SEEN, "ЗАКЛЮЧЕНИЕ", MEANT],
        [f"Описание: {SEEN}", f"Заключение: {MEANT}"],
        ["Протокол исследования", SEEN, f"Выводы: {MEANT}"],
        ["Данные исследования:", SEEN, "МР-заключение:", MEANT],
        [f"Описание\t{SEEN}", f"Выводы\t{MEANT}"],
        ["Описание:", SEEN, f"ЗАКЛЮЧЕНИЕ {MEANT}"],
        ["Описание:", SEEN, f"Заключение. {MEANT}"],
        ["Описание:", SEEN, f"Заключение по данным МРТ: {MEANT}"],
        ["Описание:", SEEN, "Заключение врача-рентгенолога", MEANT],
        ["ЗАКЛЮЧЕНИЕ", "Пациент: Иванов", "Описание:", SEEN, "Заключение:", MEANT],
        [
            "Протокол магнитно-резонансной томографии № 12",
            "Пациент: Иванов",
            "Описание:",
            SEEN,
            "Заключение:",
            MEANT,
        ],
        ["Описание:", SEEN, "Впечатление:", MEANT, "Рекомендовано: контроль.", "Врач Иванов И.И."],
        ["Описание:", SEEN, "Заключение:", f"{MEANT} Рекомендуется консультация невролога."],
        ["Описание:", SEEN, "Заключение:", MEANT, "Пациент: Иванов И.И.", "Дата рождения: 01.02.1960"],
        ["Описание:", SEEN, "Заключение:", MEANT, "12.03.2024", "Петрова А.А."],
    ],
)
def test_layouts(lines: list[str]) -> None:
    sections = find_sections(lines)
    assert (sections.description, sections.conclusion) == (SEEN, MEANT)


def test_description_without_a_heading() -> None:
    seen = "На серии МР-томограмм головного мозга желудочки не расширены."
    sections = find_sections(["Пациент: Иванов И.И.", "МРТ головного мозга", seen, "Заключение:", MEANT])
    assert (sections.description, sections.conclusion) == (seen, MEANT)
    assert "Пациент: Иванов И.И." in sections.rest


def test_two_regions_in_one_document() -> None:
    lines = [
        "МРТ шейного отдела",
        "Описание:",
        "А.",
        "Заключение:",
        "Б.",
        "МРТ грудного отдела",
        "Описание:",
        "В.",
        "Заключение:",
        "Г.",
    ]
    sections = find_sections(lines)
    assert (sections.description, sections.conclusion) == ("А.\nВ.", "Б.\nГ.")


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], "empty_document"),
        (["Счёт на оплату", "Итого 500 руб."], "no_conclusion"),
        (["Описание:", SEEN], "no_conclusion"),
        (["Пациент: Иванов", f"Заключение: {MEANT}"], "no_description"),
    ],
)
def test_missing_parts_have_their_codes(lines: list[str], code: str) -> None:
    with pytest.raises(DocumentRejected) as caught:
        find_sections(lines)
    assert caught.value.code == code
    assert not any(line in str(caught.value) for line in lines)


@pytest.mark.parametrize(
    ("header", "study"),
    [
        ("Магнитно-резонансная томография правого коленного сустава от 12.03.2024", "МРТ коленного сустава"),
        ("МРТ ГОЛОВНОГО МОЗГА", "МРТ головного мозга"),
        ("МСКТ органов грудной клетки", "КТ органов грудной клетки"),
        ("УЗИ органов брюшной полости", "УЗИ органов брюшной полости"),
        ("Ультразвуковое исследование сердца", "ЭхоКГ"),
        ("Рентгенография органов грудной клетки", "Рентгенография органов грудной клетки"),
        ("МРТ пояснично-крестцового отдела позвоночника", "МРТ пояснично-крестцового отдела позвоночника"),
    ],
)
def test_study_is_normal_and_without_side_or_date(header: str, study: str) -> None:
    assert find_study([header], SEEN, MEANT) == study
