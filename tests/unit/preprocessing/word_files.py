"""Small real Word files for the tests, built here."""

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import docx
import msoffcrypto
from docx.oxml import parse_xml
from msoffcrypto.format.ooxml import OOXMLFile

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
V = 'xmlns:v="urn:schemas-microsoft-com:vml"'
MC = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'

REPORT = (
    "ГБУЗ «Городская больница № 5»",
    "МРТ коленного сустава",
    "Пациент: Абдулхакимов Ринат Маратович",
    "Дата рождения: 12.03.1967",
    "Описание:",
    "Медиальный мениск не изменён. Киста Бейкера 12х15х20 мм.",
    "Заключение: МР-признаки кисты Бейкера.",
    "Рекомендована консультация ортопеда.",
    "Врач-рентгенолог: Кузнецова А.В.",
)


def docx_bytes(lines: Sequence[str] = REPORT, change: Callable[[Any], None] | None = None) -> bytes:
    document = docx.Document()
    for line in lines:
        document.add_paragraph(line)
    if change:
        change(document)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def add_xml(document: Any, xml: str) -> None:
    """Put a block of raw WordprocessingML before the section properties."""
    document.element.body.insert(len(document.element.body) - 1, parse_xml(xml))


def encrypted_docx(password: str = "secret") -> bytes:
    out = io.BytesIO()
    OOXMLFile(io.BytesIO(docx_bytes())).encrypt(password, out)
    assert msoffcrypto.OfficeFile(io.BytesIO(out.getvalue())).is_encrypted()
    return out.getvalue()


def repacked(data: bytes, replace: dict[str, bytes], *, drop: Sequence[str] = ()) -> bytes:
    """The package with some parts replaced, added or dropped."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as source,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            if name not in replace and name not in drop:
                target.writestr(name, source.read(name))
        for name, content in replace.items():
            target.writestr(name, content)
    return out.getvalue()


def zip_bytes(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()
