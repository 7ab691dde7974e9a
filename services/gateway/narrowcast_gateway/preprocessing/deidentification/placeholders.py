"""What stands where personal data stood, in one place.

Square brackets and capitals do not occur in reports otherwise, so that a reader, a test and
a model alike can tell a placeholder from text.
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Kinds of personal data; the names are those of the counts in a corpus record."""

    PERSON = "person"
    DATE = "date"
    AGE = "age"
    NUMBER = "number"
    PHONE = "phone"
    EMAIL = "email"
    ADDRESS = "address"
    INSTITUTION = "institution"


PLACEHOLDERS = {
    Kind.PERSON: "[ФИО]",
    Kind.DATE: "[ДАТА]",
    Kind.AGE: "[ВОЗРАСТ]",
    Kind.NUMBER: "[НОМЕР]",
    Kind.PHONE: "[ТЕЛЕФОН]",
    Kind.EMAIL: "[ПОЧТА]",
    Kind.ADDRESS: "[АДРЕС]",
    Kind.INSTITUTION: "[УЧРЕЖДЕНИЕ]",
}


@dataclass(frozen=True, order=True)
class Span:
    """A piece ``text[start:stop]`` that must go."""

    start: int
    stop: int
    kind: Kind
