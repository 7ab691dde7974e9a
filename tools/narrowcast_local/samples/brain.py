"""MRI of the brain."""

from random import Random

from narrowcast_local.samples.findings import Finding, Slot, Study, fill, house_phrase, sizes

# adjective stems of the lobes; the endings follow the case
_LOBES = ("лобн", "теменн", "височн", "затылочн")
_SIDES = ("прав", "лев")


def _encephalopathy(rng: Random) -> Finding:
    grade = rng.choice((1, 1, 2, 2, 3))
    size = {1: "{3-5}", 2: "{5-9}", 3: "{12-20}"}[grade]
    foci = {1: "единичные очаги", 2: "множественные очаги", 3: "сливные очаги"}[grade]
    where = house_phrase(rng, ("лобных и теменных долей", "больших полушарий", "лобных долей"))
    sentence = fill(rng, f"В белом веществе {where} {foci} глиоза до {size} мм, Fazekas {grade}.")
    if rng.random() < 0.3:
        return Finding(
            {"matter": sentence}, f"микроангиопатии, Fazekas {grade}", f"Микроангиопатия, Fazekas {grade}"
        )
    return Finding(
        {"matter": sentence},
        f"дисциркуляторной энцефалопатии, Fazekas {grade}",
        f"Дисциркуляторная энцефалопатия, Fazekas {grade}",
    )


def _hydrocephalus(rng: Random) -> Finding:
    ventricles = fill(rng, "Боковые желудочки расширены, индекс Эванса {0,31-0,38}, III желудочек {8-13} мм.")
    spaces = "Субарахноидальные пространства расширены по конвексу."
    kind = rng.choice(("inner", "outer", "mixed", "mixed"))
    if kind == "inner":
        return Finding({"ventricles": ventricles}, "внутренней гидроцефалии", "Внутренняя гидроцефалия")
    if kind == "outer":
        return Finding({"spaces": spaces}, "наружной гидроцефалии", "Наружная гидроцефалия")
    return Finding(
        {"ventricles": ventricles, "spaces": spaces},
        "смешанной заместительной гидроцефалии",
        "Смешанная заместительная гидроцефалия",
    )


def _old_stroke(rng: Random) -> Finding:
    side, lobe, size = rng.choice(_SIDES), rng.choice(_LOBES), sizes(rng, 12, 44)
    return Finding(
        {"matter": f"В {side}ой {lobe}ой доле зона кистозно-глиозных изменений {size} мм."},
        f"кистозно-глиозных изменений {side}ой {lobe}ой доли",
        f"Кистозно-глиозные изменения {side}ой {lobe}ой доли",
    )


def _acute_stroke(rng: Random) -> Finding:
    side, artery, size = rng.choice(_SIDES), rng.choice(("СМА", "СМА", "ЗМА", "ПМА")), sizes(rng, 11, 48)
    basin = f"{side}ой {artery}"
    return Finding(
        {"matter": f"В бассейне {basin} зона ограничения диффузии {size} мм, гиперинтенсивная на FLAIR."},
        f"острого ишемического инсульта в бассейне {basin}",
        f"Острый ишемический инсульт в бассейне {basin}",
    )


def _sclerosis(rng: Random) -> Finding:
    count, size = rng.randint(5, 16), rng.randint(6, 15)
    where = house_phrase(rng, ("Перивентрикулярно и в мозолистом теле", "Перивентрикулярно и субкортикально"))
    return Finding(
        {"matter": f"{where} очаги демиелинизации ({count}) до {size} мм по типу пальцев Доусона."},
        "демиелинизирующего процесса (рассеянного склероза)",
        "Демиелинизирующий процесс (рассеянный склероз)",
    )


def _arachnoid_cyst(rng: Random) -> Finding:
    side, size = rng.choice(_SIDES), sizes(rng, 14, 42)
    place = f"полюса {side}ой височной доли" if rng.random() < 0.6 else "ретроцеребеллярной области"
    at = f"У {place}" if "полюса" in place else "В ретроцеребеллярной области"
    return Finding(
        {"spaces": f"{at} арахноидальная киста {size} мм без масс-эффекта."},
        f"арахноидальной кисты {place} {size} мм",
        f"Арахноидальная киста {place} {size} мм",
    )


def _empty_sella(rng: Random) -> Finding:
    height = rng.randint(2, 3)
    return Finding(
        {"sella": f"Гипофиз уплощён до {height} мм, полость турецкого седла заполнена ликвором."},
        "«пустого» турецкого седла",
        house_phrase(rng, ("«Пустое» турецкое седло", "Синдром «пустого» турецкого седла")),
    )


def _microadenoma(rng: Random) -> Finding:
    side, size = rng.choice(_SIDES), rng.randint(3, 9)
    adverb = {"прав": "справа", "лев": "слева"}[side]
    return Finding(
        {"sella": f"В {side}ой половине аденогипофиза гипоинтенсивный участок {size} мм."},
        f"микроаденомы гипофиза {adverb}, {size} мм",
        f"Микроаденома гипофиза {adverb}, {size} мм",
    )


def _meningioma(rng: Random) -> Finding:
    side, lobe, size = rng.choice(_SIDES), rng.choice(_LOBES), sizes(rng, 12, 34)
    return Finding(
        {"mass": f"Экстрааксиально в {side}ой {lobe}ой области образование {size} мм с «дуральным хвостом»."},
        f"менингиомы {side}ой {lobe}ой области {size} мм",
        f"Менингиома {side}ой {lobe}ой области {size} мм",
    )


def _cavernoma(rng: Random) -> Finding:
    side, lobe, size = rng.choice(_SIDES), rng.choice(_LOBES), rng.randint(6, 19)
    return Finding(
        {"mass": f"В {side}ой {lobe}ой доле образование {size} мм с ободком гемосидерина (Забрамски II)."},
        f"каверномы {side}ой {lobe}ой доли {size} мм",
        f"Кавернома {side}ой {lobe}ой доли {size} мм",
    )


def _chiari(rng: Random) -> Finding:
    depth = rng.randint(5, 14)
    return Finding(
        {"tonsils": f"Миндалины мозжечка опущены ниже линии Мак-Рея на {depth} мм, заострены."},
        f"мальформации Киари I, опущения миндалин на {depth} мм",
        f"Мальформация Киари I, опущение миндалин на {depth} мм",
    )


def _virchow_robin(rng: Random) -> Finding:
    size = rng.randint(2, 5)
    return Finding(
        {"perivascular": f"Пространства Вирхова-Робена в базальных ядрах расширены до {size} мм."},
        "расширения пространств Вирхова-Робена",
        "Расширение пространств Вирхова-Робена",
    )


def _sinus_cyst(rng: Random) -> Finding:
    side, size = rng.choice(_SIDES), rng.randint(8, 27)
    return Finding(
        {"sinuses": f"В {side}ой верхнечелюстной пазухе киста {size} мм."},
        f"кисты {side}ой верхнечелюстной пазухи",
        f"Киста {side}ой верхнечелюстной пазухи",
    )


def _sinusitis(rng: Random) -> Finding:
    size = rng.randint(4, 11)
    return Finding(
        {"sinuses": f"Слизистая верхнечелюстных пазух утолщена до {size} мм."},
        "двустороннего верхнечелюстного синусита",
        "Двусторонний верхнечелюстной синусит",
    )


def _pineal_cyst(rng: Random) -> Finding:
    size = rng.randint(5, 13)
    return Finding(
        {"pineal": f"В шишковидной железе киста {size} мм, водопровод проходим."},
        f"кисты шишковидной железы {size} мм",
        f"Киста шишковидной железы {size} мм",
    )


BRAIN = Study(
    title="МРТ головного мозга",
    long_title="Магнитно-резонансная томография головного мозга",
    technique=("Режимы: T1, T2, FLAIR, DWI.", "T1-, T2-ВИ, FLAIR, DWI в трёх плоскостях, срез 5 мм."),
    slots=(
        Slot("midline", ("Срединные структуры не смещены.", "Смещения срединных структур нет."), core=True),
        Slot(
            "matter",
            (
                "Очаговых изменений вещества мозга не выявлено.",
                "Вещество мозга без очаговых изменений.",
                "Сигнал от вещества мозга не изменён, ограничения диффузии нет.",
            ),
            core=True,
        ),
        Slot("mass", ()),
        Slot("perivascular", ()),
        Slot(
            "ventricles",
            (
                "Боковые желудочки не расширены, III желудочек {3-6} мм.",
                "Желудочки мозга симметричны, индекс Эванса {0,22-0,28}.",
                "Желудочковая система не расширена, IV желудочек {9-13} мм.",
            ),
            core=True,
        ),
        Slot(
            "spaces",
            (
                "Субарахноидальные пространства не расширены.",
                "Конвекситальные борозды и базальные цистерны не расширены.",
            ),
            core=True,
        ),
        Slot(
            "sella",
            (
                "Гипофиз высотой {4-7} мм, структура однородна.",
                "Хиазмально-селлярная область без особенностей.",
                "Гипофиз обычной формы, высота {4-7} мм.",
            ),
        ),
        Slot("pineal", ("Шишковидная железа не увеличена.",)),
        Slot(
            "tonsils",
            (
                "Миндалины мозжечка выше линии Мак-Рея на {1-5} мм.",
                "Миндалины мозжечка на уровне линии Чемберлена.",
                "Мозжечок и ствол мозга не изменены.",
            ),
        ),
        Slot("angles", ("Мостомозжечковые углы свободны.", "Область ММУ без особенностей.")),
        Slot("sinuses", ("Околоносовые пазухи воздушны.", "Пневматизация пазух носа сохранена.")),
        Slot("orbits", ("Орбиты без особенностей.", "Глазные яблоки и зрительные нервы симметричны.")),
    ),
    findings=(
        (16, _encephalopathy),
        (12, _hydrocephalus),
        (8, _old_stroke),
        (7, _acute_stroke),
        (6, _sclerosis),
        (7, _arachnoid_cyst),
        (6, _empty_sella),
        (6, _microadenoma),
        (6, _meningioma),
        (4, _cavernoma),
        (5, _chiari),
        (6, _virchow_robin),
        (7, _sinus_cyst),
        (5, _sinusitis),
        (5, _pineal_cyst),
    ),
    normal=(
        "Патологических изменений головного мозга не выявлено.",
        "МР-данных за очаговую патологию головного мозга не получено.",
        "МР-картина головного мозга без патологических изменений.",
    ),
    advice=("консультация невролога", "МР-контроль через 6 месяцев", "МР-ангиография сосудов мозга"),
)
