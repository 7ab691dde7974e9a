"""Invented patients and doctors, with every number, date and address a header shows.

Nobody here exists: names are random combinations, insurance numbers (СНИЛС) carry a wrong check
sum on purpose, telephone numbers use the 555 exchange, and the towns are on no map.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

from narrowcast_local.samples import names
from narrowcast_local.samples.declension import Case, Gender, first_name, patronymic, surname
from narrowcast_local.samples.marks import mark

_ORIGINS = ("common", "rare", "caucasian", "tatar", "ukrainian", "double", "word")
_ORIGIN_WEIGHTS = (52, 14, 10, 8, 10, 3, 3)
_SURNAMES = {
    "common": names.COMMON,
    "rare": names.RARE,
    "caucasian": names.CAUCASIAN,
    "tatar": names.TATAR,
    "ukrainian": names.UKRAINIAN,
    "double": names.DOUBLE,
    "word": names.WORDS,
}
_YOUNGEST_YEARS, _USUAL_YEARS, _OLDEST_YEARS = 18, 58, 88
_FIRST_STUDY, _LAST_STUDY = date(2019, 1, 9), date(2026, 6, 30)


@dataclass(frozen=True)
class Person:
    """A name in its parts; ``family`` is the masculine nominative."""

    family: str
    given: str
    father: str
    gender: Gender

    @property
    def initials(self) -> str:
        """«И.П.»."""
        return f"{self.given[0]}.{self.father[0]}."

    def short(self, case: Case = "nom") -> str:
        """«Иванову И.П.», marked."""
        return mark("person", f"{surname(self.family, self.gender, case)} {self.initials}")

    def spaced(self) -> str:
        """«Иванов И. П.», marked."""
        given, father = self.given[0], self.father[0]
        return mark("person", f"{surname(self.family, self.gender)} {given}. {father}.")

    def signed(self) -> str:
        """«И.П. Иванов», marked."""
        return mark("person", f"{self.initials} {surname(self.family, self.gender)}")

    def full(self, case: Case = "nom") -> str:
        """«Иванову Ивану Петровичу», marked."""
        family = surname(self.family, self.gender, case)
        given = first_name(self.given, self.gender, case)
        return mark("person", f"{family} {given} {patronymic(self.father, self.gender, case)}")

    def upper(self) -> str:
        """«ИВАНОВ ИВАН ПЕТРОВИЧ», marked."""
        return self.full().upper()

    def agree(self, masculine: str, feminine: str) -> str:
        """Choose the word that agrees with the person's gender."""
        return masculine if self.gender == "m" else feminine


@dataclass(frozen=True)
class Patient:
    """A person with what a header says of them; every text field is marked already."""

    person: Person
    born: date
    age: str
    card: str
    snils: str
    policy: str
    address: str
    phone: str


def make_person(rng: Random) -> Person:
    """Draw a name whose first name and patronymic fit the surname's origin."""
    origin = rng.choices(_ORIGINS, _ORIGIN_WEIGHTS)[0]
    gender: Gender = "m" if rng.random() < 0.46 else "f"
    male, female = names.MALE, names.FEMALE
    if origin == "caucasian":
        male, female = names.MALE_SOUTH, names.FEMALE_SOUTH
    elif origin == "tatar":
        male, female = names.MALE_TATAR, names.FEMALE_TATAR
    given = rng.choice(male if gender == "m" else female)
    return Person(rng.choice(_SURNAMES[origin]), given, rng.choice(male), gender)


def make_patient(rng: Random, studied: date) -> Patient:
    """Draw a patient who is an adult on the day of the study."""
    days = int(rng.triangular(_YOUNGEST_YEARS, _OLDEST_YEARS, _USUAL_YEARS) * 365.25) + 1
    born = studied - timedelta(days=days)
    years = studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))
    return Patient(
        person=make_person(rng),
        born=born,
        age=mark("number", f"{years} {_years_word(years)}"),
        card=mark("number", _card(rng, studied)),
        snils=mark("number", _snils(rng)),
        policy=mark("number", "".join(str(rng.randint(0, 9)) for _ in range(16))),
        address=mark("address", _address(rng)),
        phone=mark("phone", _phone(rng)),
    )


def study_date(rng: Random) -> date:
    """Draw a day on which a study may have been made."""
    return _FIRST_STUDY + timedelta(days=rng.randrange((_LAST_STUDY - _FIRST_STUDY).days))


def earlier(rng: Random, day: date) -> date:
    """Draw a day one month to two years before ``day``."""
    return day - timedelta(days=rng.randint(30, 730))


def numeric(day: date) -> str:
    """«12.03.2024», marked."""
    return mark("date", day.strftime("%d.%m.%Y"))


def worded(day: date) -> str:
    """«12 марта 2024», marked."""
    return mark("date", f"{day.day} {names.MONTHS_GENITIVE[day.month - 1]} {day.year}")


def _years_word(years: int) -> str:
    if years % 10 == 1 and years % 100 != 11:
        return "год"
    if years % 10 in (2, 3, 4) and years % 100 not in (12, 13, 14):
        return "года"
    return "лет"


def _card(rng: Random, studied: date) -> str:
    digits = rng.randint(1000, 999999)
    return rng.choice((f"{digits}", f"{digits}/{studied:%y}", f"{studied:%Y}-{digits:06d}", f"А-{digits}"))


def _snils(rng: Random) -> str:
    digits = [rng.randint(0, 9) for _ in range(9)]
    check = sum(digit * weight for digit, weight in zip(digits, range(9, 0, -1), strict=True)) % 101 % 100
    wrong = (check + rng.randint(1, 99)) % 100
    body = "".join(map(str, digits))
    return f"{body[:3]}-{body[3:6]}-{body[6:]} {wrong:02d}"


def _address(rng: Random) -> str:
    house = f"{rng.choice(names.STREETS)}, д. {rng.randint(1, 180)}{rng.choice(('', '', '', 'а', '/2'))}"
    flat = f", кв. {rng.randint(1, 240)}" if rng.random() < 0.8 else ""
    return f"г. {rng.choice(names.TOWNS)}, {house}{flat}"


def _phone(rng: Random) -> str:
    code, end = rng.randint(901, 989), f"{rng.randint(0, 9999):04d}"
    return rng.choice(
        (f"+7 ({code}) 555-{end[:2]}-{end[2:]}", f"8-{code}-555-{end[:2]}-{end[2:]}", f"8{code}555{end}")
    )
