"""MRI of the knee joint."""

from random import Random

from narrowcast_local.samples.findings import Finding, Slot, Study, house_phrase, sizes

_HORNS = (("заднего рога", "В заднем роге"), ("переднего рога", "В переднем роге"), ("тела", "В теле"))


def _meniscus(rng: Random) -> tuple[str, str]:
    return rng.choices((("medial", "медиального"), ("lateral", "латерального")), (7, 3))[0]


def _tear(rng: Random) -> Finding:
    (slot, meniscus), (of_part, in_part) = _meniscus(rng), rng.choices(_HORNS, (6, 2, 2))[0]
    kind, kind_genitive = rng.choice(
        (
            ("горизонтальный", "горизонтального"),
            ("косой", "косого"),
            ("вертикальный", "вертикального"),
            ("лоскутный", "лоскутного"),
        )
    )
    grade = rng.choice(("IIIa", "IIIb")) if kind != "лоскутный" else "IIIb"
    where = f"{of_part} {meniscus} мениска"
    return Finding(
        {slot: f"{in_part} {meniscus} мениска {kind} разрыв до суставной поверхности, Stoller {grade}."},
        f"{kind_genitive} разрыва {where}, Stoller {grade}",
        f"{kind.capitalize()} разрыв {where}, Stoller {grade}",
    )


def _meniscus_degeneration(rng: Random) -> Finding:
    (slot, meniscus), (of_part, in_part) = _meniscus(rng), rng.choices(_HORNS, (6, 2, 2))[0]
    grade = rng.choice(("I", "II", "II"))
    return Finding(
        {slot: f"{in_part} {meniscus} мениска повышение сигнала без выхода на поверхность, Stoller {grade}."},
        f"дегенерации {of_part} {meniscus} мениска, Stoller {grade}",
        f"Дегенерация {of_part} {meniscus} мениска, Stoller {grade}",
    )


def _discoid(rng: Random) -> Finding:
    size = rng.randint(15, 24)
    return Finding(
        {"lateral": f"Латеральный мениск дискоидный, шириной {size} мм, связка Вризберга утолщена."},
        "дискоидного латерального мениска",
        "Дискоидный латеральный мениск",
    )


def _cruciate(rng: Random) -> Finding:
    if rng.random() < 0.5:
        sentence = "ПКС не прослеживается, на её месте зона отёка. ЗКС не изменена."
        return Finding(
            {"cruciate": sentence},
            "полного разрыва передней крестообразной связки",
            "Полный разрыв передней крестообразной связки",
        )
    size = rng.randint(8, 13)
    return Finding(
        {"cruciate": f"ПКС утолщена до {size} мм, часть волокон прервана. ЗКС не изменена."},
        "частичного разрыва передней крестообразной связки",
        "Частичный разрыв передней крестообразной связки",
    )


def _collateral(rng: Random) -> Finding:
    ligament, genitive = rng.choice((("Медиальная", "медиальной"), ("Латеральная", "латеральной")))
    size = rng.randint(5, 9)
    return Finding(
        {"collateral": f"{ligament} коллатеральная связка утолщена до {size} мм, окружена отёком."},
        f"повреждения {genitive} коллатеральной связки I степени",
        f"Повреждение {genitive} коллатеральной связки I степени",
    )


def _baker(rng: Random) -> Finding:
    size = sizes(rng, 18, 62, axes=rng.choice((2, 3)))
    return Finding(
        {"popliteal": f"В подколенной ямке киста Бейкера {size} мм."},
        f"кисты Бейкера {size} мм",
        f"Киста Бейкера {size} мм",
    )


def _synovitis(rng: Random) -> Finding:
    size = rng.randint(6, 19)
    where = house_phrase(rng, ("В супрапателлярном завороте", "В полости сустава"))
    degree, degree_genitive = ("Умеренный", "умеренного") if size <= 11 else ("Выраженный", "выраженного")
    return Finding(
        {"effusion": f"{where} выпот слоем до {size} мм."},
        f"{degree_genitive} синовита коленного сустава",
        f"{degree} синовит коленного сустава",
    )


def _gonarthrosis(rng: Random) -> Finding:
    stage, thickness = rng.choice(((1, "до 1,9 мм"), (2, "до 1,2 мм"), (3, "местами до кости")))
    spurs = {1: "краевых остеофитов нет", 2: "остеофиты до {} мм", 3: "остеофиты до {} мм"}[stage]
    spurs = spurs.format(rng.randint(2, 3) if stage == 2 else rng.randint(4, 7))
    return Finding(
        {"cartilage": f"Суставной хрящ истончён {thickness}, {spurs}."},
        f"гонартроза {stage} степени",
        f"Гонартроз {stage} степени",
    )


def _chondromalacia(rng: Random) -> Finding:
    grade, what = rng.choice(
        (("I", "разволокнён"), ("II", "истончён менее чем наполовину"), ("III", "с глубокими дефектами"))
    )
    return Finding(
        {"patella": f"Хрящ надколенника {what}, Outerbridge {grade}."},
        f"хондромаляции надколенника, Outerbridge {grade}",
        f"Хондромаляция надколенника, Outerbridge {grade}",
    )


def _edema(rng: Random) -> Finding:
    at, of = rng.choice(
        (
            ("В медиальном мыщелке бедренной кости", "медиального мыщелка бедренной кости"),
            ("В латеральном мыщелке бедренной кости", "латерального мыщелка бедренной кости"),
            ("В медиальном мыщелке большеберцовой кости", "медиального мыщелка большеберцовой кости"),
            ("В латеральном мыщелке большеберцовой кости", "латерального мыщелка большеберцовой кости"),
        )
    )
    size = sizes(rng, 12, 34)
    return Finding(
        {"marrow": f"{at} зона трабекулярного отёка {size} мм."},
        f"трабекулярного отёка {of}",
        f"Трабекулярный отёк {of}",
    )


def _hoffa(rng: Random) -> Finding:
    size = sizes(rng, 8, 22)
    return Finding(
        {"hoffa": f"В теле Гоффа участок отёка {size} мм."},
        "гоффита (отёка тела Гоффа)",
        "Гоффит (отёк тела Гоффа)",
    )


def _plica(rng: Random) -> Finding:
    size = rng.randint(2, 5)
    return Finding(
        {"plica": f"Медиопателлярная складка утолщена до {size} мм."},
        "синдрома медиопателлярной складки",
        "Синдром медиопателлярной складки",
    )


KNEE = Study(
    title="МРТ коленного сустава",
    long_title="Магнитно-резонансная томография коленного сустава",
    technique=("Режимы: T1, T2, PD FS.", "PD FS, T1-, T2-ВИ в трёх плоскостях, срез 3 мм."),
    slots=(
        Slot(
            "effusion",
            ("Выпота в полости сустава нет.", "Количество синовиальной жидкости не увеличено."),
            core=True,
        ),
        Slot(
            "medial",
            (
                "Медиальный мениск не изменён.",
                "Медиальный мениск обычной формы, без разрывов.",
                "Медиальный мениск высотой {5-8} мм, однороден.",
            ),
            core=True,
        ),
        Slot(
            "lateral",
            (
                "Латеральный мениск не изменён.",
                "Латеральный мениск обычной формы, без разрывов.",
                "Латеральный мениск высотой {5-8} мм, однороден.",
            ),
            core=True,
        ),
        Slot(
            "cruciate",
            (
                "Крестообразные связки целы.",
                "ПКС толщиной {5-8} мм, ЗКС не изменена.",
                "Крестообразные связки прослеживаются на всём протяжении.",
            ),
            core=True,
        ),
        Slot(
            "collateral", ("Коллатеральные связки не изменены.", "Коллатеральные связки целы, не утолщены.")
        ),
        Slot(
            "cartilage",
            (
                "Суставной хрящ толщиной {2,0-3,4} мм, ровный.",
                "Суставной хрящ не истончён.",
                "Суставные поверхности конгруэнтны, хрящ {2,0-3,4} мм.",
            ),
            core=True,
        ),
        Slot(
            "patella",
            (
                "Надколенник расположен обычно, индекс Инсалла-Сальвати {0,86-1,18}.",
                "Надколенник не смещён.",
                "Надколенник центрирован, TT-TG {8-14} мм.",
            ),
        ),
        Slot("marrow", ("Сигнал костного мозга не изменён.", "Костных травматических изменений нет.")),
        Slot("hoffa", ("Тело Гоффа не изменено.", "Тело Гоффа обычной структуры.")),
        Slot("plica", ()),
        Slot("popliteal", ("Подколенная ямка без особенностей.", "Кисты Бейкера нет.")),
    ),
    findings=(
        (18, _tear),
        (12, _meniscus_degeneration),
        (3, _discoid),
        (10, _cruciate),
        (6, _collateral),
        (10, _baker),
        (12, _synovitis),
        (11, _gonarthrosis),
        (7, _chondromalacia),
        (8, _edema),
        (5, _hoffa),
        (4, _plica),
    ),
    normal=(
        "Патологических изменений коленного сустава не выявлено.",
        "МР-данных за повреждение менисков и связок не получено.",
        "МР-картина коленного сустава без патологических изменений.",
    ),
    advice=("консультация ортопеда", "консультация травматолога", "МР-контроль через 3 месяца"),
    sides=("справа", "слева"),
)
