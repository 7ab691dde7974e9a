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
# Shortened and English months are told by a day and a year beside them.
_MONTH_SHORT = rf"(?:{_MONTH}|(?:янв|февр?|мар|апр|май|июн|июл|авг|сент?|окт|нояб?|дек|jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)(?!\w))"
_MONTH_ENGLISH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)[a-z]*"
# Cyrillic Х and І look the same.
_MONTH_ROMAN = r"(?-i:[IVXХІ]{1,4})"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_DAY_SPELLED = r"(?:(?:двадцать|тридцать)\s+)?(?:перв|втор|треть|четв[её]рт|пят|шест|седьм|восьм|девят|десят|[а-яё]+надцат|двадцат|тридцат)(?:ого|его|ое|ье)"
_MONTH_NUMBER = r"(?:0?[1-9]|1[0-2])"
_DAY_MONTH = r"(?:0[1-9]|[12]\d|3[01])\.(?:0[1-9]|1[0-2])"
_YEAR = r"(?:19|20)\d\d"
_YEAR_WORD = r"(?:\s*(?:год(?:а|у|ом|е)?\b|г\b\.?))"
# What a measurement is in. Whole words: «12.03.2024 с контрастом, смещение» is a date.
_UNIT = r"(?:[хx×*]\s*\d|(?:мм|см|м|мл|мг|мкг|кг|г/\w+|ед|уд|сек|мс|мин|тл|hu|град|мзв|кв|мв|ма|гр|мкм|л|нг|пг|mm|cm|ml|ms)[23²³]?(?!\w)|%|°)"
# With a year. Two digits for it may be a measurement's.
_DATE = rf"{_DAY}\s?[./-]\s?{_MONTH_NUMBER}\s?[./-]\s?(?:{_YEAR}(?!\d)(?![.,]\d)(?:{_YEAR_WORD})?|\d\d(?!\d)(?![.,]\d|/\d{{1,2}}(?![\d./]))(?:{_YEAR_WORD})?(?!\s*{_UNIT}))"
# Of a range of measurements: «от 10.12 до 15.11 мм».
_RANGE = rf"(?:\s*(?:[-–—]|до)\s*\d[\d.,/]*\s*{_UNIT})"
# What tells that «18.04» is no measurement.
_BEFORE_DAY_MONTH = (
    r"от|за|с|к|дата|дтп|травм[аы]|пм|утром|днем|днём|вечером|ночью"
    r"|мрт|(?:мс)?кт|узи|рентген\w*|пцр|биопси\w+|консилиум\w*|консультаци\w+|явк\w+|при[её]м\w*|осмотр\w*|контрол\w+|операци\w+|выписан[аы]?|поступил[аи]?|госпитализ\w+"
)
# Events and examinations, which have no size: «снимки 12/11». Not «биопсия»: «10/12 столбиков».
_BEFORE_SLASH = (
    r"от|дата|дтп|травм[аы]|мрт|(?:мс)?кт|узи|эхокг|фгд?с|экг|пэт|рентген\w*|р-?гр?\b|консилиум\w*|консультаци\w+|явк\w+|при[её]м\w*"
    r"|осмотр\w*|контрол\w+|операци\w+|выписан[аы]?|поступил[аи]?|госпитализ\w+|снимк\w+|исследовани\w+|скрининг\w*|повторно|динамик\w+"
)
# «03.04», «18/06»: a whole number of a measurement has no nought before it, nor has half of a ratio.
_DAY_MONTH_SURE = r"(?:0[1-9]\.(?:0[1-9]|1[0-2])|0[1-9]/(?:0[1-9]|1[0-2])|(?:[12]\d|3[01])/0[1-9])"
_DAY_MONTH_SLASH = r"(?:[12]\d|3[01])/1[0-2]"
# More of what is measured, where no year says otherwise.
_UNIT_ANY = rf"(?:{_UNIT}|[±+]|(?:ме|мед|мме|ммоль|мкмоль|моль|[мгк]бк|г|кг|балл\w*|нед\w*|мес\w*|лет|год(?:а|ов)?|сут\w*|дн\w*|раз\w*|час\w*|ч|вт|дж|гц|мгц|кпа|дптр|столб\w*|hu|ppm|msv|suv)(?:/\w+)?(?!\w))"
# The first of two measurements with one unit: «12.05 и 14.06 мм».
_MEASURED_PAIR = rf"(?:(?:\s*(?:,|и|;)\s*\d+\.\d\d){{1,3}}\s*{_UNIT_ANY})"
# What is measured and often goes without its unit: «диаметр аорты 31.12», «Vmax 12.05», «КДО 14.05». Most
# abbreviations; not those of examinations.
_MEASURED = (
    r"(?:объ[её]м\w*|размер\w*|диаметр\w*|длин\w+|ширин\w+|толщин\w+|высот\w+|площад\w+|плотност\w+|глубин\w+|индекс\w*|коэффициент\w*"
    r"|скорост\w+|градиент\w*|фракци\w+|масс\w{1,2}|вес\w{0,2}|рост\w{0,2}|угол|угл[аы]|сигнал\w*|показател\w+|значени\w+|уров(?:ень|н\w+)|доз\w{1,2}|мощност\w+"
    r"|(?:со)?отношени\w+|давлени\w+|пульс|норм\w{1,3}|балл\w{0,3}|вс\.?|ср\.?|макс\.?|мин|около|до|более|менее|свыше|выше|ниже|глюкоз\w+|креатинин\w*|билирубин\w*|гемоглобин\w*|кальцитонин\w*|[а-яё]+цит[ыо]в?)(?:[ \t][а-яё]{3,20}){0,3}"
    r"|(?!(?:mri|mr|ct|us|pet|date|of|on|from|dated)\b)[a-z]{1,12}|сери[яи]|сер|срез\w*|изображени\w*|кадр\w*"
    r"|(?-i:(?!(?:М?СКТ|М?РТ|МРТ|КТ|РКТ|КЛКТ|УЗИ|УЗДГ|ЭКГ|ЭЭГ|ЭНМГ|ФГС|ФГДС|ПЦР|ПЭТ|ФЛГ|РГ|ММГ|ОГК|ОБП|ОМТ|ППН|ПОП|ШОП|ГОП|ТБС|КПС|БЦА|ДТП|ПМ|ОТ|НА|ЗА)\b)[A-ZА-ЯЁ][A-ZА-ЯЁa-z]{0,2}[A-ZА-ЯЁ\d])"
)
_WEEKDAY = r"(?:понедельник|вторник|сред[уа]|четверг|пятниц[уа]|суббот[уа]|воскресенье|пн|вт|чт|пт|сегодня|завтра|вчера)"
# Not a level of the spine: «Протрузии дисков: C5-C6».
_CARD_NUMBER = r"(?!(?:[CСLSТTD]|Th|Тh)\d{1,2}(?!\d))[A-Za-zА-Яа-яЁё]{0,4}[-/]?\d[\dA-Za-zА-ЯЁ/\\-]*"
# Papers whose number follows them with a sign («№», «:») or without one, in words and shortened.
_RECORD = r"карт(?:а|ы|е|у|ой)|истори\w{1,2}\s+б(?:олезни|-ни)|ист\.\s*бол(?:\.|езни)|и/б|а/к|id|ид|accession(?:\s+number)?"
_PAPER = r"дел[оау]|договор\w*|заказ\w*|заявк\w*|талон\w*|квитанци\w+|наряд\w*|повестк\w+|справк\w+|сертификат\w*|удостоверени\w+|свидетельств\w+|рецепт\w*|кусп|электронн\w+\s+больничн\w+|элн"
_NUMBER_SIGN = r"(?:№|N[º°o]?\.?|номер)"

# Whose age a bare number tells.
_PEOPLE = r"пациент\w*|больн(?:ой|ая|ого|ому|ым|ую)|мужчин\w*|женщин\w*|мальчик\w*|девочк\w*|реб[её]н\w+"
_DECADE_SPELLED = r"\b(?:двадцат[ьи]|тридцат[ьи]|сорока?|(?:пят|шест|сем|восем|восьм)[ьи]десяти?|девяноста?)(?:\s+(?:один|одного|два|две|двух|три|тр[её]х|четыре|четыр[её]х|пят[ьи]|шест[ьи]|сем[ьи]|восемь|восьми|девят[ьи]))?"
_AND_MONTHS = r"(?:\s*(?:и\s*)?\d{1,2}\s*(?:мес(?:яц\w*|\.)?|м)(?!\w)\.?)?"
# What makes a number of years a while and not an age; the match is then left alone.
_WHILE = r"(?:\b(?P<kept>(?:в\s+течение|течени[еи]|более|менее|свыше|около|через|спустя|за|каждые|протяжении|последни[ехй]+|прошл\w+|стаж\w*|курени\w+|длительност\w+|анамнез\w*|менопауз\w*|болеет|страдает|курит|наблюда\w+|раз\s+в)\s+(?:последни[ехй]+\s+|прошедши[ехй]+\s+|чем\s+|заболевани\w+\s+)?))?"
# A street, a town: the words that only an address has before a name in capitals.
_ADDRESS_HEAD = (
    r"(?:(?<!\d)(?<!\d\s)\bг(?:ор)?\.\s?(?=[А-ЯЁ])|\bгород(?:е|а)?\s+(?=[А-ЯЁ])|\b(?:ул|пер|просп|наб|бул|мкр|пос|дер)\.\s?(?=[А-ЯЁ\d])"
    r"|\b(?:улиц[аеы]|проспект[еа]?|пр-т|пр-д|проезд|переул(?:ок|ке)|шоссе|набережн(?:ая|ой)|бульвар[еа]?|микрорайон[еа]?|пос[её]л(?:ок|ке)|деревн[яе]|сел[ое]|станиц[аеы])\s+(?=[А-ЯЁ\d])"
    r"|\b[А-ЯЁ](?![а-яё-]*ическ)[а-яё-]+(?:ск|цк)(?:ая|ой|ий|ого|ом)\s+(?:обл(?:\.|асть|асти)|кра[йяе]|р-н|район[еа]?)(?!\w)|\bРеспублик[аи]\s+(?=[А-ЯЁ])"
    # «и т. п. Костные», «пр. почка»: these letters are an address only after a word of place.
    r"|(?:(?<=\b[Ии]з\s)|(?<=\b[Вв]\s))(?:[спхда]\.|(?:пгт|рп|снт|СНТ)\.?)\s?(?=[А-ЯЁ«]))"
)
_ADDRESS_TAIL = (
    r"(?:«?[А-ЯЁ\d][\w-]*»?(?:[ \t]+(?:[А-ЯЁ][\w-]*|лет|мая|марта|\d{1,3}(?:[-/]\d{1,3})?(?=\s*[,.]|$)))*)?"
    r"(?:\s*,\s*(?:(?:г|гор|ул|пр|пр-т|просп|пер|ш|наб|б-р|пл|мкр|пос|п|с|дер|д|дом|корп|к|стр|кв|квартира|оф|обл|р-н)\b\.?\s*)?[А-ЯЁ\d][\w/-]*(?:[ \t]+(?:[А-ЯЁ][а-яё-]+|ул\.|обл\.|р-н|\d{1,3}(?:[-/]\d{1,3})?(?=\s*[,.;]|$)))*"
    r"|\s+(?:д|дом|корп|к|стр|кв|квартира)\b\.?\s*\d+[а-яА-Я]?)*"
)
_QUOTED_OR_NUMBERED = r"(?:\s*(?:№\s*\d+|«[^»\n]{1,80}»|\"[^\"\n]{1,80}\"|(?:им\.|имени)\s*(?:[А-ЯЁ]\.\s?){0,2}[А-ЯЁ][а-яё-]+(?:\s[А-ЯЁ]\.\s?[А-ЯЁ]\.)?))+"

_LEGAL_FORM = r"Ф?ГБО?УЗ?|ФГАУ|Г[БА]УЗ|М[БА]?УЗ?|[ОК]ГБУЗ|ОАО|ЗАО|ЧУЗ"
_HOSPITAL = r"Д?ГКБ|ГДКБ|ЦРБ|ЦКБ|ОД?КБ|Д?РКБ|ККБ|БСМП|ВКГ|РОНЦ|РКОД|НМИЦ|МКДЦ|ЛДЦ|КДЦ|МСЧ|МНТК"
# Of these there is one each. Not ЦИТО: «цито!»
_CENTRE = r"НЦССХ|ФЦССХ|НМХЦ|РНЦХ|РНЦРР|МКНЦ|ФНКЦ|МРНЦ|МОНИКИ|МИБС|ЦМРТ|РДКБ|КДЛ|ДНКОМ"
# Clinics and laboratories with branches in many towns, where the name is a word that reports lack otherwise.
_BRAND = (
    r"Инвитро|Гемотест\w{0,2}|Хеликс\w{0,2}|Юнилаб\w{0,2}|Ситилаб\w{0,2}|Лабквест\w{0,2}|Диалаб\w{0,2}|Медси|Медскан\w{0,2}|МедСкан\w{0,2}|Евромед\w{0,2}|Мед[Ээ]ксперт\w{0,2}|МРТ[- ]Эксперт\w{0,2}"
    r"|Ниармедик\w{0,2}|Диксион\w{0,2}|Томоград\w{0,2}|Добромед\w{0,2}|Медгард\w{0,2}|Реавиз\w{0,2}|Медлайн\w{0,2}|Клиника\s\+31|К\+31|(?:СМ|Он|ОН|Чудо|Смарт)[- ][Кк]линик\w{0,2}|Рэмси"
)
_TOWN = r"\b[А-ЯЁ][а-яё-]+(?:ск|цк)(?:ой|ая|ом|ий|ого|ую|ое)"
_TOWNS = rf"(?:{_TOWN}\s+)?"
_OF_A_TOWN = r"(?:\s+г(?:\.\s?|орода\s+)[А-ЯЁ][а-яё-]+)?"
# «ФМБА», «Калининград»
_NAME_OF_HOSPITAL = r"(?:[ \t][А-ЯЁ]{3,5}\b|[ \t][А-ЯЁ][а-яё]{2,}(?:-[А-ЯЁа-яё]+)*)"
_SHOUTED_BRAND = (
    r"ИНВИТРО|ГЕМОТЕСТ|ХЕЛИКС|ЮНИЛАБ|СИТИЛАБ|ЛАБКВЕСТ|МЕДСИ|МЕДСКАН|ЕВРОМЕД|МРТ[- ]ЭКСПЕРТ|СМ[- ]КЛИНИКА"
)
# What an institute is of: «онкологии», «глазных болезней».
_SPECIALTY = r"(?:(?:\s+[а-яё]+(?:ной|ых|их))?\s+(?:[а-яё]+(?:логии|хирургии|терапии|медицины|педии|атрии)|болезней|помощи|здоровья|реабилитации|диагностики))"
_KIND_OF_HOSPITAL = r"(?:\b(?:[а-яё-]{1,30}ск|городск|областн|районн|республиканск|краев|детск|клиническ|центральн|участков|ветеранск)[а-яё]{2,3}\s+){0,4}"

_PATTERNS: tuple[tuple[Kind, str], ...] = (
    # Bounded, as a local part is: a long run of letters would take time by its square.
    (Kind.EMAIL, r"(?P<datum>[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+)"),
    (Kind.EMAIL, r"(?P<datum>(?:https?://|www\.)\S+)"),
    (Kind.EMAIL, r"(?<![\w.@-])(?P<datum>(?:[\w-]+\.)*[\w-]{3,}\.(?:ru|рф|su|com|org|net|info|kz|local|lan)(?![\w.])(?:[/:]\S*)?)"),
    # Folders of a hospital's computers are called after patients.
    (Kind.EMAIL, r"(?P<datum>(?:\\\\\w|(?<!\w)[A-Za-z]:[\\/])\S+)"),
    (Kind.EMAIL, r"(?<![\w.])(?P<datum>@[a-z]\w{3,})"),
    # Dates. The first of a pair may be short: «12-15.03.2024», «с 12.03 по 15.03.2024».
    (Kind.DATE, rf"(?<![\d.,])(?P<datum>(?:(?:{_DAY}\s?(?:[-–]|по)|{_DAY_MONTH}\.?\s?(?:[-–,]|и|по))\s?)?{_DATE}(?:\s?(?:,|и|по)\s{_DAY_MONTH}(?![\d.,]*\d)(?!\s*{_UNIT}))*)"),
    (Kind.DATE, rf"(?<![\d.,])(?P<datum>(?:0[1-9]|[12]\d|3[01])[ ,](?:0[1-9]|1[0-2])[ ,]{_YEAR})(?!\d)(?!\s*{_UNIT})"),
    (Kind.DATE, rf"(?<![\w.,/-])(?P<datum>(?:{_DAY}\s?[./-]\s?{_MONTH_ROMAN}\s?[./-]\s?(?:{_YEAR}|\d\d)|{_MONTH_ROMAN}[./]{_YEAR})(?!\d)(?:{_YEAR_WORD})?)"),
    (Kind.DATE, rf"(?<![\d.,])(?P<datum>{_YEAR}[./-]{_MONTH_NUMBER}[./-]{_DAY}(?!\d)(?:T\d\d:\d\d(?::\d\d)?)?)"),
    (Kind.DATE, rf"(?<![\d.,])(?P<datum>(?:{_DAY}\s?(?:[-–]|по|и)\s?)?(?:[«\"]\s?)?{_DAY}\s?[»\"]?(?:-?(?:го|е))?\s*{_MONTH}\b(?:\s*,?\s*{_YEAR}(?:{_YEAR_WORD})?|\s+\d\d\s*г\.?)?)"),
    (Kind.DATE, rf"(?<![\d.,])(?P<datum>(?:[«\"]\s?)?{_DAY}\s?[»\"]?[\s.-]{{0,2}}{_MONTH_SHORT}[\s.,-]{{0,2}}(?:{_YEAR}|\d\d)(?!\d)(?:{_YEAR_WORD})?)(?!\s*{_UNIT})"),
    (Kind.DATE, rf"(?P<datum>\b{_MONTH_ENGLISH}\.?\s+{_DAY}(?:st|nd|rd|th)?,?\s+{_YEAR})(?!\d)"),
    (Kind.DATE, rf"(?P<datum>\b{_DAY_SPELLED}\s+{_MONTH}\b(?:\s*,?\s*{_YEAR}(?:{_YEAR_WORD})?)?)"),
    (Kind.DATE, rf"(?P<datum>\b(?:{_MONTH}\s?-\s?)?{_MONTH}\s*(?:{_YEAR}(?!\d)(?:{_YEAR_WORD})?|\d\d\s*г(?:\.|ода?\b)))"),
    (Kind.DATE, rf"\b(?:с|до|от|к|за|после|начал[аеу]|середин[аеуы]|кон(?:ец|ц[ае]))\s+(?P<datum>{_MONTH})\b"),
    (Kind.DATE, r"\b(?:в|во)\s+(?P<datum>(?:январ|феврал|апрел|июн|июл|сентябр|октябр|ноябр|декабр|март|ма|август)е)\b"),
    (Kind.DATE, rf"(?<![\d.,/-])(?P<datum>{_MONTH_NUMBER}[./]{_YEAR}(?!\d)(?:\s?[-–]\s?{_MONTH_NUMBER}[./]{_YEAR}(?!\d))?(?:{_YEAR_WORD})?)(?!\s*{_UNIT})"),
    (Kind.DATE, rf"(?<![\d.,-])(?P<datum>{_YEAR}(?:\s*[-–]\s*{_YEAR})?\s*г(?:\.\s?г\.|г\.|од(?:а|у|ом|е|ы|ов|ах)?\b|\b\.?)(?!\s?/))"),
    # A year alone is one beside a word of time: «в 2019 оперирован».
    (Kind.DATE, rf"\b(?:в|с|после|весн(?:а|ой)|летом?|осенью?|зим(?:а|ой)|начал[ае]|конц[ае]|середин[ае]|кв(?:\.|артал[ае]?))\s+(?P<datum>(?:19[3-9]|20[0-4])\d(?:\s*(?:,|и|по|[-–])\s*(?:19[3-9]|20[0-4])\d)*)(?![\d.,]*\d)(?!\s*(?:{_UNIT}|раз|до\b))"),
    (Kind.DATE, r"\((?P<datum>(?:19[3-9]|20[0-4])\d\s?[-–]\s?(?:19[3-9]|20[0-4])\d)\)"),
    # A day and a month alone are a date beside a word of time, an examination or an event.
    (Kind.DATE, rf"\b(?:{_BEFORE_DAY_MONTH}|\d\d:\d\d)(?:,\s*|\s+)(?P<datum>{_DAY_MONTH}(?:\s*(?:,|и|по|[-–])\s*{_DAY_MONTH})*)(?![\d.,]\d)(?!\d)(?!\s*{_UNIT})(?!{_RANGE})"),
    (Kind.DATE, rf"(?<![\d.,])(?P<datum>{_DAY_MONTH})(?=:\s|,?\s(?:\d\d?:|в\s\d\d?[:-])\d\d(?!\d))"),
    (Kind.DATE, rf"(?:(?<!\w)(?P<kept>сери[яи]|сер\.?|срез\w*|se|im)\s?)?(?<![\w.,/])(?<!\d-)(?P<datum>{_DAY_MONTH_SURE}(?:\s{_YEAR}(?!\d)(?:{_YEAR_WORD})?)?)(?![.,/]?\d)(?!\s*{_UNIT_ANY})"),
    (Kind.DATE, rf"(?:(?<!\w)(?P<kept>{_MEASURED})[ \t:=~≈<>(-]{{1,3}})?(?<![\w.,/=<>~-])(?P<datum>(?:[12]\d|3[01])\.(?:0[1-9]|1[0-2]))(?![.,/]?\d)(?!\s*{_UNIT_ANY})(?!{_RANGE})(?!{_MEASURED_PAIR})"),
    (Kind.DATE, rf"\b(?:{_BEFORE_SLASH})[\s:,-]{{1,3}}(?P<datum>{_DAY_MONTH_SLASH})(?![.,/]?\d)(?!\s*{_UNIT_ANY})(?!{_RANGE})"),
    (Kind.DATE, rf"\b{_WEEKDAY}\.?,?\s(?P<datum>{_DAY}\.(?:0[1-9]|1[0-2]))(?![\d.,]*\d)(?!\s*{_UNIT})"),
    # Ages. A number of years is one, unless the words beside it make it a while: «5 лет назад».
    (Kind.AGE, rf"{_WHILE}(?<![\d.,–-])(?P<datum>(?:\d{{1,3}}(?:-?(?:т[иь]|х|и))?|{_DECADE_SPELLED})\s*(?:лет|год(?:а|ов)?|л\.)(?!\w){_AND_MONTHS})(?!\s*(?:назад|спустя|тому|от|после|наблюд))"),
    (Kind.AGE, r"\b(?:реб[её]н\w+|мальчик\w*|девочк\w*|новорожд\w+|младен\w+)[^.;\n]{0,20}?\s(?P<datum>\d{1,3}(?:-т[иь])?\s*(?:мес(?:яц\w*|\.)?|дн(?:я|ей)|сут\w*|нед\w*)(?!\s+назад)(?!\w))"),
    (Kind.AGE, rf"\b(?:{_PEOPLE})\s*[,:(—–-]?\s*(?P<datum>\d{{1,3}}\s*(?:г|л)(?!\w)\.?{_AND_MONTHS}|[1-9]\d(?=\s*(?:[.;)]\s|[.;)]?$))|(?:одного|двух|тр[её]х|четыр[её]х|пяти|шести|семи|восьми|девяти|десяти|[а-яё]+надцати)\s+(?:лет|года|месяц\w*))"),
    (Kind.AGE, r"\bвозраст\w*(?:(?:\s+изменени\w+)?\s+соответству\w+)?\s*[:(—–-]?\s*(?P<datum>\d{1,3}(?:-т[иь])?\s*(?:лет|год(?:а|ов|ам)?|г\.|л\.|мес(?:яц\w*|\.)?|дн(?:я|ей))?)(?!\w)(?!\s*[-–]\s*\d)"),
    (Kind.AGE, r"(?<!\d)(?P<datum>(?:\d{1,3}(?:-х|-ти|-и)?[-\s]?|\b(?:двадцати|тридцати|сорока|(?:пяти|шести|семи|восьми)десяти|девяносто|ста)(?:одно|двух|тр[её]х|четыр[её]х|пяти|шести|семи|восьми|девяти)?)летн\w+)"),
    (Kind.AGE, r"(?<!\d)(?P<datum>\d{1,3}\s*(?:лет|год(?:а)?))(?=\s*(?:,|\()?\s*(?:мужчин|женщин|муж|жен)\w*)"),
    (Kind.DATE, r"(?<!\d)(?P<datum>(?:(?:19|20)\d\d\s*(?:г\.?\s?/?р(?!\w)\.?|года?\s+рожд\w+)|\d\d\s*(?:г\.\s?р\.|г/р(?!\w)|года?\s+рожд\w+)))"),
    (Kind.DATE, r"\bгод\w*\s+рожд\w*\s*[:—–-]?\s*(?P<datum>\d{2}(?:\d{2})?)(?!\d)"),
    # Numbers of papers.
    (Kind.NUMBER, r"(?<![\w.])(?P<datum>(?=[\d.]*\d{3})\d+(?:\.\d+){5,})(?![\d.]*\d)"),  # DICOM's UIDs, OIDs
    (Kind.NUMBER, r"(?<!\d)(?P<datum>\d{3}[-\s]\d{3}[-\s]\d{3}[-\s]\d{2})(?!\d)"),
    (Kind.NUMBER, r"(?<!\d)(?P<datum>\d{4}[\s-]\d{4}[\s-]\d{4}[\s-]\d{4})(?!\d)"),
    (Kind.NUMBER, r"(?<!\d)(?P<datum>\d{2}\s?\d{2}\s(?:№\s*)?\d{6})(?!\d)"),
    (Kind.NUMBER, r"\b(?:паспорт\w*|полис\w*|снилс|омс|дмс|инн|иин)\b[^\d\n]{0,25}?(?P<datum>(?:\b[А-ЯЁA-Z]{2,3}-)?\d[\d\s№-]{3,24}\d)"),
    (Kind.NUMBER, r"\b(?P<datum>(?-i:[IVX]{1,4}-[А-ЯЁ]{2})\s*(?:№\s*)?\d{6})(?!\d)"),
    (Kind.NUMBER, rf"\b(?P<datum>(?-i:[A-ZА-ЯЁ]{{1,4}})-{_YEAR}-\d{{2,}})(?!\d)"),
    (Kind.NUMBER, r"\bпаспорт\w*\s+серия\s+(?P<datum>\d{2}\s?\d{2})(?!\d)"),
    (Kind.NUMBER, r"\bвыдан[аоы]?\s+(?P<datum>(?-i:[ОУГМ][А-ЯЁ]{2,4})(?:\s+[А-ЯЁ][\w-]*|\s+(?:района|города|области|по|г\.))*)"),
    (Kind.NUMBER, rf"\b(?:{_RECORD}|{_PAPER}|иб|мк(?:сб|аб)|протокол\w*|исследовани\w*|направлени\w*|заключени\w*|обращени\w*|пациент\w*|uid|код|(?:диск|cd|дв?д|препарат\w*|блок\w*|ст[её]к\w+|(?:онко)?консилиум\w*|ввк|вк)(?=\s*№)|штрих-?код|инв\w*|архив\w*)\.?\s*(?:пациента\s*|больного\s*)?(?:{_NUMBER_SIGN}\s*[:.]?|[:=](?=\s*\S*\d[\d/-]{{2}}))\s*(?P<datum>{_CARD_NUMBER})(?![\dA-Za-z/\\-])(?!\s*{_UNIT})"),
    (Kind.NUMBER, rf"\b(?:{_PAPER})\s+(?P<datum>(?:[A-ZА-ЯЁ]{{1,4}}[\s/-]?)?\d[\d/-]{{2,}})(?![\dA-Za-z])(?!\s*{_UNIT})"),
    (Kind.NUMBER, rf"{_DATE}\s?,?\s?№\s?(?P<datum>{_CARD_NUMBER})(?!\s*{_UNIT})"),
    # Of a drug's batch; a series of images has a number alone.
    (Kind.NUMBER, rf"\b(?:сери[яи]|парти[яи]|лот|lot|batch)\s*(?:{_NUMBER_SIGN}|:)?\s*(?P<datum>(?=[A-ZА-ЯЁ-]{{0,4}}\d)(?=[\d-]{{0,8}}[A-ZА-ЯЁ])[\dA-ZА-ЯЁ-]{{5,}})(?!\w)"),
    (Kind.NUMBER, rf"\bбригад\w{{1,2}}\s+(?:{_NUMBER_SIGN}\s*)?(?P<datum>\d{{1,5}})(?!\d)"),
    # A car's plate: «К412ОР178».
    (Kind.NUMBER, r"(?<!\w)(?P<datum>(?-i:[АВЕКМНОРСТУХ]\s?\d{3}\s?[АВЕКМНОРСТУХ]{2}\s?\d{2,3}))(?!\w)"),
    (Kind.NUMBER, rf"(?:№|\bномер)\s*(?:исследования|карты|протокола|истории\s+болезни|и/?б|направления|полиса|заказа)\s*:?\s*(?P<datum>{_CARD_NUMBER})"),
    (Kind.NUMBER, rf"\b(?:(?:амб(?:улаторн\w+|\.)|мед(?:ицинск\w+|\.)?)\s*карт\w+|{_RECORD})\s+(?:пациента\s*|больного\s*)?(?P<datum>[A-ZА-ЯЁa-zа-яё]{{0,3}}[-/]?\d[\d/\\-]{{2,}}[A-ZА-ЯЁ]?)(?![\dA-Za-z])(?!\s*{_UNIT})"),
    (Kind.NUMBER, r"№\s*(?P<datum>(?:[A-Za-zА-ЯЁа-яё]{1,4}[-/]?)?\d{4,}[\d/\\A-Za-zА-ЯЁа-яё-]*|[A-Za-zА-ЯЁ]{0,4}-?\d{1,6}[/\\-]\d[\d/\\A-Za-zА-ЯЁ-]*)"),
    # Telephones.
    (Kind.PHONE, r"(?<![\d.,])(?P<datum>(?:\+\s?7|8|7(?=[\s(-]{1,3}9\d\d))[\s(-]{0,3}\d{3,5}[\s)-]{0,3}\d{1,3}[\s-]?\d{2}[\s-]?\d{2})(?!\d)"),
    (Kind.PHONE, r"(?P<datum>\+\s?\d{1,3}(?:[\s().-]{0,2}\d){9,11})(?!\d)"),
    (Kind.PHONE, r"(?<![\d.,-])(?P<datum>(?:[78][.-])?\d{3}[.-]\d{3}[.-]\d{2}[.-]\d{2})(?![\d.-]*\d)"),
    (Kind.PHONE, r"(?<!\d)(?P<datum>\(\d{3,5}\)\s?\d{1,3}[\s-]?\d{2}[\s-]?\d{2})(?!\d)"),
    (Kind.PHONE, r"(?<![\d.,-])(?P<datum>\d{2,3}-\d{2}-\d{2})(?![\d-])(?!\s*(?:мм|см))"),
    (Kind.PHONE, r"\b(?:тел(?:ефон\w*)?|моб(?:ильн\w+)?|факс|доб)\b\.?\s*:?\s*(?P<datum>[+(]?\d[\d\s()+.-]{3,20}\d)"),
    # After telephones, which are long runs of digits too.
    (Kind.NUMBER, rf"(?<![\w.,])(?P<datum>(?:[A-ZА-ЯЁ]{{1,3}}-?)?\d{{6,}})(?![.,]?\d)(?!\s*{_UNIT})"),
    # Places.
    (Kind.ADDRESS, rf"(?P<datum>(?:\b\d{{6}},?\s*)?{_ADDRESS_HEAD}{_ADDRESS_TAIL})"),
    (Kind.ADDRESS, r"\b(?:[Пп]о\s+адресу|[Аа]дрес(?:\s+(?:проживания|регистрации|прописки))?)\s*:?\s*(?P<datum>[^\n;]{4,140}?)(?=\s*(?:$|\n|;|\.\s+[А-ЯЁ][а-яё]{3,}\s+[а-яё]))"),
    # Where somebody lives or comes from: «проживает в Казани», «житель с. Новый Кырлай».
    (Kind.ADDRESS, r"\b(?i:прожива\w+|жив[её]т|жил[аи]?|жител\w+|прибыл\w*|приехал\w*|родом):?\s+(?:(?:в|из|с)\s+)?(?P<datum>(?:(?:г|гор|с|п|д|пос|дер|пгт|рп|ст)\.\s?)?[А-ЯЁ][\w-]+(?:[ \t]+[А-ЯЁ][\w-]+)*)"),
    (Kind.INSTITUTION, rf"(?P<datum>{_TOWNS}(?:\b(?:{_LEGAL_FORM}|{_HOSPITAL}|ООО|АО|ИП|ГБ|Д?ГП|НИИ|МЦ)(?:\s+[А-ЯЁ]{{2,5}}){{0,4}}(?:(?:\s+[а-яё]+){{1,3}}(?=\s+(?:им\.|имени)))?{_QUOTED_OR_NUMBERED}|(?:\b(?:{_LEGAL_FORM}|НИИ)|(?<=\bв\s)ООО)(?:\s+(?:{_HOSPITAL}))?\s+(?:\d{{1,3}}\b(?!\s*{_UNIT})|[А-ЯЁ][а-яё-]+|{_HOSPITAL})|\b(?:{_HOSPITAL})[\s-]\d{{1,3}}\b){_OF_A_TOWN})"),
    # «РКБ» alone is as good as a name where there is one of its kind.
    (Kind.INSTITUTION, rf"(?:\b(?:в|из)\s+|(?<=\s))(?P<datum>(?:{_TOWN}\s+(?:{_HOSPITAL})|(?<=\bв\s)(?:{_HOSPITAL})|(?<=\bиз\s)(?:{_HOSPITAL}))(?:\s+[А-ЯЁ]{{2,5}})*\b)"),
    (Kind.INSTITUTION, rf"(?P<datum>(?i:{_KIND_OF_HOSPITAL}\b(?:больниц|поликлиник|госпитал|клиник|[а-яё]*диспансер|институт|медсанчаст|роддом|центр|лаборатори)[а-яё]{{0,4}})(?:(?i:{_QUOTED_OR_NUMBERED}){_OF_A_TOWN}|\s+г(?:\.\s?|орода\s+)[А-ЯЁ][а-яё-]+))"),
    (Kind.INSTITUTION, rf"(?P<datum>(?i:{_KIND_OF_HOSPITAL}\b(?:больниц|поликлиник|госпитал|диспансер|медсанчаст|роддом)[а-яё]{{0,4}}\s+(?:\d{{1,3}}\b(?!\s*(?:лет|год|раз|дн|мес|нед))|ветеранов(?:\s+войн?)?)))"),
    (Kind.INSTITUTION, r"(?P<datum>\b(?:[Бб]ольниц|[Гг]оспитал|[Кк]линик|[Ии]нститут)[а-яё]{0,4}\s+[А-ЯЁ][а-яё]{3,}(?:[ \t]+[А-ЯЁ][а-яё]{3,})*)"),
    (Kind.INSTITUTION, rf"(?P<datum>(?![А-ЯЁ][а-яё]+ическ[а-яё]+\s+центр){_TOWN}(?:\s+[а-яё]+){{0,3}}\s+(?:больниц|поликлиник|госпитал|клиник|институт|[а-яё]{{0,20}}(?:диспансер|центр))[а-яё]{{0,4}}(?:{_SPECIALTY})?)"),
    (Kind.INSTITUTION, rf"(?P<datum>\bНИИ{_SPECIALTY})"),
    (Kind.INSTITUTION, rf"(?P<datum>\b[Цц]ентр[а-яё]{{0,2}}{_SPECIALTY}[ \t]+[А-ЯЁ][а-яё]{{2,}})"),
    (Kind.INSTITUTION, rf"(?<![\w-])(?P<datum>{_BRAND}|{_SHOUTED_BRAND})(?![\w-])"),
    # «МЦ Здоровье», «Эс-Класс Клиник», «из Семейная клиника», «Первый флебологический центр».
    (Kind.INSTITUTION, r"\b(?P<datum>(?:М[ДЛР]?Ц|[Мм]ед\.?\s?центр\w{0,2})[ \t]+[А-ЯЁ][а-яё]{2,}(?:[ \t-][А-ЯЁ][а-яё]+)*(?:[ \t](?:и|плюс)[ \t][а-яё]+)?)"),
    (Kind.INSTITUTION, rf"(?<![\w-])(?P<datum>[А-ЯЁ][А-ЯЁа-яё]*(?:-[А-ЯЁа-яё]+)*[ \t-](?:Клиник|Центр|Мед)[а-яё]{{0,3}}{_SPECIALTY}?)(?![\w-])"),
    (Kind.INSTITUTION, r"(?:\b(?:[Вв]о?|[Ии]з|[Оо]т)\s|[(,]\s?)(?P<datum>[А-ЯЁ][а-яё]+(?:ая|ую|ой|ый|ий|ого|ом)\s(?:[а-яё]+(?:ая|ую|ой|ый|ий|ого|ом)\s)?(?:клиник|(?:мед)?центр)[а-яё]{0,3})(?!\w)"),
    (Kind.INSTITUTION, r"(?<![\w-])(?P<datum>[А-ЯЁ][а-яё]+(?:ый|ий|ой|ого|ом)\s[а-яё]+(?:логическ|цинск|стическ|тельн)(?:ий|ый|ого|ом)\s(?:мед)?центр[а-яё]{0,2})(?!\w)"),
    (Kind.INSTITUTION, rf"(?P<datum>\b(?:(?:{_HOSPITAL}|{_CENTRE}){_NAME_OF_HOSPITAL}+|(?:{_CENTRE})\b(?:{_QUOTED_OR_NUMBERED})?))"),
    (Kind.INSTITUTION, r"(?P<datum>\b(?:\d{1,3}-?(?:й|ой|ая|ю)\s+)(?:городск|областн|детск|районн|клиническ)[а-яё]{2,3}\s+(?:[а-яё]{1,30}ск[а-яё]{2,3}\s+)?(?:больниц|поликлиник)[а-яё]{1,3})"),
)  # fmt: skip

# Address heads and institutions are told by their capitals; the rest is written either way.
_CASE_SENSITIVE = frozenset({Kind.ADDRESS, Kind.INSTITUTION})
_COMPILED = tuple(
    (kind, re.compile(pattern, re.MULTILINE if kind in _CASE_SENSITIVE else re.IGNORECASE | re.MULTILINE))
    for kind, pattern in _PATTERNS
)


# Word makes some of the hyphens longer.
_DASHES = dict.fromkeys(map(ord, "–—−"), "-")


def find_by_pattern(text: str) -> Iterator[Span]:
    """Spans of everything that has the form of a datum; they may overlap."""
    text = text.translate(_DASHES)
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
