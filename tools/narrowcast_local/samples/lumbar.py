"""MRI of the lumbar spine."""

from random import Random

from narrowcast_local.samples import spine
from narrowcast_local.samples.findings import Finding, Slot, Study
from narrowcast_local.samples.spine import Disc, Region

_LUMBAR = Region(
    discs=(
        Disc("L1-L2", "L1", "L2"),
        Disc("L2-L3", "L2", "L3"),
        Disc("L3-L4", "L3", "L4"),
        Disc("L4-L5", "L4", "L5"),
        Disc("L5-S1", "L5", "S1"),
    ),
    disc_weights=(1, 2, 4, 9, 9),
    protrusion=(2, 5),
    hernia=(6, 12),
    narrow_canal=(7, 10),
    bodies=("Th12", "L1", "L2", "L3", "L4", "L5"),
    lordosis="Поясничный лордоз",
    lordosis_genitive="поясничного лордоза",
)
_MEYERDING_FIRST_DEGREE_MM = 8  # a quarter of the end plate below, about 34 mm


def _listhesis(rng: Random) -> Finding:
    body, size = rng.choice(("L3", "L4", "L4", "L5", "L5")), rng.randint(3, 14)
    degree = "I" if size <= _MEYERDING_FIRST_DEGREE_MM else "II"
    return Finding(
        {"axis": f"Лордоз усилен, тело {body} смещено кпереди на {size} мм, {degree} степень по Мейердингу."},
        f"антеспондилолистеза {body} {degree} степени",
        f"Антеспондилолистез {body} {degree} степени",
    )


def _fracture(rng: Random) -> Finding:
    body, loss = rng.choice(("Th12", "L1", "L1", "L2")), rng.randint(20, 55)
    # Genant's semiquantitative grades: loss of height 20-25 %, 25-40 %, over 40 %
    grade = 1 if loss <= 25 else 2 if loss <= 40 else 3
    return Finding(
        {"bodies": f"Тело {body} клиновидно деформировано, высота снижена на {loss} %, Genant {grade}."},
        f"компрессионного перелома тела {body}, Genant {grade}",
        f"Компрессионный перелом тела {body}, Genant {grade}",
    )


def _arthrosis(rng: Random) -> Finding:
    upper, lower = rng.choice((("L3", "L5"), ("L4", "S1"), ("L2", "L5")))
    return Finding(
        {"joints": f"Дугоотростчатые суставы {upper}-{lower} гипертрофированы, щели сужены."},
        f"спондилоартроза {upper}-{lower}",
        f"Спондилоартроз {upper}-{lower}",
    )


def _tarlov(rng: Random) -> Finding:
    level, size = rng.choice(("S1", "S2", "S2", "S3")), rng.randint(7, 24)
    return Finding(
        {"sacrum": f"На уровне {level} периневральная киста Тарлова {size} мм."},
        f"периневральной кисты Тарлова {level} {size} мм",
        f"Периневральная киста Тарлова {level} {size} мм",
    )


LUMBAR = Study(
    title="МРТ пояснично-крестцового отдела позвоночника",
    long_title="Магнитно-резонансная томография пояснично-крестцового отдела позвоночника",
    technique=(
        "Режимы: T1, T2, STIR.",
        "T1-, T2-ВИ, STIR в сагиттальной и аксиальной плоскостях, срез 4 мм.",
    ),
    slots=(
        Slot("axis", ("Поясничный лордоз сохранён.", "Ось позвоночника правильная."), core=True),
        Slot(
            "bodies",
            (
                "Высота и форма тел позвонков не изменены.",
                "Тела позвонков обычной формы, сигнал костного мозга не изменён.",
                "Тела позвонков не деформированы.",
            ),
            core=True,
        ),
        Slot(
            "discs",
            (
                "Высота и сигнал межпозвонковых дисков сохранены.",
                "Протрузий и грыж дисков нет.",
                "Межпозвонковые диски не изменены, Pfirrmann I-II.",
            ),
            core=True,
        ),
        Slot(
            "canal",
            (
                "Сагиттальный размер канала {14-18} мм.",
                "Позвоночный канал не сужен, {14-18} мм.",
                "Позвоночный канал шириной {14-18} мм.",
            ),
            core=True,
        ),
        Slot(
            "cord",
            (
                "Конус спинного мозга на уровне L1, не изменён.",
                "Конус спинного мозга на уровне Th12-L1.",
                "Корешки конского хвоста не утолщены.",
            ),
        ),
        Slot("joints", ("Дугоотростчатые суставы не изменены.", "Щели фасеточных суставов не сужены.")),
        Slot("sacrum", ("Крестец без особенностей.", "Крестцово-подвздошные суставы не изменены.")),
        Slot("foramina", ("Межпозвонковые отверстия свободны.",)),
        Slot(
            "soft",
            (
                "Паравертебральные мягкие ткани не изменены.",
                "Мягкие ткани поясничной области не изменены.",
                "Паравертебральные мышцы симметричны.",
            ),
        ),
    ),
    findings=(
        (16, spine.protrusion(_LUMBAR)),
        (18, spine.hernia(_LUMBAR)),
        (
            12,
            spine.degeneration(
                _LUMBAR,
                "остеохондроза поясничного отдела",
                "Остеохондроз поясничного отдела",
            ),
        ),
        (8, spine.straightening(_LUMBAR)),
        (8, spine.stenosis(_LUMBAR)),
        (6, spine.hemangioma(_LUMBAR)),
        (6, spine.schmorl(_LUMBAR)),
        (5, spine.modic(_LUMBAR)),
        (7, _listhesis),
        (5, _fracture),
        (8, _arthrosis),
        (5, _tarlov),
    ),
    normal=(
        "Патологических изменений поясничного отдела не выявлено.",
        "МР-данных за грыжи и протрузии дисков не получено.",
        "МР-картина поясничного отдела без патологических изменений.",
    ),
    advice=("консультация нейрохирурга", "консультация невролога", "МР-контроль через 12 месяцев"),
)
