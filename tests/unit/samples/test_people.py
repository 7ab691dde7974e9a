"""Case forms of names, and that nobody's real number can come out."""

import re
from datetime import date
from random import Random

import pytest

from narrowcast_local.samples import names
from narrowcast_local.samples.declension import Gender, first_name, patronymic, surname
from narrowcast_local.samples.marks import mark, plain, unmark
from narrowcast_local.samples.people import make_patient


@pytest.mark.parametrize(
    ("word", "gender", "forms"),
    [
        ("Иванов", "m", "Иванов Иванова Иванову Ивановым"),
        ("Иванов", "f", "Иванова Ивановой Ивановой Ивановой"),
        ("Шевченко", "f", "Шевченко Шевченко Шевченко Шевченко"),
        ("Мороз", "m", "Мороз Мороза Морозу Морозом"),
        ("Мороз", "f", "Мороз Мороз Мороз Мороз"),
        ("Белый", "m", "Белый Белого Белому Белым"),
        ("Белый", "f", "Белая Белой Белой Белой"),
        ("Толстой", "m", "Толстой Толстого Толстому Толстым"),
        ("Сорока", "m", "Сорока Сороки Сороке Сорокой"),
        ("Лукашевич", "m", "Лукашевич Лукашевича Лукашевичу Лукашевичем"),
        ("Коваль", "m", "Коваль Коваля Ковалю Ковалем"),
        ("Черных", "m", "Черных Черных Черных Черных"),
        ("Мамин-Сибиряк", "m", "Мамин-Сибиряк Мамина-Сибиряка Мамину-Сибиряку Маминым-Сибиряком"),
        ("Мамин-Сибиряк", "f", "Мамина-Сибиряк Маминой-Сибиряк Маминой-Сибиряк Маминой-Сибиряк"),
        ("Кара-Мурза", "m", "Кара-Мурза Кара-Мурзы Кара-Мурзе Кара-Мурзой"),
    ],
)
def test_surnames(word: str, gender: Gender, forms: str) -> None:
    assert [surname(word, gender, case) for case in ("nom", "gen", "dat", "ins")] == forms.split()


@pytest.mark.parametrize(
    ("word", "gender", "forms"),
    [
        ("Пётр", "m", "Петра Петру Петром"),
        ("Илья", "m", "Ильи Илье Ильёй"),
        ("Игорь", "m", "Игоря Игорю Игорем"),
        ("Никита", "m", "Никиты Никите Никитой"),
        ("Мария", "f", "Марии Марии Марией"),
        ("Ольга", "f", "Ольги Ольге Ольгой"),
        ("Любовь", "f", "Любови Любови Любовью"),
        ("Патимат", "f", "Патимат Патимат Патимат"),
    ],
)
def test_first_names(word: str, gender: Gender, forms: str) -> None:
    assert [first_name(word, gender, case) for case in ("gen", "dat", "ins")] == forms.split()


@pytest.mark.parametrize(
    ("father", "son", "daughter"),
    [
        ("Сергей", "Сергеевич", "Сергеевна"),
        ("Анатолий", "Анатольевич", "Анатольевна"),
        ("Дмитрий", "Дмитриевич", "Дмитриевна"),
        ("Игорь", "Игоревич", "Игоревна"),
        ("Илья", "Ильич", "Ильинична"),
        ("Павел", "Павлович", "Павловна"),
        ("Магомед", "Магомедович", "Магомедовна"),
    ],
)
def test_patronymics(father: str, son: str, daughter: str) -> None:
    assert (patronymic(father, "m"), patronymic(father, "f")) == (son, daughter)
    assert patronymic(father, "m", "ins") == f"{son}ем"
    assert patronymic(father, "f", "dat") == f"{daughter[:-1]}е"


def test_lists_are_long_enough() -> None:
    surnames = {
        *names.COMMON,
        *names.RARE,
        *names.CAUCASIAN,
        *names.TATAR,
        *names.UKRAINIAN,
        *names.DOUBLE,
        *names.WORDS,
    }
    assert len(surnames) >= 150
    assert len(set(names.MALE)) >= 60
    assert len(set(names.FEMALE)) >= 60


def test_patients_are_adults_with_numbers_of_nobody() -> None:
    rng, studied = Random(5), date(2024, 3, 12)
    for _ in range(500):
        patient = make_patient(rng, studied)
        years = int(plain(patient.age).split()[0])
        assert 18 <= years <= 88
        assert patient.born.replace(year=patient.born.year + years, day=min(patient.born.day, 28)) <= studied
        assert "555" in plain(patient.phone)
        digits = re.sub(r"\D", "", plain(patient.snils))
        total = sum(int(digit) * weight for digit, weight in zip(digits[:9], range(9, 0, -1), strict=True))
        assert total % 101 % 100 != int(digits[9:])


def test_marks_become_spans() -> None:
    marked = f"Пациенту {mark('person', 'Ли А.В.')}, {mark('date', '1.2.2024')} г."
    assert unmark(marked) == ("Пациенту Ли А.В., 1.2.2024 г.", [("person", 9, 16), ("date", 18, 26)])
