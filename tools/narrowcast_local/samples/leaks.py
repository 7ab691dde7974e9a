"""Personal data that slips into the description or the conclusion, as it does in real reports."""

from dataclasses import dataclass
from datetime import date
from random import Random
from typing import Literal

from narrowcast_local.samples.marks import plain
from narrowcast_local.samples.people import Patient, Person, earlier, numeric, worded

_SHARE = 0.15  # of all reports
_CONCLUSION_SHARE = 0.4  # of the leaks

Place = Literal["before description", "after description", "after conclusion"]


@dataclass(frozen=True)
class Leak:
    """A marked sentence and where it goes."""

    place: Place
    sentence: str

    @property
    def length(self) -> int:
        """Characters it takes, with the separator."""
        return len(plain(self.sentence)) + 1


def make_leak(rng: Random, patient: Patient, doctor: Person, studied: date) -> Leak | None:
    """Draw a leak for about one report in seven."""
    if rng.random() >= _SHARE:
        return None
    place: Place = "after conclusion"
    if rng.random() < _CONCLUSION_SHARE:
        words = _in_conclusion(rng, patient, doctor, studied)
    else:
        place, words = _in_description(rng, patient, doctor, studied)
    # the full stop of «Шевченко А.В.» ends the sentence as well
    return Leak(place, words if plain(words).endswith(".") else f"{words}.")


def _in_description(rng: Random, patient: Patient, doctor: Person, studied: date) -> tuple[Place, str]:
    person, before = patient.person, earlier(rng, studied)
    noun = person.agree("Пациенту", "Пациентке")
    name = person.full("dat") if rng.random() < 0.3 else person.short("dat")
    sentences: tuple[tuple[Place, str], ...] = (
        ("before description", f"{noun} {name} выполнено исследование"),
        ("before description", f"{name} выполнена МРТ, карта № {patient.card}"),
        ("before description", f"Качество изображений у {person.short('gen')} снижено из-за движений"),
        ("before description", f"{person.short()} {person.agree('обследован', 'обследована')} повторно"),
        ("after description", f"Проведено сравнение с исследованием от {numeric(before)}"),
        ("after description", f"По сравнению с МРТ от {worded(before)} г. оценена динамика"),
        ("after description", f"Исследование обсуждено с доктором {doctor.short('ins')}"),
    )
    return rng.choice(sentences)


def _in_conclusion(rng: Random, patient: Patient, doctor: Person, studied: date) -> str:
    person, before = patient.person, earlier(rng, studied)
    consulted = person.agree("Консультирован", "Консультирована")
    return rng.choice(
        (
            f"{consulted} доктором {doctor.short('ins')}",
            f"Предыдущая МРТ от {numeric(before)}",
            f"Сравнение с исследованием от {numeric(before)}",
            f"Снимки выданы {person.short('dat')}",
            f"Карта № {patient.card}",
            f"Согласовано с {doctor.short('ins')}",
        )
    )
