"""Seven departments, each with its own way to lay a report out.

They differ in what makes reading hard: a header in a table, in lines, in running text, in the page
header or after the conclusion; headings of every usual wording or none; one paragraph, a sentence a
line, soft line breaks, a table cell; capitals; signatures and advice that follow the conclusion.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from narrowcast_local.samples.blocks import Block, Paragraph, Table
from narrowcast_local.samples.people import Patient, Person, numeric, worded


@dataclass(frozen=True)
class Visit:
    """Everything a layout places; texts are marked."""

    title: str
    long_title: str
    technique: str
    patient: Patient
    studied: date
    number: str
    doctor: Person
    referrer: Person
    head: Person
    description: str
    conclusion: str
    advice: str | None


@dataclass(frozen=True)
class Layout:
    """A department: how it joins sentences, what it puts in front of the first, how it lays out."""

    name: str
    separator: str
    opening: str
    render: Callable[[Visit], list[Block]]


def _bold(text: str) -> Paragraph:
    return Paragraph(text, bold=True)


def _title(text: str) -> Paragraph:
    return Paragraph(text, bold=True, centered=True)


def _advice(visit: Visit) -> list[Block]:
    return [Paragraph(f"Рекомендовано: {visit.advice}.")] if visit.advice else []


def _passport_table(visit: Visit) -> list[Block]:
    patient = visit.patient
    return [
        _title("ГБУЗ «Приволжская областная клиническая больница»"),
        Table(
            (
                ("Протокол магнитно-резонансной томографии",),
                ("Ф.И.О. пациента", patient.person.full()),
                ("Дата рождения", f"{numeric(patient.born)} ({patient.age})"),
                ("Медицинская карта", f"№ {patient.card}"),
                ("Адрес", patient.address),
                ("Исследование", visit.title),
                ("Дата исследования", numeric(visit.studied)),
                ("Направил", f"врач {visit.referrer.short()}"),
            )
        ),
        _bold("ОПИСАНИЕ:"),
        Paragraph(visit.description),
        _bold("ЗАКЛЮЧЕНИЕ:"),
        Paragraph(visit.conclusion),
        Paragraph(f"Врач-рентгенолог ______________ {visit.doctor.short()}"),
    ]


def _lines(visit: Visit) -> list[Block]:
    patient = visit.patient
    return [
        Paragraph("Городская поликлиника № 7, кабинет МРТ"),
        Paragraph(f"Пациент: {patient.person.full()}"),
        Paragraph(f"Дата рождения: {numeric(patient.born)}, возраст: {patient.age}"),
        Paragraph(f"Полис ОМС: {patient.policy}, СНИЛС: {patient.snils}"),
        Paragraph(f"Дата исследования: {numeric(visit.studied)}"),
        _bold(visit.title),
        Paragraph(visit.technique),
        _bold("Протокол исследования"),
        Paragraph(visit.description),
        Paragraph(f"Заключение: {visit.conclusion}"),
        *_advice(visit),
        Paragraph(f"Врач {visit.doctor.signed()}"),
    ]


def _letterhead(visit: Visit) -> list[Block]:
    patient, person = visit.patient, visit.patient.person
    return [
        Paragraph("Клиника «Северный маяк»", bold=True, centered=True, page_header=True),
        Paragraph("Отделение лучевой диагностики", centered=True, page_header=True),
        Paragraph(f"{person.spaced()}, исследование № {visit.number}", page_header=True),
        _title(visit.long_title),
        Paragraph(
            f"{person.agree('Пациент', 'Пациентка')}: {person.short()}, {numeric(patient.born)} г.р., "
            f"история болезни № {patient.card}"
        ),
        Paragraph(f"Дата: {worded(visit.studied)} г."),
        Paragraph(visit.description),
        Paragraph(f"МР-заключение: {visit.conclusion}", bold=True),
        *_advice(visit),
        Paragraph(f"Врач-рентгенолог: {visit.doctor.short()}"),
        Paragraph(f"Заведующий отделением: {visit.head.short()}"),
    ]


def _cells(visit: Visit) -> list[Block]:
    patient = visit.patient
    return [
        _title("Научно-исследовательский институт восстановительной медицины"),
        Table(
            (
                ("Пациент", patient.person.full()),
                ("Дата рождения, возраст", f"{numeric(patient.born)}, {patient.age}"),
                ("История болезни", patient.card),
                ("Вид исследования", visit.title),
                ("Дата и номер", f"{numeric(visit.studied)}, № {visit.number}"),
                (visit.technique,),
                ("Данные исследования", visit.description),
                ("Выводы", visit.conclusion),
                ("Врач", visit.doctor.short()),
                ("Лечащий врач", visit.referrer.short()),
            )
        ),
    ]


def _capitals(visit: Visit) -> list[Block]:
    patient = visit.patient
    return [
        _title("БОЛЬНИЦА СТАНЦИИ УЗЛОВАЯ. ОТДЕЛЕНИЕ МРТ"),
        Paragraph(f"ПАЦИЕНТ: {patient.person.upper()}"),
        Paragraph(f"ДАТА РОЖДЕНИЯ: {numeric(patient.born)}   КАРТА № {patient.card}"),
        Paragraph(f"АДРЕС: {patient.address.upper()}"),
        Paragraph(f"ВИД ИССЛЕДОВАНИЯ: {visit.title.upper()}"),
        Paragraph(f"ДАТА ИССЛЕДОВАНИЯ: {numeric(visit.studied)}"),
        _bold("ОПИСАНИЕ"),
        Paragraph(visit.description, soft_breaks=True),
        _bold("ЗАКЛЮЧЕНИЕ"),
        Paragraph(visit.conclusion, soft_breaks=True),
        Paragraph(f"ВРАЧ: {visit.doctor.short().upper()}"),
    ]


def _passport_last(visit: Visit) -> list[Block]:
    patient, person = visit.patient, visit.patient.person
    return [
        _title(visit.title),
        Paragraph(f"Описание: {visit.description}"),
        Paragraph(f"Заключение. {visit.conclusion}"),
        *_advice(visit),
        _bold("Паспортная часть"),
        Paragraph(
            f"{person.agree('Больной', 'Больная')}: {person.spaced()}, {patient.age}, "
            f"дата рождения {numeric(patient.born)}"
        ),
        Paragraph(f"Проживает: {patient.address}, тел. {patient.phone}"),
        Paragraph(f"Амбулаторная карта № {patient.card}"),
        Paragraph(f"Исследование провёл врач {visit.doctor.short()}, {numeric(visit.studied)}"),
    ]


def _running_text(visit: Visit) -> list[Block]:
    patient, person = visit.patient, visit.patient.person
    return [
        _title("Медицинский центр «Томограф-Плюс»"),
        Paragraph(
            f"{person.agree('Пациент', 'Пациентка')} {person.full()}, {numeric(patient.born)} г.р., "
            f"{person.agree('проживающий', 'проживающая')} по адресу: {patient.address}, "
            f"тел. {patient.phone}, {person.agree('направлен', 'направлена')} "
            f"доктором {visit.referrer.short('ins')}"
        ),
        Paragraph(f"{worded(visit.studied)} г. выполнена {visit.title}. {visit.technique}"),
        _bold("Данные исследования"),
        Paragraph(visit.description),
        _bold("Заключение"),
        Paragraph(visit.conclusion),
        *_advice(visit),
        Paragraph(f"Исследование {visit.doctor.agree('описал', 'описала')}: {visit.doctor.full()}"),
    ]


LAYOUTS = (
    Layout("passport table", " ", "", _passport_table),
    Layout("lines", "\n", "", _lines),
    Layout("letterhead", " ", "На серии МР-томограмм", _letterhead),
    Layout("cells", " ", "", _cells),
    Layout("capitals", "\n", "", _capitals),
    Layout("passport last", " ", "", _passport_last),
    Layout("running text", " ", "", _running_text),
)
