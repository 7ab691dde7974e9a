# ruff: noqa: E501 - one pattern a line reads better than five pieces of it
"""Personal data that has a form: dates, ages, numbers of papers, telephones, addresses.

Each pattern names by the group ``datum`` what is replaced; the words around it stay. Each
is written so that a measurement cannot fit it: «1.5 Тл», «12х15х20 мм», «L4-L5», «Th12»,
«Grade 2», «серия 5» have neither the digits nor the neighbours.
"""

import re
from collections.abc import Iterator

from narrowcast_gateway.preprocessing.deidentification.placeholders import Kind, Span

_MONTH = r"(?:январ[ьяеюё]м?|феврал[ьяею]м?|март(?:а|е|у|ом)?|апрел[ьяею]м?|ма[йяею]м?|июн[ьяею]м?|июл[ьяею]м?|август(?:а|е|у|ом)?|сентябр[ьяею]м?|октябр[ьяею]м?|ноябр[ьяею]м?|декабр[ьяею]м?)"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_MONTH_NUMBER = r"(?:0?[1-9]|1[0-2])"
_YEAR = r"(?:19|20)\d\d"
_YEAR_WORD = r"(?:\s*(?:год(?:а|у|ом|е)?\b|г\b\.?))"
_UNIT = r"(?:[-–хx×*]|до\b|мм|см|м\b|мл|мг|мкг|кг|г/|ед|уд|сек|с\b|мс|мин|%|тл|hu|град|°|мзв|кв|мв|ма|гр\b|мкм|л\b|нг|пг|mm|cm|ml|ms)"
# Not a level of the spine: «Протрузии дисков: C5-C6».
_CARD_NUMBER = r"(?!(?:[CСLSТTD]|Th|Тh)\d{1,2}(?!\d))[A-Za-zА-Яа-яЁё]{0,4}[-/]?\d[\dA-Za-zА-ЯЁ/\\-]*"
_NUMBER_SIGN = r"(?:№|N[º°o]?\.?|номер)"

# What makes a number of years a while and not an age; the match is then left alone.
_WHILE = r"(?:\b(?P<kept>(?:в\s+течение|течени[еи]|более|менее|свыше|около|через|спустя|за|каждые|протяжении|последни[ехй]+|прошл\w+|стаж\w*|раз\s+в)\s+(?:последни[ехй]+\s+|прошедши[ехй]+\s+|чем\s+)?))?"
# A street, a town: the words that only an address has before a name in capitals.
_ADDRESS_HEAD = (
    r"(?:(?<!\d)(?<!\d\s)\bг(?:ор)?\.\s?(?=[А-ЯЁ])|\bгород(?:е|а)?\s+(?=[А-ЯЁ])|\b(?:ул|пер|просп|наб|бул|мкр|пос|дер)\.\s?(?=[А-ЯЁ\d])"
    r"|\b(?:улиц[аеы]|проспект[еа]?|пр-т|пр-д|проезд|переул(?:ок|ке)|шоссе|набережн(?:ая|ой)|бульвар[еа]?|микрорайон[еа]?|пос[её]л(?:ок|ке)|деревн[яе]|сел[ое]|станиц[аеы])\s+(?=[А-ЯЁ\d])"
    r"|\b[А-ЯЁ][а-яё-]+(?:ая|ой|ский|ского)\s+(?:обл(?:\.|асть|асти)|кра[йяе]|р-н|район[еа]?)(?!\w))"
)
_ADDRESS_TAIL = (
    r"(?:[А-ЯЁ\d][\w-]*(?:[ \t]+(?:[А-ЯЁ][\w-]*|лет|мая|марта|\d{1,3}(?=\s*[,.]|$)))*)?"
    r"(?:\s*,\s*(?:(?:г|гор|ул|пр|пр-т|просп|пер|ш|наб|б-р|пл|мкр|пос|п|с|дер|д|дом|корп|к|стр|кв|квартира|оф|обл|р-н)\b\.?\s*)?[А-ЯЁ\d][\w/-]*(?:[ \t]+(?:[А-ЯЁ][а-яё-]+|ул\.|обл\.|р-н))*"
    r"|\s+(?:д|дом|корп|к|стр|кв|квартира)\b\.?\s*\d+[а-яА-Я]?)*"
)
_QUOTED_OR_NUMBERED = r"(?:\s*(?:№\s*\d+|«[^»\n]{1,80}»|\"[^\"\n]{1,80}\"|(?:им\.|имени)\s*(?:[А-ЯЁ]\.\s?){0,2}[А-ЯЁ][а-яё-]+(?:\s[А-ЯЁ]\.\s?[А-ЯЁ]\.)?))+"

_PATTERNS: tuple[tuple[Kind, str], ...] = (
    (Kind.EMAIL, r"(?P<datum>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)"),
    (Kind.EMAIL, r"(?P<datum>(?:https?://|www\.)\S+)"),
    # Dates.
    (Kind.DATE, rf"(?<![\d.,])(?P<datum>{_DAY}\s?[./-]\s?{_MONTH_NUMBER}\s?[./-]\s?(?:{_YEAR}|\d\d)(?!\d)(?![.,]\d)(?:{_YEAR_WORD})?)(?!\s*{_UNIT})"),
    (Kind.DATE, rf"(?<![\d.,])(?P<datum>{_YEAR}[./-]{_MONTH_NUMBER}[./-]{_DAY}(?!\d)(?:T\d\d:\d\d(?::\d\d)?)?)"),
    (Kind.DATE, rf"(?<![\d.,])(?P<datum>[«\"]?{_DAY}[»\"]?(?:-?(?:го|е))?\s+{_MONTH}\b(?:\s*,?\s*{_YEAR}(?:{_YEAR_WORD})?|\s+\d\d\s*г\.?)?)"),
    (Kind.DATE, rf"(?P<datum>\b{_MONTH}\s+{_YEAR}(?!\d)(?:{_YEAR_WORD})?)"),
    (Kind.DATE, rf"(?<![\d.,/-])(?P<datum>{_MONTH_NUMBER}[./]{_YEAR}(?!\d)(?:{_YEAR_WORD})?)(?!\s*{_UNIT})"),
    (Kind.DATE, rf"(?<![\d.,-])(?P<datum>{_YEAR}(?:\s*[-–]\s*{_YEAR})?\s*г(?:\.\s?г\.|г\.|од(?:а|у|ом|е|ы|ов|ах)?\b|\b\.?)(?!\s?/))"),
    (Kind.DATE, rf"\b(?:от|за|дата)\s+(?P<datum>(?:0[1-9]|[12]\d|3[01])\.(?:0[1-9]|1[0-2]))(?![\d.,]\d)(?!\d)(?!\s*{_UNIT})"),
    # Ages. A number of years is one, unless the words beside it make it a while: «5 лет назад».
    (Kind.AGE, rf"{_WHILE}(?<![\d.,–-])(?P<datum>\d{{1,3}}(?:-т[иь])?\s*(?:лет|год(?:а|ов)?|л\.)(?!\w))(?!\s*(?:назад|спустя|тому|от|после|наблюд))"),
    (Kind.AGE, r"\b(?:реб[её]н\w+|мальчик\w*|девочк\w*|новорожд\w+|младен\w+)[^.;\n]{0,20}?\s(?P<datum>\d{1,3}(?:-т[иь])?\s*(?:мес(?:яц\w*|\.)?|дн(?:я|ей)|сут\w*|нед\w*)(?!\s+назад)(?!\w))"),
    (Kind.AGE, r"\bвозраст\w*\s*[:(—–-]?\s*(?P<datum>\d{1,3}(?:-т[иь])?\s*(?:лет|год(?:а|ов)?|г\.|л\.|мес(?:яц\w*|\.)?|дн(?:я|ей))?)(?!\w)(?!\s*[-–]\s*\d)"),
    (Kind.AGE, r"(?<!\d)(?P<datum>\d{1,3}(?:-х|-ти|-и)?[-\s]?летн\w+)"),
    (Kind.AGE, r"(?<!\d)(?P<datum>\d{1,3}\s*(?:лет|год(?:а)?))(?=\s*(?:,|\()?\s*(?:мужчин|женщин|муж|жен)\w*)"),
    (Kind.DATE, r"(?<!\d)(?P<datum>(?:19|20)\d\d\s*(?:г\.?\s?р\.?|года?\s+рожд\w+))"),
    # Numbers of papers.
    (Kind.NUMBER, r"(?<!\d)(?P<datum>\d{3}[-\s]\d{3}[-\s]\d{3}[-\s]\d{2})(?!\d)"),
    (Kind.NUMBER, r"(?<!\d)(?P<datum>\d{4}[\s-]\d{4}[\s-]\d{4}[\s-]\d{4})(?!\d)"),
    (Kind.NUMBER, r"(?<!\d)(?P<datum>\d{2}\s?\d{2}\s(?:№\s*)?\d{6})(?!\d)"),
    (Kind.NUMBER, r"\b(?:паспорт\w*|полис\w*|снилс|омс|дмс|инн)\b[^\d\n]{0,25}(?P<datum>\d[\d\s№-]{3,24}\d)"),
    (Kind.NUMBER, rf"\b(?:карт(?:а|ы|е|у|ой)|истори\w{{1,2}}\s+болезни|и/б|иб|протокол\w*|исследовани\w*|направлени\w*|договор\w*|заключени\w*|заявк\w*|обращени\w*|пациент\w*|id|ид|код|штрих-?код|инв\w*|архив\w*)\.?\s*(?:пациента\s*|больного\s*)?(?:{_NUMBER_SIGN}\s*[:.]?|:)\s*(?P<datum>{_CARD_NUMBER})(?!\s*{_UNIT})"),
    (Kind.NUMBER, r"\b(?:(?:амб(?:улаторн\w+|\.)|мед(?:ицинск\w+|\.))\s*карт\w+|истори\w{1,2}\s+болезни|и/б)\s+(?P<datum>[A-ZА-ЯЁa-zа-яё]{0,3}[-/]?\d[\d/\\-]{2,}[A-ZА-ЯЁ]?)"),
    (Kind.NUMBER, r"№\s*(?P<datum>(?:[A-Za-zА-ЯЁа-яё]{1,4}[-/]?)?\d{4,}[\d/\\A-Za-zА-ЯЁа-яё-]*|[A-Za-zА-ЯЁ]{0,4}\d{1,6}[/\\-]\d[\d/\\A-Za-zА-ЯЁ-]*)"),
    # Telephones.
    (Kind.PHONE, r"(?<![\d.,])(?P<datum>(?:\+\s?7|8)[\s(-]{0,3}\d{3,5}[\s)-]{0,3}\d{1,3}[\s-]?\d{2}[\s-]?\d{2})(?!\d)"),
    (Kind.PHONE, r"(?<!\d)(?P<datum>\(\d{3,5}\)\s?\d{1,3}[\s-]?\d{2}[\s-]?\d{2})(?!\d)"),
    (Kind.PHONE, r"(?<![\d.,-])(?P<datum>\d{2,3}-\d{2}-\d{2})(?![\d-])(?!\s*(?:мм|см))"),
    (Kind.PHONE, r"\b(?:тел(?:ефон\w*)?|моб(?:ильн\w+)?|факс|доб)\b\.?\s*:?\s*(?P<datum>[+(]?\d[\d\s()+-]{3,20}\d)"),
    # After telephones, which are long runs of digits too.
    (Kind.NUMBER, rf"(?<![\d.,])(?P<datum>\d{{6,}})(?![.,]?\d)(?!\s*{_UNIT})"),
    # Places.
    (Kind.ADDRESS, rf"(?P<datum>(?:\b\d{{6}},?\s*)?{_ADDRESS_HEAD}{_ADDRESS_TAIL})"),
    (Kind.ADDRESS, r"\b(?:по\s+адресу|адрес(?:\s+(?:проживания|регистрации|прописки))?)\s*:?\s*(?P<datum>[^\n;]{4,140}?)(?=\s*(?:$|\n|;|\.\s+[А-ЯЁ][а-яё]{3,}\s+[а-яё]))"),
    (Kind.INSTITUTION, rf"(?P<datum>\b(?:Ф?ГБО?УЗ?|ФГАУ|Г[БА]УЗ|М[БА]?УЗ?|[ОК]ГБУЗ|ООО|ОАО|ЗАО|АО|ИП|ЧУЗ|ГКБ|ГДКБ|ДГКБ|ЦРБ|ОКБ|РКБ|ККБ|ГБ|ГП|ДГП|НМИЦ|НИИ|МЦ|ЛДЦ|КДЦ|МСЧ){_QUOTED_OR_NUMBERED})"),
    (Kind.INSTITUTION, rf"(?i:(?P<datum>\b(?:больниц|поликлиник|госпитал|клиник|диспансер|институт|медсанчаст|роддом|центр)[а-яё]{{0,4}}{_QUOTED_OR_NUMBERED}))"),
)  # fmt: skip

# Address heads and institutions are told by their capitals; the rest is written either way.
_CASE_SENSITIVE = frozenset({Kind.ADDRESS, Kind.INSTITUTION})
_COMPILED = tuple(
    (kind, re.compile(pattern, re.MULTILINE if kind in _CASE_SENSITIVE else re.IGNORECASE | re.MULTILINE))
    for kind, pattern in _PATTERNS
)


def find_by_pattern(text: str) -> Iterator[Span]:
    """Spans of everything that has the form of a datum; they may overlap."""
    for kind, pattern in _COMPILED:
        for match in pattern.finditer(text):
            if match.groupdict().get("kept"):
                continue
            start, stop = match.span("datum")
            # An address may end in the comma or the blank before the next clause.
            while stop > start and text[stop - 1] in " ,\t\n":
                stop -= 1
            if stop > start:
                yield Span(start, stop, kind)
