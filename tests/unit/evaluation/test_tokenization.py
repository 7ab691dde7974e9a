import unicodedata

import pytest

from narrowcast_gateway.evaluation.tokenization import RussianTokenizer, sentences

tokenize = RussianTokenizer().tokenize


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Грыжа L4-L5 12 мм.", ["грыжа", "l4", "l5", "12", "мм"]),
        ("Очаг 2,5 см, 3.5 мм, 4, 5", ["очаг", "2,5", "см", "3.5", "мм", "4", "5"]),
        ("на уровне Th12", ["на", "уровне", "th12"]),
        ("Объём ЁМКОСТИ", ["объем", "емкости"]),
        ("МР-томограммы", ["мр", "томограммы"]),
        ("25.02.2055", ["25.02", "2055"]),
        (" — … ", []),
        ("", []),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


def test_decomposed_letters_are_the_same_words() -> None:
    text = "Головной мозг: объём, ЙОД"
    decomposed = unicodedata.normalize("NFD", text)
    assert decomposed != text
    assert tokenize(decomposed) == tokenize(text) == ["головной", "мозг", "объем", "йод"]


@pytest.mark.parametrize(
    "parts",
    [
        ["Грыжа диска до 5 мм.", "Спинной мозг не изменён."],
        ["Конус спинного мозга на уровне Th12.", "Сигнал не изменён."],
        ["Грыжа диска L4-L5.", "Позвоночный канал сужен."],
        ["Киста 12 х 13 см.", "Контуры ровные."],
        ["Объём 30 куб. см.", "Почка подвижна."],
        ["Остеохондроз I-II ст.", "Спондилёз."],
        ["Давление 26 мм рт. ст.", "Перикард не изменён."],
        ["Толщина 2,5 см. в диаметре, см. рис. 2."],
        ["1. Грыжа L4-L5.", "2. Протрузия L5-S1."],
        ["Исследование от 2020 г. Москва."],
        ["Норма"],
    ],
)
def test_sentences_of_a_line(parts: list[str]) -> None:
    assert sentences(" ".join(parts)) == parts


def test_line_breaks_end_sentences() -> None:
    assert sentences("ОПИСАНИЕ\nжелудочки не\r\nрасширены\n\n  \nНорма. Без динамики.\n") == [
        "ОПИСАНИЕ",
        "желудочки не",
        "расширены",
        "Норма.",
        "Без динамики.",
    ]


def test_no_sentences_in_nothing() -> None:
    assert sentences("") == sentences(" \n ") == []
