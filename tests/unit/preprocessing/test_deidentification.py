import re
import time
import unicodedata
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
        # Words behind a date that begin as units do: «с», «см», «ма», «мс», «уд», «ед», «до».
        ("МРТ от 12.03.2024 с контрастом.", "МРТ от [ДАТА] с контрастом."),
        ("12.03.2024 смещение прежнее.", "[ДАТА] смещение прежнее."),
        ("12.03.2024 магнитно-резонансная картина.", "[ДАТА] магнитно-резонансная картина."),
        ("КТ 12.03.2024 МСКТ повторно.", "КТ [ДАТА] МСКТ повторно."),
        ("12.03.24 удалена менингиома.", "[ДАТА] удалена менингиома."),
        ("12.03.2024 до операции.", "[ДАТА] до операции."),
        # Ranges and other ways to write one.
        ("Был 12.03.24-15.03.24 здесь.", "Был [ДАТА]-[ДАТА] здесь."),
        ("За 12–15.03.2024 без динамики.", "За [ДАТА] без динамики."),
        ("С 12.03 по 15.03.2024 лечился.", "С [ДАТА] лечился."),
        ("От 12.03 и 15.03 снимки.", "От [ДАТА] снимки."),
        ("От 12.III.2024 и 12/03 2024.", "От [ДАТА] и 12/03 2024."),
        ("От 12 03 2024 без динамики.", "От [ДАТА] без динамики."),
        ("От 12 мар 2024 без динамики.", "От [ДАТА] без динамики."),
        ("От «12»марта2024г. без динамики.", "От [ДАТА] без динамики."),
        ("Двенадцатого марта 2024 года КТ.", "[ДАТА] КТ."),
        ("В 2019 оперирован, в мае осмотрен.", "В [ДАТА] оперирован, в [ДАТА] осмотрен."),
        ("Родился: 1967г/р.", "Родился: [ДАТА]"),
        ("Год рождения 1967.", "Год рождения [ДАТА]."),
        ("Пациентка 54-х лет.", "Пациентка [ВОЗРАСТ]."),
        ("Женщина 54 л.", "Женщина [ВОЗРАСТ]"),
        ("Возраст 13 лет 7 мес.", "Возраст [ВОЗРАСТ]"),
        ("Больная пятидесяти четырёх лет.", "Больная [ВОЗРАСТ]."),
        ("Больная 54.", "Больная [ВОЗРАСТ]."),
        ("Сообщено 917-123-45-67.", "Сообщено [ТЕЛЕФОН]."),
        ("Сообщено +998 90 123 45 67.", "Сообщено [ТЕЛЕФОН]."),
        ("Паспорт серия 4510 номер 123456.", "Паспорт серия [НОМЕР] номер [НОМЕР]."),
        ("Медкарта 77889, ИБ № 7788.", "Медкарта [НОМЕР], ИБ № [НОМЕР]."),
        ("Исследование № 4587 с контрастом.", "Исследование № [НОМЕР] с контрастом."),
        ("UID 1.2.840.113619.2.55.3.6046.", "UID [НОМЕР]."),
        ("Снимки disk.yandex.ru/d/AbCd здесь.", "Снимки [ПОЧТА] здесь."),
        (r"Снимки D:\Снимки\Ветров здесь.", "Снимки [ПОЧТА] здесь."),
        ("Адрес: Казань, Баумана 5", "Адрес: [АДРЕС]"),
        ("Проживает в Казани.", "Проживает в [АДРЕС]."),
        ("Доставлен из с. Новый Кырлай.", "Доставлен из [АДРЕС]."),
        ("Переведён из Буинской ЦРБ.", "Переведён из [УЧРЕЖДЕНИЕ]."),
        ("Оперирован в 7-й городской больнице.", "Оперирован в [УЧРЕЖДЕНИЕ]."),
        ("Направлен из поликлиники 21.", "Направлен из [УЧРЕЖДЕНИЕ]."),
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
        "Объём 2, 086524 см3, ООО 3 мм, размер 10-12-14 мм.",
        "Сегменты 1.2.3.4.5.6, диски: C5-C6. Протокол: 3D TOF.",
        "Хиазмальная область, поясничная область. Паховая область без особенностей.",
        "Операция Уиппла, катетер Фолея, зона Брока, артерия Адамкевича, шунт Блэлока-Тауссига.",
        "Контрастирование: Йопромид 370, 90 мл; Гадобутрол 7,5 мл.",
        "Стаж курения 40 лет, длительность заболевания 10 лет, менопауза 5 лет.",
        "Костные структуры и т. п. Контуры ровные, и пр. Почки 110х50 мм.",
        "Печень: Л.Д.- 63мм, П.Д.- 125мм. Сегмент А.В. не изменён.",
        "Консультация невролога рекомендована. Пациентка обследована. Врач УЗД.",
        "b-фактор 0, 500, 2000 с/мм2; TR 2000, в 2000 раз.",
        "Пациент ECOG 1. Пациент ASA III. Больной COVID-19. Врач МРТ. Оператор GE. Больной HCV, HIV.",
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
        "Осмотрен СИДОРЕНКО ПЁТР, жалоб нет.",
    ],
)
def test_names_go(deidentifier: Deidentifier, text: str) -> None:
    result = redacted(deidentifier, text)
    assert "[ФИО]" in result
    for name in ("Иванов", "Мари", "Петровн", "Валеев", "Сидоренк", "Шнеерсон", "Айн", "Марат", "ПЁТР"):
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
        ("Пациент Куз-\nнецов обследован.", "Пациент [ФИО] обследован."),
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
        ("Пациент: Корень Иван", "Корня аорты не видно. Корень цел.", "Корня аорты не видно. Корень цел."),
    ],
)
def test_names_of_the_header_in_the_body(
    deidentifier: Deidentifier, header: str, text: str, expected: str
) -> None:
    (result,), _ = deidentifier.redact([text], deidentifier.harvest([header]))
    assert result == expected


@pytest.mark.parametrize(
    "text",
    [
        unicodedata.normalize("NFD", "Николай Андреевич Йорданов"),
        "Го\u0301рдеев",
        "Гор\u00adдеев П.И.",
        "Гордеев\u2011Задунайский",
        "12\u201103\u20112024",
        "12\u202403\u20242024",
    ],
)
def test_what_word_makes_of_signs_hides_nothing(processor: DocumentProcessor, text: str) -> None:
    lines = [*REPORT[:1], *REPORT[4:5], f"Осмотрен {text}, мениск цел.", REPORT[6]]
    assert re.fullmatch(
        r"Осмотрен \[(ФИО|ДАТА)\],? мениск цел\.", processor.process(docx_bytes(lines)).description
    )


def test_a_long_run_of_letters_takes_no_long_time() -> None:
    """A document may have ten times as many; by its square that would be hours."""
    for run in ("а", "1", "Аб-"):
        started = time.process_time()
        list(find_by_pattern(run * (200_000 // len(run))))
        assert time.process_time() - started < 20


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
