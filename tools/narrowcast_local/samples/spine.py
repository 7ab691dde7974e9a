"""What the parts of the spine have in common: levels, discs, vertebral bodies, the canal."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from narrowcast_local.samples.findings import Finding, house_phrase, sizes

# nominative and genitive of the feminine adjectives for «протрузия» and «грыжа»
_MEDIAN = (("медианная", "медианной"), ("диффузная", "диффузной"))
_LATERAL = (
    ("правосторонняя парамедианная", "правосторонней парамедианной"),
    ("левосторонняя парамедианная", "левосторонней парамедианной"),
)


@dataclass(frozen=True)
class Disc:
    """An intervertebral level: its name, the vertebra above, the root a lateral hernia presses on."""

    level: str
    above: str
    root: str


@dataclass(frozen=True)
class Region:
    """Measures of a part of the spine, sizes in millimetres as inclusive ranges."""

    discs: tuple[Disc, ...]  # from top to bottom
    disc_weights: tuple[int, ...]
    protrusion: tuple[int, int]
    hernia: tuple[int, int]
    narrow_canal: tuple[int, int]
    bodies: tuple[str, ...]
    lordosis: str  # «Поясничный лордоз»
    lordosis_genitive: str


Maker = Callable[[Random], Finding]


def protrusion(region: Region) -> Maker:
    """A protrusion of one or of two neighbouring discs."""

    def make(rng: Random) -> Finding:
        return two(rng) if rng.random() < 0.4 else one(rng)

    def one(rng: Random) -> Finding:
        disc, size = _disc(rng, region), rng.randint(*region.protrusion)
        nominative, genitive = rng.choice(_MEDIAN + _LATERAL)
        return Finding(
            {"discs": f"На уровне {disc.level} {nominative} протрузия диска {size} мм, корешки не сдавлены."},
            f"{genitive} протрузии диска {disc.level}",
            f"{nominative.capitalize()} протрузия диска {disc.level}",
        )

    def two(rng: Random) -> Finding:
        index = rng.randrange(len(region.discs) - 1)
        upper, lower = region.discs[index : index + 2]
        first, second = rng.randint(*region.protrusion), rng.randint(*region.protrusion)
        levels = f"{upper.level}, {lower.level}"
        sentence = (
            f"Протрузии дисков: {upper.level} {first} мм, {lower.level} {second} мм, корешки не сдавлены."
        )
        return Finding({"discs": sentence}, f"протрузий дисков {levels}", f"Протрузии дисков {levels}")

    return make


def hernia(region: Region) -> Maker:
    """A herniated disc, median or lateral with its root."""

    def make(rng: Random) -> Finding:
        disc, size = _disc(rng, region), rng.randint(*region.hernia)
        if rng.random() < 0.3:
            nominative, genitive = _MEDIAN[0]
            effect = "деформирует дуральный мешок"
        else:
            nominative, genitive = rng.choice(_LATERAL)
            press = house_phrase(rng, ("компримирует корешок", "контактирует с корешком", "смещает корешок"))
            effect = f"{press} {disc.root}"
        return Finding(
            # no word about free foramina next to a hernia
            {
                "discs": f"На уровне {disc.level} {nominative} грыжа диска {size} мм, {effect}.",
                "foramina": "",
            },
            f"{genitive} грыжи диска {disc.level} {size} мм",
            f"{nominative.capitalize()} грыжа диска {disc.level} {size} мм",
        )

    return make


def degeneration(region: Region, genitive: str, nominative: str) -> Maker:
    """Degenerated discs over several levels, graded by Pfirrmann."""

    def make(rng: Random) -> Finding:
        count = rng.randint(2, len(region.discs))
        start = rng.randrange(len(region.discs) - count + 1)
        top, bottom = region.discs[start].above, region.discs[start + count - 1].level.split("-")[1]
        grade = rng.choice(("III", "IV", "III-IV"))
        return Finding(
            {"discs": f"Высота и сигнал дисков {top}-{bottom} снижены, Pfirrmann {grade}."},
            f"{genitive}, Pfirrmann {grade} на уровне {top}-{bottom}",
            f"{nominative}, Pfirrmann {grade} на уровне {top}-{bottom}",
        )

    return make


def straightening(region: Region) -> Maker:
    """A lordosis that is flattened."""

    def make(rng: Random) -> Finding:
        how, genitive, nominative = rng.choice(
            (
                ("выпрямлен", "выпрямления", "Выпрямление"),
                ("сглажен", "сглаженности", "Сглаженность"),
            )
        )
        return Finding(
            {"axis": f"{region.lordosis} {how}."},
            f"{genitive} {region.lordosis_genitive}",
            f"{nominative} {region.lordosis_genitive}",
        )

    return make


def stenosis(region: Region) -> Maker:
    """A narrowed canal, its sagittal size given."""

    def make(rng: Random) -> Finding:
        disc, size = _disc(rng, region), rng.randint(*region.narrow_canal)
        return Finding(
            {"canal": f"Канал на уровне {disc.level} сужен до {size} мм, жёлтые связки утолщены."},
            f"стеноза позвоночного канала {disc.level} до {size} мм",
            f"Стеноз позвоночного канала {disc.level} до {size} мм",
        )

    return make


def hemangioma(region: Region) -> Maker:
    """A haemangioma of a vertebral body."""

    def make(rng: Random) -> Finding:
        body, size = rng.choice(region.bodies), sizes(rng, 6, 19)
        return Finding(
            {"bodies": f"В теле {body} гемангиома {size} мм, гиперинтенсивная на T1 и T2."},
            f"гемангиомы тела {body} {size} мм",
            f"Гемангиома тела {body} {size} мм",
        )

    return make


def schmorl(region: Region) -> Maker:
    """Schmorl's nodes of two neighbouring bodies."""

    def make(rng: Random) -> Finding:
        index, size = rng.randrange(len(region.bodies) - 1), rng.randint(3, 8)
        bodies = f"{region.bodies[index]}, {region.bodies[index + 1]}"
        return Finding(
            {"bodies": f"В смежных замыкательных пластинках тел {bodies} грыжи Шморля до {size} мм."},
            f"грыж Шморля тел {bodies}",
            f"Грыжи Шморля тел {bodies}",
        )

    return make


def modic(region: Region) -> Maker:
    """Endplate changes by Modic's types."""

    def make(rng: Random) -> Finding:
        disc = _disc(rng, region)
        kind, signal = rng.choice((("I", "отёк"), ("II", "жировая дегенерация"), ("III", "склероз")))
        return Finding(
            {"bodies": f"В замыкательных пластинках {disc.level} {signal} костного мозга, Modic {kind}."},
            f"изменений замыкательных пластинок {disc.level}, Modic {kind}",
            f"Изменения замыкательных пластинок {disc.level}, Modic {kind}",
        )

    return make


def _disc(rng: Random, region: Region) -> Disc:
    return rng.choices(region.discs, region.disc_weights)[0]
