"""Synthetic reports with their truth: sections and every personal datum."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random

from narrowcast_local.samples.blocks import Block, Paragraph, Table, texts
from narrowcast_local.samples.brain import BRAIN
from narrowcast_local.samples.cervical import CERVICAL
from narrowcast_local.samples.findings import Study, compose
from narrowcast_local.samples.knee import KNEE
from narrowcast_local.samples.layouts import LAYOUTS, Layout, Visit
from narrowcast_local.samples.leaks import Leak, make_leak
from narrowcast_local.samples.lumbar import LUMBAR
from narrowcast_local.samples.marks import mark, plain, unmark
from narrowcast_local.samples.people import make_patient, make_person, study_date

STUDIES = (BRAIN, LUMBAR, KNEE, CERVICAL)
_ADVICE_SHARE = 0.6  # of the reports of sick people in layouts that have such a line


@dataclass(frozen=True)
class PersonalDatum:
    """A piece of ``Report.text`` that de-identification has to remove.

    ``kind`` is person, date, number (also age), address or phone; ``start`` and ``end`` are
    character offsets, ``text`` is what stands between them.
    """

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Report:
    """One document and the truth about it.

    ``text`` is the document's plain text in reading order, page header first, paragraphs, table
    cells and soft lines joined by a newline. ``description`` and ``conclusion`` are parts of it
    without headings, personal data included. ``blocks`` is the same text with its arrangement;
    a report without blocks is written as plain paragraphs.
    """

    id: str
    study: str
    layout: str
    text: str
    description: str
    conclusion: str
    personal: tuple[PersonalDatum, ...]
    blocks: tuple[Block, ...] = field(default=(), repr=False, compare=False)


def generate(count: int, seed: int = 0) -> Iterator[Report]:
    """Yield ``count`` reports one by one; report *i* depends on ``seed`` and *i* alone."""
    for index in range(count):
        yield make_report(index, seed)


def make_report(index: int, seed: int = 0) -> Report:
    """Return report ``index`` (from 0).

    Studies and layouts take turns, four and seven: every 28 reports hold each pair once.
    """
    rng = Random(f"{seed}:{index}")
    study, layout = STUDIES[index % len(STUDIES)], LAYOUTS[index % len(LAYOUTS)]
    visit = _visit(rng, study, layout)
    blocks = layout.render(visit)
    text, spans = unmark("\n".join(line for block in blocks for line in texts(block)))
    return Report(
        id=f"report-{index + 1:05d}",
        study=study.title,
        layout=layout.name,
        text=text,
        description=plain(visit.description),
        conclusion=plain(visit.conclusion),
        personal=tuple(PersonalDatum(kind, text[start:end], start, end) for kind, start, end in spans),
        blocks=tuple(_plain_block(block) for block in blocks),
    )


def _visit(rng: Random, study: Study, layout: Layout) -> Visit:
    studied = study_date(rng)
    patient, doctor, referrer = make_patient(rng, studied), make_person(rng), make_person(rng)
    leak = make_leak(rng, patient, referrer, studied)
    description, conclusion, normal = _sections(rng, study, layout, leak)
    advised = rng.random() < _ADVICE_SHARE and not normal
    side = f" ({rng.choice(study.sides)})" if study.sides else ""
    return Visit(
        title=study.title + side,
        long_title=study.long_title + side,
        technique=rng.choice(study.technique),
        patient=patient,
        studied=studied,
        number=mark("number", f"{studied:%y%m}-{rng.randint(1, 9999):04d}"),
        doctor=doctor,
        referrer=referrer,
        head=make_person(rng),
        description=description,
        conclusion=conclusion,
        advice=rng.choice(study.advice) if advised else None,
    )


def _sections(rng: Random, study: Study, layout: Layout, leak: Leak | None) -> tuple[str, str, bool]:
    in_conclusion = leak is not None and leak.place == "after conclusion"
    extra = leak.length if leak else 0
    opening = len(layout.opening) + 1 if layout.opening else 0
    content = compose(
        rng,
        study,
        reserved=opening + (0 if in_conclusion else extra),
        reserved_conclusion=extra if in_conclusion else 0,
    )
    description, conclusion = content.description, content.conclusion
    if layout.opening:
        first = description[0]
        description[0] = f"{layout.opening} {first[0].lower()}{first[1:]}"
    if leak and leak.place == "before description":
        description.insert(0, leak.sentence)
    elif leak:
        (conclusion if in_conclusion else description).append(leak.sentence)
    return layout.separator.join(description), layout.separator.join(conclusion), content.normal


def _plain_block(block: Block) -> Block:
    if isinstance(block, Paragraph):
        return replace(block, text=plain(block.text))
    return Table(tuple(tuple(plain(cell) for cell in row) for row in block.rows))
