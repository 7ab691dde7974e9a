# ruff: noqa: E501 - lists of words
"""What one line of a report is, judged by its own words."""

import re
from enum import Enum, auto


class LineKind(Enum):
    """Kinds of line that matter for finding the sections."""

    DESCRIPTION_HEADING = auto()
    CONCLUSION_HEADING = auto()
    ADVICE = auto()
    FIELD = auto()
    SIGNATURE = auto()
    DISCLAIMER = auto()
    TITLE = auto()
    FINDINGS = auto()
    TEXT = auto()


# «МР-», «КТ », «УЗ-», «Рентгенологическое » before a heading word.
_METHOD = r"(?:(?:мр|мрт|кт|мскт|скт|узи?|рентген\w*|маммограф\w*|эхо\w*|магнитно-резонансн\w+|компьютерн\w+|ультразвуков\w+)[\s-]*){0,2}"
# Up to six words may stand between the heading word and its colon: «Заключение по данным МРТ:».
_WORDS = r"(?:[ ]+[\w().,«»\"/-]+){0,6}?"
_BULLET = r"^[\W_]*(?:\d{1,2}[.)]\s*)?"


# What may follow a heading word on a line of its own.
_COMPLEMENT = r"(?:[ ]+(?:по[ ]+(?:данным|результатам)(?:[ ]+[\w-]+){1,4}|врача(?:[ -]+[\w-]+){0,3}|исследовани\w+|мрт|мр|кт|узи|рентген\w*|№[ ]*\S+|\(.{1,30}\)))?"


def _heading(words: str, capitalised: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Three shapes: alone on the line, with a colon, and capitalised before a new sentence."""
    core = rf"{_BULLET}{_METHOD}(?:{words})"
    return (
        re.compile(rf"{core}{_COMPLEMENT}[\s:.—–-]*$", re.IGNORECASE),
        re.compile(
            rf"{core}(?:{_WORDS}[ ]*(?::|\t|\s[—–-]\s)|\.)[\s:.—–-]*(?P<text>.*)$", re.IGNORECASE | re.DOTALL
        ),
        re.compile(rf"{_BULLET}(?:{capitalised})[ ]+(?P<text>(?!№)[А-ЯЁA-Z][\w-]*[а-яё].*)$", re.DOTALL),
    )


_CONCLUSION = _heading(
    r"заключение|выводы?|впечатление|резюме|итог|impression|conclusion",
    "ЗАКЛЮЧЕНИЕ|Заключение|ВЫВОДЫ?|Выводы?",
)
_DESCRIPTION = _heading(
    r"описание|описательная[ ]часть|протокол(?:[ ]описания)?(?:[ ]исследования)?|данные(?:[ ]исследования)?"
    r"|результаты?(?:[ ]исследования)?|findings|description",
    "ОПИСАНИЕ|Описание",
)
_ADVICE_WORDS = (
    r"(?:рекоменд\w+|показан[аоы]?\s+консультаци\w+|(?:необходима?|желательн[аоы]|целесообразн[аоы])\s+(?:консультаци\w+|контрол\w+|дообследовани\w+)"
    r"|консультация\s+(?:врача|[а-яё]+лога|[а-яё]+хирурга|травматолога|ортопеда|терапевта)|контроль\s+(?:через|в динамике|МРТ|КТ|УЗИ))"
)
_ADVICE = re.compile(rf"{_BULLET}{_ADVICE_WORDS}", re.IGNORECASE)
_ADVICE_SENTENCE = re.compile(rf"(?:(?<=[.!?;])|(?<=\.\)))\s*(?={_ADVICE_WORDS})", re.IGNORECASE)

_DOCTOR = (
    r"(?:лечащий\s+|старший\s+|дежурный\s+|зав(?:едующ\w+|\.)?\s*(?:отделени\w+|отд\.?|каб\w+)?[,\s]*)*"
    r"(?:врач(?:[-–\s]*[а-яё]+(?:лог|ист))?|доктор|рентген(?:о)?лог|специалист|заведующ\w+|исполнитель|рентген(?:о)?лаборант|лаборант|профессор|к\.\s?м\.\s?н|д\.\s?м\.\s?н)"
)
_SIGNATURE = re.compile(
    rf"^[\W_]*(?:{_DOCTOR}\b(?!\w)|подпись|м\.\s?п\.|(?:исследование|описание|заключение)\s+(?:выполнил|провел|провёл|составил|подготовил|описал|дал)\w*"
    r"|(?:выполнил|провел|провёл|составил|подготовил|описал)[аи]?\b)",
    re.IGNORECASE,
)
# A line that is only a name, with initials or in full, as under a signature.
_NAME_ONLY = re.compile(
    r"^[\W_]*(?:[А-ЯЁ][а-яё]+(?:-[А-ЯЁ][а-яё]+)?\s+[А-ЯЁ]\.\s?[А-ЯЁ]\.?|[А-ЯЁ]\.\s?[А-ЯЁ]\.\s?[А-ЯЁ][а-яё]+(?:-[А-ЯЁ][а-яё]+)?"
    r"|[А-ЯЁ][а-яё]+\s+[А-ЯЁ][а-яё]+\s+[А-ЯЁ][а-яё]+(?:вич|вна|чна|ьич|кызы|оглы))[\W_]*$"
)
_DATE_ONLY = re.compile(
    r"^[\W_]*(?:дата\b.{0,20})?«?\d{1,2}»?[.\s/-]+(?:\d{1,2}|[а-яё]+)[.\s/-]+\d{2,4}\s*(?:г(?:ода|\.)?)?[\s,]*(?:\d{1,2}:\d{2})?[\W_]*$",
    re.IGNORECASE,
)
_FIELD = re.compile(
    r"^[\W_]*(?:ф\.?\s?и\.?\s?о\b|фамилия|имя\b|отчество|пациент(?:ка)?\b(?=\s*[:\t(—–-])|пациент(?:ка)?\s+[А-ЯЁ]|больн(?:ой|ая)\b(?=\s*[:\t(—–-])|больн(?:ой|ая)\s+[А-ЯЁ]"
    r"|дата\b|время\b|возраст|пол\b\s*[:\t]|год\s+рожд|г\.\s?р\.|д\.\s?р\.|дата рожд\w*|адрес|прожива\w+|тел(?:ефон|\.)?\b|факс|e-?mail|сайт|снилс|полис|омс\b|дмс\b|паспорт|страхов\w+"
    r"|номер\b|№|(?:амбулаторн\w+|медицинск\w+)\s+карт\w+|карта\b|история\s+болезни|и/б|ид\b|id\b|код\b|отделение\b|палата|кабинет"
    r"|направ(?:ивш|лен|ил)\w*|напр\.|кем направ\w*|диагноз|клинически\w+\s+(?:диагноз|данн)\w*|анамнез|жалобы|цель\s+исслед\w*|показания|контраст\w*\s*[:\t]|доза|эффективная\s+доза|лучевая\s+нагрузка|эд\s*[:=]"
    r"|аппарат\w*|томограф\b|оборудование|напряж[её]нность|методика|техника|протокол\s+сканирования|режим\w*|импульсн\w+\s+последовательност\w+|область\s+(?:исследования|сканирования)|вид\s+исследования"
    r"|исследование\s*[:\t№]|наименование|учреждение|организация|огрн|инн\b|лицензия|лиц\.|ул\.|г\.\s|\d{6},|стр(?:аница|\.)\s*\d)",
    re.IGNORECASE,
)
_DISCLAIMER = re.compile(
    r"^[\W_]*(?:(?:(?:данное|настоящее|это)\s*)?(?:мр-|кт-)?заключение\s+не\s+(?:является|заменяет)|не\s+является\s+(?:окончательным\s+)?диагноз\w*"
    r"|внимание!|интерпретаци\w+|для\s+уточнения\s+диагноза|документ\s+подписан|сертификат|электронн\w+\s+подпис\w+|действителен|владелец)",
    re.IGNORECASE,
)
_TITLE = re.compile(
    r"^[\W_]*(?:(?:протокол|заключение|результат\w*|выписка)\s+(?:№\s*\S+\s*)?)?(?:мрт|мр-томограф\w+|магнитно-резонансн\w+|кт|мскт|компьютерн\w+|рентгенограф\w+|рентгеноскоп\w+|маммограф\w+|узи|ультразвуков\w+|эхокардиограф\w+|эхо-?кг|флюорограф\w+|денситометр\w+|мр-ангиограф\w+)"
    r"(?![^.]*\b(?:выполнен\w*|проведен\w*|получен\w*|определя\w+|выявл\w+|визуализ\w+|отмеча\w+|признак\w*|картина)\b)[^.:]{0,140}\.?$",
    re.IGNORECASE,
)
_FINDINGS = re.compile(
    r"^[\W_]*(?:на\s+(?:серии|полученн\w+|представленн\w+|контрольн\w+|обзорн\w+|мр|кт|томограмм\w*|рентгенограмм\w*|снимк\w*|сканах)|при\s+(?:мр|кт|узи?|исследован|ультразвук|рентген|осмотре)\w*|по\s+данным|серия\s+(?:мр|кт)"
    r"|(?:мрт?|кт|узи)[-\s]?(?:исследован|томограф|скан)\w*\s.{0,120}(?:выполнен|проведен)\w*|исследование\s+(?:выполнен|проведен)\w*|получен\w*\s+(?:мр|кт|изображ|серии)\w*|выполнен\w*\s+(?:мр|кт|мрт|серия|исследован)\w*"
    r"|срединные\s+структуры|кости\s+свода)",
    re.IGNORECASE,
)
_METHOD_NAMED = re.compile(
    r"\w\s+(?:магнитно|мрт|мр\b|компьютерн|кт\b|ультразвук|узи|рентген|№)", re.IGNORECASE
)
# A paragraph this long in the header cannot be one more field of the patient block.
_PROSE_CHARACTERS = 160


def classify(line: str) -> tuple[LineKind, str]:
    """Tell what ``line`` is and what of it is section text (for headings: what follows them)."""
    for kind, text in _heading_of(line):
        return kind, text
    if _ADVICE.match(line):
        return LineKind.ADVICE, ""
    if _DISCLAIMER.match(line):
        return LineKind.DISCLAIMER, ""
    if _SIGNATURE.match(line) or _NAME_ONLY.match(line) or _DATE_ONLY.match(line):
        return LineKind.SIGNATURE, ""
    if _FINDINGS.match(line):
        return LineKind.FINDINGS, line
    if _FIELD.match(line):
        return LineKind.FIELD, ""
    if _TITLE.match(line):
        return LineKind.TITLE, ""
    if len(line) >= _PROSE_CHARACTERS:
        return LineKind.FINDINGS, line
    return LineKind.TEXT, line


def _heading_of(line: str) -> list[tuple[LineKind, str]]:
    if _DISCLAIMER.match(line) or _SIGNATURE.match(line):
        return []
    for kind, (alone, with_colon, in_capitals) in (
        (LineKind.CONCLUSION_HEADING, _CONCLUSION),
        (LineKind.DESCRIPTION_HEADING, _DESCRIPTION),
    ):
        if alone.match(line):
            # «Протокол магнитно-резонансной томографии» names the paper, not its part.
            return [] if _METHOD_NAMED.search(line) and kind is LineKind.DESCRIPTION_HEADING else [(kind, "")]
        match = with_colon.match(line) or in_capitals.match(line)
        if match:
            return [(kind, match.group("text").strip())]
    return []


def cut_advice(text: str) -> tuple[str, str]:
    """Part a paragraph of the conclusion from the advice that follows in it."""
    match = _ADVICE_SENTENCE.search(text)
    if match is None:
        return text, ""
    return text[: match.start()].rstrip(), text[match.start() :].strip()
