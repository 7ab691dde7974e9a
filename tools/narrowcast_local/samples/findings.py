"""How a study's description and conclusion are put together, whatever the organ.

A study is a row of *slots* in the order in which its reports walk through the anatomy. Each slot
has normal sentences; a *finding* replaces the sentences of the slots it concerns and names itself
in the conclusion. So the conclusion determines most of the description, which is what a model has
to learn, and the rest is house boilerplate with a few measured values.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from narrowcast_local.samples.marks import width

# Characters. A model that runs on two CPU cores trains on these texts (about 0.8 tokens a
# character), so they are kept at the short end of what radiologists write.
DESCRIPTION_MIN, DESCRIPTION_MAX = 180, 340
CONCLUSION_MIN, CONCLUSION_MAX = 30, 110
_DESCRIPTION_TARGET = (235, 275)  # boilerplate is added up to here

_NORMAL_SHARE = 0.17
_SECOND_FINDING_SHARE = 0.5
_HOUSE_PHRASE_SHARE = 0.6  # how often a slot's first variant is used
_LEADS = ("МР-признаки", "МР-картина")
_RANGE = re.compile(r"\{(\d+)(?:,(\d+))?-(\d+)(?:,(\d+))?\}")


@dataclass(frozen=True)
class Slot:
    """A place in the description: its normal sentences, the usual one first.

    ``{12-17}`` or ``{0,22-0,28}`` in a sentence stands for a number drawn from that range.
    A core slot is always described; the others fill the text up to its usual length.
    """

    name: str
    variants: tuple[str, ...]
    core: bool = False


@dataclass(frozen=True)
class Finding:
    """One disease: its sentences by slot, and its name for the conclusion in two forms.

    ``genitive`` follows «МР-признаки», ``nominative`` stands alone and starts with a capital.
    """

    sentences: Mapping[str, str]
    genitive: str
    nominative: str


@dataclass(frozen=True)
class Study:
    """A kind of examination: names, technique, anatomy, diseases."""

    title: str
    long_title: str
    technique: tuple[str, ...]
    slots: tuple[Slot, ...]
    findings: tuple[tuple[int, Callable[[Random], Finding]], ...]  # weight, maker
    normal: tuple[str, ...]
    advice: tuple[str, ...]
    sides: tuple[str, ...] = ()  # «справа», «слева» where the study has a side


@dataclass(frozen=True)
class Content:
    """Sentences of one report's two parts, in order."""

    description: list[str]
    conclusion: list[str]
    normal: bool


def compose(rng: Random, study: Study, reserved: int = 0, reserved_conclusion: int = 0) -> Content:
    """Invent a report of ``study``.

    ``reserved`` and ``reserved_conclusion`` are characters that the caller will add to the two
    parts; the result leaves room for them within the limits above.
    """
    while True:  # ends soon: some finding of every study fits alone
        findings = _draw_findings(rng, study)
        conclusion = _conclude(rng, study, findings)
        description = _describe(rng, study, findings, reserved)
        fits = DESCRIPTION_MIN <= width(description) + reserved <= DESCRIPTION_MAX
        total = width(conclusion) + reserved_conclusion
        if fits and width(conclusion) >= CONCLUSION_MIN and total <= CONCLUSION_MAX:
            return Content(description, conclusion, normal=not findings)


def _draw_findings(rng: Random, study: Study) -> list[Finding]:
    if rng.random() < _NORMAL_SHARE:
        return []
    weights = [weight for weight, _ in study.findings]
    makers = [maker for _, maker in study.findings]
    first = rng.choices(makers, weights)[0](rng)
    if rng.random() >= _SECOND_FINDING_SHARE:
        return [first]
    second = rng.choices(makers, weights)[0](rng)
    apart = first.sentences.keys().isdisjoint(second.sentences.keys())
    return [first, second] if apart else [first]


def _conclude(rng: Random, study: Study, findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return [rng.choice(study.normal)]
    first, *others = findings
    named = first.nominative if rng.random() < 0.4 else f"{rng.choice(_LEADS)} {first.genitive}"
    return [f"{named}.", *(f"{other.nominative}." for other in others)]


def _describe(rng: Random, study: Study, findings: Sequence[Finding], reserved: int) -> list[str]:
    chosen: dict[str, str] = {}
    for finding in findings:
        chosen.update(finding.sentences)
    core = [slot for slot in study.slots if slot.core]
    filling = [slot for slot in study.slots if not slot.core]
    rng.shuffle(filling)
    target = rng.randint(*_DESCRIPTION_TARGET) - reserved
    for slot in core + filling:
        if slot.name in chosen or not slot.variants:
            continue
        sentence = fill(rng, house_phrase(rng, slot.variants))
        total = width([*chosen.values(), sentence])
        if total <= target or width(chosen.values()) + reserved < DESCRIPTION_MIN:
            chosen[slot.name] = sentence
    return [chosen[slot.name] for slot in study.slots if chosen.get(slot.name)]


def house_phrase(rng: Random, variants: Sequence[str]) -> str:
    """Mostly the first variant, as a department has its habits; else one of the others."""
    if len(variants) == 1 or rng.random() < _HOUSE_PHRASE_SHARE:
        return variants[0]
    return rng.choice(variants[1:])


def fill(rng: Random, sentence: str) -> str:
    """Draw the numbers of a sentence's ranges."""

    def draw(found: re.Match[str]) -> str:
        low, low_part, high, high_part = found.groups()
        if low_part is None:
            return str(rng.randint(int(low), int(high)))
        scale = 10 ** len(low_part)
        number = rng.randint(int(low) * scale + int(low_part), int(high) * scale + int(high_part))
        return f"{number // scale},{number % scale:0{len(low_part)}d}"

    return _RANGE.sub(draw, sentence)


def sizes(rng: Random, low: int, high: int, axes: int = 2) -> str:
    """«12х9» (millimetres, the longest axis first), with the Cyrillic «х» that reports use."""
    longest = rng.randint(low, high)
    others = sorted((rng.randint(max(2, longest * 6 // 10), longest) for _ in range(axes - 1)), reverse=True)
    return "х".join(map(str, [longest, *others]))
