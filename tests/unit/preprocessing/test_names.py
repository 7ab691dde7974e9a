"""People's names: as they are written, in every form, of the header in the body; as many as in real news."""

import re
from pathlib import Path

import pytest

from narrowcast_gateway.preprocessing.deidentification import Deidentifier, Kind

from .conftest import redacted


@pytest.mark.parametrize(
    "text",
    [
        "Осмотрена Иванова Мария Петровна, жалоб нет.",
        "Согласовано с Валеевым А.М. по телефону.",
        "Консультирован врачом И. И. Сидоренко.",
        "ОСМОТРЕНА ИВАНОВА МАРИЯ ПЕТРОВНА, ЖАЛОБ НЕТ.",
        "Пациентка Шнеерсон обследована повторно.",
        "Пациентка сидоренко обследована, иванова мария петровна.",
        "врач сидоренко и.и.",
        "Врач И. И. Сидоренко",
        "ВрачСидоренко",
        "Направлен урологом Шнеерсоном.",
        "Пациент Sidorenko I.I. осмотрен.",
        "Пациент SIDORENKO^IVAN осмотрен.",
        "Пациент IVANOV PETR осмотрен.",
        "Patient Ivanov Petr, study repeated.",
        # With Latin letters.
        "Пациент Cидopeнкo осмотрен.",
        "Осмотрена Иванова Айнұр Маратқызы.",
        # People who are called as things that medicine names after others.
        "Осмотрена Шнеерсон. Вебером описано, Миллер против.",
        "Осмотрена Левина, жалоб нет. Снимки Валеева.",
        "Лимфоузлы Валеевой не увеличены.",
        "Осмотрен СИДОРЕНКО ПЁТР, жалоб нет.",
    ],
)
def test_names_go(deidentifier: Deidentifier, text: str) -> None:
    result = redacted(deidentifier, text)
    assert "[ФИО]" in result
    for name in (
        "Иванов",
        "Мари",
        "Петровн",
        "Валеев",
        "Сидоренк",
        "Шнеерсон",
        "Айн",
        "Марат",
        "ПЁТР",
        "Вебер",
        "Миллер",
        "Левин",
    ):
        assert name.lower() not in result.lower()
    assert not re.search(r"[A-Za-z]{2,}", result.removeprefix("Patient").removesuffix(", study repeated."))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Nothing of a name is left beside its placeholder, and nothing else goes with it.
        ("Со слов Мкртчян А. упала.", "Со слов [ФИО] упала."),
        ("Осмотрен Секретов П.И. Мениск цел.", "Осмотрен [ФИО] Мениск цел."),
        ("Врач Ю. С. Ян описал.", "Врач [ФИО] описал."),
        ("Лечащий врач — Коваль Ж.Д.", "Лечащий врач — [ФИО]"),
        ("У Мамедова Эльдара Али оглы киста.", "У [ФИО] киста."),
        ("ИВАНОВ П.И. Киста прежняя.", "[ФИО] Киста прежняя."),
        ("Осмотрен Николай Андреевич Йорданов.", "Осмотрен [ФИО]."),
        ("Анестезиолог Оразбаев здесь.", "Анестезиолог [ФИО] здесь."),
        ("Кардиолог Цыренова Дарима Бато-Баировна.", "Кардиолог [ФИО]."),
        ("Палата 7. Шаповал И.Г. обследован.", "Палата 7. [ФИО] обследован."),
        ("Прежняя картина (вр. Кот В.В.).", "Прежняя картина (вр. [ФИО])."),
        ("КОНСУЛЬТИРОВАН НЕЙРОХИРУРГОМ ЗАДОРОЖНЫМ.", "КОНСУЛЬТИРОВАН НЕЙРОХИРУРГОМ [ФИО]."),
        ("Врач Периханян здесь. Врач Миллер А. здесь.", "Врач [ФИО] здесь. Врач [ФИО] здесь."),
        ("Повторно: Миллер А. здесь.", "Повторно: [ФИО] здесь."),
        (
            "Предыдущий осмотр 3.11.23 выполнен Перминовой.\n\nДМЖП 4 мм.",
            "Предыдущий осмотр [ДАТА] выполнен [ФИО].\n\nДМЖП 4 мм.",
        ),
        ("Ангиохирург Гавриленко.", "Ангиохирург [ФИО]."),
        # Named once for certain, then in a place that says nothing.
        ("Реаниматолог Усик здесь. Усик П. извещён.", "Реаниматолог [ФИО] здесь. [ФИО] извещён."),
        ("Пациент Куз-\nнецов обследован.", "Пациент [ФИО] обследован."),
        # Surnames that the dictionary has as other words, or not at all.
        ("Киста.\nВрач: Безрук", "Киста.\nВрач: [ФИО]"),
        ("Киста.\nВрач УЗД: Пак", "Киста.\nВрач УЗД: [ФИО]"),
        ("Киста; описывал: Хо.", "Киста; описывал: [ФИО]."),
        ("КИСТА.\nР/ЛАБ: КОЦ", "КИСТА.\nР/ЛАБ: [ФИО]"),
        ("Муж: Чан Ван Минь, здоров.", "Муж: [ФИО], здоров."),
        ("КИСТА. ИСП. ЧОЙЖАМСО.", "КИСТА. ИСП. [ФИО]."),
        ("УЗ-диагност: Асс; м/с: Пак.", "УЗ-диагност: [ФИО]; м/с: [ФИО]."),
        ("Направил: Чан Ван Минь.", "Направил: [ФИО]."),
        ("Брат: Чан Ван Минь.", "Брат: [ФИО]."),
        # A town is called so too.
        ("Врач Кан. Кан, прежний.", "Врач [ФИО]. [ФИО], прежний."),
        ("Химиотерапию проводит Гицба, клиника Рассвет.", "Химиотерапию проводит [ФИО], [УЧРЕЖДЕНИЕ]."),
    ],
)
def test_a_name_goes_as_a_whole(deidentifier: Deidentifier, text: str, expected: str) -> None:
    assert redacted(deidentifier, text) == expected


def test_every_form_of_a_harvested_name_goes(deidentifier: Deidentifier) -> None:
    names = deidentifier.harvest(["Пациент:\tЖук Осип Гдальевич", "Врач-рентгенолог ______ Белая Т.К."])
    text = "Снимки Жука выданы Жуку. Жуком подписано. Белое вещество и белая линия не изменены."
    (result,), counts = deidentifier.redact([text], names)
    assert not re.search("жук", result, re.IGNORECASE)
    assert "белая линия" in result
    assert counts[Kind.PERSON] == 3


@pytest.mark.parametrize(
    ("header", "text", "expected"),
    [
        # An eponym is no eponym in the report about somebody who is called so.
        ("Пациент: Вебер Карл", "Вебера осмотрели.", "[ФИО] осмотрели."),
        ("Пациент: Иванов Пётр", "у иванова киста.", "у [ФИО] киста."),
        ("пациент: тимченко пётр", "Осмотрен Тимченко.", "Осмотрен [ФИО]."),
        ("Patient: IVANOV PETR", "Ivanov осмотрен.", "[ФИО] осмотрен."),
        ("Пациентка: Өмірбек Әлия", "У Өмірбек киста.", "У [ФИО] киста."),
        ("Пациент: Cемёнов Олег", "Семёнова осмотрели.", "[ФИО] осмотрели."),
        # With the initials around it.
        (
            "Пациент: Сорока Олег Олегович",
            "О. О. Сорока здоров. Сороке О.О. дан диск.",
            "[ФИО] здоров. [ФИО] дан диск.",
        ),
        ("Пациент: Сорока Олег Олегович", "Сорока О. жалоб не имеет.", "[ФИО] жалоб не имеет."),
        # A term tells nothing of whoever is called as it is; what he has of his own does.
        (
            "Пациент: Паркинсон Олег",
            "Болезнь Паркинсона. Паркинсон здоров.",
            "Болезнь Паркинсона. [ФИО] здоров.",
        ),
        ("Пациент: Бейкер Анна", "Киста Бейкера. Мениск Бейкер цел.", "Киста Бейкера. Мениск [ФИО] цел."),
        ("Пациент: Вебер Карл", "Киста Вебера прежняя.", "Киста [ФИО] прежняя."),
        ("Пациент: Корень Иван", "Корня аорты не видно. Корень цел.", "Корня аорты не видно. Корень цел."),
    ],
)
def test_names_of_the_header_in_the_body(
    deidentifier: Deidentifier, header: str, text: str, expected: str
) -> None:
    (result,), _ = deidentifier.redact([text], deidentifier.harvest([header]))
    assert result == expected


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
