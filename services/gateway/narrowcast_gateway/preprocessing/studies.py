# ruff: noqa: E501 - a table, one row a line
"""The kind of study a report is about: method and region, in one normal form.

«Магнитно-резонансная томография правого коленного сустава от 12.03.2024» becomes «МРТ
коленного сустава». Only words of the tables below come out, so no name or date can.
"""

import re
from collections.abc import Iterable

_METHODS = (
    ("МР-ангиография", r"мр[\s-]?ангиограф\w+|магнитно-резонансн\w+\s+ангиограф\w+|мра\b"),
    ("МР-холангиопанкреатография", r"мр[\s-]?холанги\w+|мрхпг"),
    ("МРТ", r"мрт\b|мр[\s-]?(?:томограф|томограмм|исследован)\w*|магнитно[\s-]*резонансн\w+\s+томо\w+|магнитно[\s-]*резонансн\w+\s+исслед\w+|ямрт?\b|\bмр\b"),
    ("КТ-ангиография", r"кт[\s-]?ангиограф\w+|мскт[\s-]?ангиограф\w+|компьютерно[\s-]*томографическ\w+\s+ангиограф\w+"),
    ("КТ", r"(?:мс|с|м)?кт\b|кт[\s-]исследован\w*|компьютерн\w+\s+томо\w+"),
    ("Маммография", r"маммограф\w+|маммограмм\w+"),
    ("Денситометрия", r"денситометр\w+"),
    ("Флюорография", r"флюорограф\w+"),
    ("ЭхоКГ", r"эхо[\s-]?кг|эхокардиограф\w+|узи\s+сердца|ультразвуков\w+\s+исследован\w*\s+сердца"),
    ("УЗИ", r"узи\b|уздг\b|уздс\b|ультразвуков\w+|допплерограф\w+|дуплексн\w+|триплексн\w+|сонограф\w+"),
    ("Рентгенография", r"рентген\w*|r[\s-]?граф\w+|ртг\b"),
)  # fmt: skip
# Genitive form and the words that mean it. Order matters: the longer region first.
_REGIONS = (
    ("головного мозга", r"головн\w+\s+мозг\w*|\bгм\b|мозг\w+\s+и\s+(?:придаточн|орбит)\w+"),
    ("гипофиза", r"гипофиз\w*|турецк\w+\s+седл\w*|хиазмально\w*"),
    ("орбит", r"орбит\w*|глазниц\w*"),
    ("придаточных пазух носа", r"придаточн\w+\s+пазух\w*|околоносов\w+|\bппн\b|носов\w+\s+пазух\w*"),
    ("височных костей", r"височн\w+\s+кост\w+"),
    ("височно-нижнечелюстных суставов", r"височно[\s-]*нижнечелюстн\w+|\bвнчс\b"),
    ("сосудов головного мозга", r"(?:артери|сосуд|вен)\w*\s+(?:головного\s+мозга|виллизиева)|интракраниальн\w+\s+(?:артери|сосуд)\w*"),
    ("сосудов шеи", r"(?:сосуд|артери)\w*\s+шеи|брахиоцефальн\w+|\bбца\b|экстракраниальн\w+"),
    ("шейного отдела позвоночника", r"шейн\w+\s+отдел\w*|\bшоп\b"),
    ("грудного отдела позвоночника", r"грудн\w+\s+отдел\w*(?:\s+позвон\w+)?|\bгоп\b"),
    ("пояснично-крестцового отдела позвоночника", r"(?:пояснично[\s-]*крестцов|поясничн)\w*\s+(?:и\s+крестцов\w+\s+)?отдел\w*|\bпкоп\b|\bпоп\b"),
    ("крестцово-копчикового отдела позвоночника", r"крестцово[\s-]*копчик\w+|\bкопчик\w*"),
    ("крестцово-подвздошных сочленений", r"крестцово[\s-]*подвздошн\w+|илеосакральн\w+|\bкпс\b"),
    ("позвоночника", r"позвоночник\w*"),
    ("коленного сустава", r"коленн\w+\s+сустав\w*|\bколен\w*"),
    ("тазобедренных суставов", r"тазобедренн\w+\s+сустав\w*|\bтбс\b"),
    ("плечевого сустава", r"плечев\w+\s+сустав\w*"),
    ("локтевого сустава", r"локтев\w+\s+сустав\w*"),
    ("лучезапястного сустава", r"лучезапястн\w+\s+сустав\w*"),
    ("голеностопного сустава", r"голеностопн\w+\s+сустав\w*"),
    ("кисти", r"\bкист(?:и|ей)\s+рук\w*|\bкисти\b"),
    ("стопы", r"\bстоп[аыу]?\b"),
    ("бедра", r"\bбедр[ао]\b|бедренн\w+\s+кост\w+"),
    ("голени", r"\bголен\w+\b"),
    ("молочных желёз", r"молочн\w+\s+жел[её]з\w*"),
    ("щитовидной железы", r"щитовидн\w+\s+желез\w*"),
    ("сердца", r"\bсердц\w+"),
    ("аорты", r"\bаорт\w+"),
    ("органов грудной клетки", r"(?:органов\s+)?грудн\w+\s+(?:клетк|полост)\w*|\bогк\b|л[её]гких\b"),
    ("почек и мочевого пузыря", r"поч\w+\s+и\s+мочев\w+"),
    ("почек", r"\bпочек\b|\bпочки\b|мочевыделительн\w+|надпочечник\w*"),
    ("предстательной железы", r"предстательн\w+\s+желез\w*|простат\w*"),
    ("органов малого таза", r"мал\w+\s+таз\w*|\bомт\b"),
    ("органов брюшной полости и забрюшинного пространства", r"брюшн\w+\s+полост\w*\s*(?:,|и)\s*(?:органов\s+)?забрюшинн\w+"),
    ("органов брюшной полости", r"брюшн\w+\s+полост\w*|\bобп\b|живот\w*"),
    ("забрюшинного пространства", r"забрюшинн\w+"),
    ("печени", r"\bпечен\w+"),
    ("таза", r"\b(?:кост\w+\s+)?таза\b"),
    ("вен нижних конечностей", r"вен\w*\s+нижн\w+\s+конечност\w*"),
    ("артерий нижних конечностей", r"артери\w*\s+нижн\w+\s+конечност\w*"),
    ("черепа", r"\bчереп\w*"),
    ("мягких тканей", r"мягк\w+\s+ткан\w+"),
    ("шеи", r"\bшеи\b"),
)  # fmt: skip
_METHOD_PATTERNS = tuple((name, re.compile(rf"\b(?:{words})", re.IGNORECASE)) for name, words in _METHODS)
_REGION_PATTERNS = tuple((name, re.compile(words, re.IGNORECASE)) for name, words in _REGIONS)

UNKNOWN_STUDY = "Лучевое исследование"
# Region words this far behind the method still belong to it.
_REACH_CHARACTERS = 120


def find_study(header: Iterable[str], description: str, conclusion: str) -> str:
    """Name the study.

    The header names it best; failing that, the first sentences of the description. A report
    that names no method at all is an ``UNKNOWN_STUDY``.
    """
    lines = [*header]
    opening = description[: 2 * _REACH_CHARACTERS]
    for text in [*lines, opening, conclusion]:
        study = _with_region(text)
        if study:
            return study
    method = next(
        (found for text in [*lines, opening, conclusion, description] if (found := _method(text))), None
    )
    region = next(
        (found for text in [*lines, opening, conclusion, description] if (found := _region(text))), None
    )
    return " ".join(part for part in (method or UNKNOWN_STUDY, region if method != "ЭхоКГ" else None) if part)


def _with_region(text: str) -> str | None:
    """Method and region where the region stands behind the method in one line."""
    best: tuple[int, int, str] | None = None
    for rank, (name, pattern) in enumerate(_METHOD_PATTERNS):
        match = pattern.search(text)
        if match is None:
            continue
        if name == "ЭхоКГ":
            return name
        region = _region(text[match.start() : match.end() + _REACH_CHARACTERS])
        if region and (best is None or (match.start(), rank) < best[:2]):
            best = (match.start(), rank, f"{name} {region}")
    return best[2] if best else None


def _method(text: str) -> str | None:
    return next((name for name, pattern in _METHOD_PATTERNS if pattern.search(text)), None)


def _region(text: str) -> str | None:
    found = [
        (match.start(), rank, name)
        for rank, (name, pattern) in enumerate(_REGION_PATTERNS)
        if (match := pattern.search(text))
    ]
    return min(found)[2] if found else None
