"""What the words before a capitalised word say about it: a person's name, an eponym, nothing."""

import re

# What a doctor does, between the word and the name: «врач УЗД: Пак», «врач лучевой диагностики».
_DEPARTMENT = (
    r"[-\s]+(?:уз[идк]?|кт|мр[тк]|ркт|мскт|ф[дк]|лд|узи?-диагностики"
    r"|(?:лучевой|функциональной|ультразвуковой)\s+диагностики)(?=[\s:_—–-])"
)
# Words before which a capitalised word is a person.
_ROLE = re.compile(
    r"\b(?:врач\w*(?:[-–\s]+[а-яё]+лог\w*)?|доктор\w*|рентгенолог\w*|д-р\w*|пациент\w*|больн(?:ой|ая|ого|ому|ым|ую)|проф(?:ессор\w*|\.)|лаборант\w*|медсестр\w*|фельдшер\w*|гр(?:\.|аждан\w+)|ф\.?\s?и\.?\s?о\.?|фамилия|имя|отчество|исполнител\w*|выполнил\w*|провел\w*|провёл|провод(?:ит|ил[аи]?)|описа(?:л|ла|ли)|описывал[аи]?|вр\.|подпис\w*|направил[аи]?|направивш\w+|исп\.|р/лаб\w*|м/с|диагност(?:а|у|ом)?|зав(?:едующ\w*|\.)(?:\s+отделени\w+)?|матер[ьи]|отец|мать|муж|жен[аы]|сын\w{0,2}|дочь|дочери|брат\w{0,2}|сестр(?:а|ы|е|у|ой)|реб[её]н(?:ок|ка|ку)|мальчик\w*|девочк\w*|новорожд\w+|г-жа|г-н|по\s+(?:имени|фамилии)|коллег\w*|ординатор\w*|ассистент\w*|оператор\w*|зав\.?\s*отд\.|к\.\s?м\.\s?н\.|д\.\s?м\.\s?н\.|patient|dr\b\.?|mrs?\b\.?"
    r"|\b[а-яё]+(?:олог|хирург|терапевт|ортопед|педиатр)(?:а|у|ом)?|\b(?:хирург|терапевт|ортопед|педиатр)(?:а|у|ом)?)"
    rf"(?:{_DEPARTMENT})?(?:\s+(?:высшей|первой|второй)?\s*категории|,?\s*[кд]\.\s?м\.\s?н\.)?\s*[:\t—–-]?\s*[(«_]*\s*$",
    re.IGNORECASE,
)
# Things after which stands the name of whoever described them, not of whoever has them.
_DESCRIBED = r"""
    лини[яеюий]\w{0,2} болезн\w+ синдром\w* симптом\w* кист\w{1,3} уз(?:ел|л\w{1,3}) грыж\w{1,3}
    связк\w{1,3} перелом\w* классификаци\w+ степен\w+ индекс\w* уг(?:ол|л\w{1,2}) проб\w{1,2}
    тест\w{0,2} пространств\w* пальц\w+ треугольник\w* канал\w{0,3} точк\w{1,3} шкал\w+ деформаци\w+
    аномали\w+ мальформаци\w+ дивертикул\w* борозд\w* щел\w{1,3} водопровод\w* отверсти\w+
    бугор(?:ок|к)\w* петл\w+ повреждени\w+ переломо-?вывих\w* кольц\w+ окн\w+ карман\w* тельц\w+
    опухол\w+ саркома лимфом\w+ клетк\w+ клеток колонн\w* аркад\w* сплетени\w+ ядр\w+ гребе?н\w+
    гидатид\w* феномен\w* триад\w+ признак\w* метод\w* формул\w+ укладк\w+
"""
# Likewise, but of people as well («протез Ивановой»): they protect no name of a Russian form.
_DESCRIBED_OR_OWNED = r"""
    по операци\w+ анастомоз\w* протез\w* сетк\w+ дренаж\w* зонд\w* катетер\w* баллон\w* фильтр\w*
    штифт\w* спиц\w+ винт\w* аппарат\w* шунт\w* артери\w+ зон[аыеу] фасци\w+ рак\w{0,2} язв\w+ проток\w*
    синус\w* пуч(?:ок|к)\w* клапан\w* капсул\w+ желез\w+ хрящ\w* тракт\w* ячейк\w+ ямк\w+ извилин\w+
    дуг\w+ заслонк\w+ зоб\w{0,2} хоре\w склероз\w* сустав\w* стоп[аыеу] критери\w+ паралич\w*
    контрактур\w+ тетрад\w+ при[её]м\w* мышц\w+ пирамид\w+ вен[аыеу]? лимфоуз(?:ел|л\w+) кост(?:ь|и|ей)
    остеофит\w* сумк\w{1,3} артрит\w* полост\w+ дефект\w* бляшк\w+ пят(?:ен|н\w{1,2}) складк\w+ складок
    пластинк\w+ мыщел\w+ тиреоидит\w* энцефалопати\w+ миопати\w+ дистрофи\w+ гранулематоз\w* чаш\w{1,3}
    перфорант\w* мембран\w* горб\w{0,2} дол(?:я|и|ей|ю|ька|ьки) дужк\w+ тромбо\w+ заворот\w*
    сосо(?:к|чек|чк\w+)
"""
_GRADED = r"классификаци\w+|шкал\w+|методик\w+|критери\w+"


def _any_of(stems: str) -> str:
    return "|".join(stems.split())


# «по классификации Кобба», «II степени по Чаклину»
_EPONYM_BEFORE = re.compile(
    rf"\b(?:по\s+(?:{_GRADED})|(?:степен\w+|ст\.|тип\w*|стади\w+|класс\w*|вариант\w*)\s*(?:[IVX\d]+\s+)?по|{_any_of(_DESCRIBED)})\s*(?:[IVX\d]+\s+)?[«(]?$",
    re.IGNORECASE,
)
_EPONYM_OR_OWNER_BEFORE = re.compile(rf"\b(?:{_any_of(_DESCRIBED_OR_OWNED)})\s+[«(]?$", re.IGNORECASE)
# What nobody has of his own: of a patient called so too, the eponym is the thing's.
_NOBODYS_OWN = re.compile(
    r"\b(?:болезн\w+|синдром\w*|симптом\w*|феномен\w*|триад\w+|классификаци\w+|шкал\w+|критери\w+|индекс\w*|треугольник\w*|по\s+(?:классификации|шкале|методике))\s+$",
    re.IGNORECASE,
)
# And the commonest terms whose first word is anybody's.
_STANDING_TERM = re.compile(
    r"кист\w{1,3}\s+бейкера|(?:уз(?:ел|л\w{1,3})|грыж\w{1,3})\s+шморля|узл\w{1,3}\s+(?:гебердена|бушара)|жиров\w+\s+тел\w+\s+гоффа|тел\w{1,2}\s+гоффа"
    r"|перелом\w*\s+(?:коллиса|беннета|сегонда)|повреждени\w+\s+(?:банкарта|хилла)|аномали\w+\s+(?:киммерле|арнольда|эбштейна)|деформаци\w+\s+хаглунда|кист\w{1,3}\s+тарлова",
    re.IGNORECASE,
)
_LAST_WORD = re.compile(r"\b[^\W\d_]{1,30}(?=\s{1,3}$)")
# Not «Миллер А.»
_GRADE_BEHIND = re.compile(r"\s(?:[IVX]{1,4}|\d|[ABC]|[АВС](?!\.))(?!\w|\.\w)")
# Of those who sign, nothing but the name follows a colon: «Врач: Безрук». A specialist may report
# what he found («Окулист: Норма»), a relative how he is («Мать: Здорова»).
_SIGNATORY = re.compile(
    r"(?:^|[\W\d])(?:врач|вр\.|доктор|д-р|(?:рентген)?лаборант|р/лаб\.?|врач[- ]рентгенолог"
    r"|(?:уз-?|врач-)диагност|исполнитель|исп\.|описала?|описывала?|выполнила?|пров[её]ла?|подпись|подписала?|медсестра|м/с)"
    rf"(?:{_DEPARTMENT})?\s*:\s*_*\s*$",
    re.IGNORECASE,
)
_REACH = 60


def has_role_before(text: str, position: int) -> bool:
    """Whether whoever is named at ``position`` is said to be a person: «врач», «пациент»."""
    return _ROLE.search(_before(text, position)) is not None


def has_signatory_before(text: str, position: int) -> bool:
    """Whether a colon behind «врач», «описал» is right before ``position``."""
    return _SIGNATORY.search(_before(text, position)) is not None


def is_role(word: str) -> bool:
    """Whether ``word`` itself is such a word."""
    return _ROLE.search(word) is not None


def has_eponym_before(text: str, position: int, *, russian_form: bool) -> bool:
    """Whether the word at ``position`` names a thing: «киста Бейкера», «протез Цвеймюллера».

    Args:
        russian_form: it ends as Russian surnames do.
    """
    before = _before(text, position)
    if _EPONYM_BEFORE.search(before):
        return True
    return not russian_form and _EPONYM_OR_OWNER_BEFORE.search(before) is not None


def names_a_standing_thing(text: str, start: int, stop: int) -> bool:
    """Whether the eponym there is part of a term whoever is meant: «болезнь Бехтерева», «киста Бейкера».

    Not every cyst is: «киста Вебера» may be what a patient called Вебер has.
    """
    before = _before(text, start)
    if _NOBODYS_OWN.search(before):
        return True
    thing = _LAST_WORD.search(before)
    return thing is not None and _STANDING_TERM.fullmatch(f"{thing.group()} {text[start:stop]}") is not None


def has_grade_behind(text: str, position: int) -> bool:
    """Whether a grade follows what ends at ``position``: «Вебер B», «Шатцкер II»."""
    return _GRADE_BEHIND.match(text, position) is not None


def _before(text: str, position: int) -> str:
    return text[max(0, position - _REACH) : position]
