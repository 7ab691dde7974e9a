"""MRI of the cervical spine."""

from random import Random

from narrowcast_local.samples import spine
from narrowcast_local.samples.findings import Finding, Slot, Study, sizes
from narrowcast_local.samples.spine import Disc, Region

_CERVICAL = Region(
    discs=(
        Disc("C2-C3", "C2", "C3"),
        Disc("C3-C4", "C3", "C4"),
        Disc("C4-C5", "C4", "C5"),
        Disc("C5-C6", "C5", "C6"),
        Disc("C6-C7", "C6", "C7"),
    ),
    disc_weights=(1, 3, 5, 9, 8),
    protrusion=(1, 3),
    hernia=(4, 7),
    narrow_canal=(7, 10),
    bodies=("C4", "C5", "C6", "C7", "Th1", "Th2"),
    lordosis="Шейный лордоз",
    lordosis_genitive="шейного лордоза",
)


def _uncovertebral(rng: Random) -> Finding:
    level, side = rng.choice(("C4-C5", "C5-C6", "C6-C7")), rng.choice(("справа", "слева"))
    return Finding(
        {"joints": f"Суставы Лушки {level} деформированы, отверстие {side} сужено.", "foramina": ""},
        f"унковертебрального артроза {level} {side}",
        f"Унковертебральный артроз {level} {side}",
    )


def _myelopathy(rng: Random) -> Finding:
    level, canal, size = rng.choice(("C4-C5", "C5-C6", "C6-C7")), rng.randint(6, 8), sizes(rng, 5, 14)
    return Finding(
        {
            "canal": f"Позвоночный канал на уровне {level} сужен до {canal} мм.",
            "cord": f"На этом уровне в спинном мозге очаг повышенного T2-сигнала {size} мм.",
        },
        f"стеноза канала {level} с миелопатией",
        f"Стеноз канала {level} с миелопатией",
    )


def _syrinx(rng: Random) -> Finding:
    upper, lower = rng.choice((("C3", "C6"), ("C4", "C7"), ("C5", "Th1"), ("C6", "Th2")))
    size = rng.randint(2, 7)
    return Finding(
        {"cord": f"Центральный канал спинного мозга {upper}-{lower} расширен до {size} мм."},
        f"сирингомиелии {upper}-{lower}, до {size} мм",
        f"Сирингомиелия {upper}-{lower}, до {size} мм",
    )


def _klippel_feil(rng: Random) -> Finding:
    level = rng.choice(("C2-C3", "C3-C4", "C5-C6"))
    return Finding(
        {"bodies": f"Тела {level} сращены, диск рудиментарный.", "discs": "Остальные диски не изменены."},
        f"синдрома Клиппеля-Фейля, блок {level}",
        f"Синдром Клиппеля-Фейля, блок {level}",
    )


def _thyroid(rng: Random) -> Finding:
    side, size = rng.choice(("прав", "лев")), rng.randint(5, 24)
    return Finding(
        {"soft": f"В {side}ой доле щитовидной железы узел {size} мм."},
        f"узла {side}ой доли щитовидной железы {size} мм",
        f"Узел {side}ой доли щитовидной железы {size} мм",
    )


CERVICAL = Study(
    title="МРТ шейного отдела позвоночника",
    long_title="Магнитно-резонансная томография шейного отдела позвоночника",
    technique=(
        "Режимы: T1, T2, STIR.",
        "T1-, T2-ВИ, STIR в сагиттальной и аксиальной плоскостях, срез 3 мм.",
    ),
    slots=(
        Slot("axis", ("Шейный лордоз сохранён.", "Ось позвоночника не отклонена."), core=True),
        Slot("junction", ("Краниовертебральный переход не изменён.", "Зуб C2 расположен срединно.")),
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
                "Сагиттальный размер канала {12-16} мм.",
                "Позвоночный канал не сужен, {12-16} мм.",
                "Позвоночный канал шириной {12-16} мм.",
            ),
            core=True,
        ),
        Slot(
            "cord",
            (
                "Спинной мозг структурен, сигнал не изменён.",
                "Спинной мозг без очаговых изменений, диаметр {6-8} мм.",
            ),
            core=True,
        ),
        Slot("joints", ("Унковертебральные суставы не изменены.", "Суставы Лушки без особенностей.")),
        Slot("foramina", ("Межпозвонковые отверстия свободны.",)),
        Slot(
            "soft",
            (
                "Паравертебральные мягкие ткани не изменены.",
                "Превертебральные ткани толщиной {3-5} мм.",
                "Мягкие ткани шеи без особенностей.",
            ),
        ),
    ),
    findings=(
        (16, spine.protrusion(_CERVICAL)),
        (14, spine.hernia(_CERVICAL)),
        (
            12,
            spine.degeneration(
                _CERVICAL,
                "остеохондроза шейного отдела",
                "Остеохондроз шейного отдела",
            ),
        ),
        (9, spine.straightening(_CERVICAL)),
        (8, spine.stenosis(_CERVICAL)),
        (6, spine.hemangioma(_CERVICAL)),
        (5, spine.schmorl(_CERVICAL)),
        (4, spine.modic(_CERVICAL)),
        (8, _uncovertebral),
        (5, _myelopathy),
        (5, _syrinx),
        (4, _klippel_feil),
        (5, _thyroid),
    ),
    normal=(
        "Патологических изменений шейного отдела не выявлено.",
        "МР-данных за грыжи и протрузии дисков не получено.",
        "МР-картина шейного отдела без патологических изменений.",
    ),
    advice=("консультация нейрохирурга", "консультация невролога", "МР-контроль через 12 месяцев"),
)
