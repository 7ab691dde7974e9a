"""How Russian report texts become tokens and sentences before they are compared.

ROUGE's stock tokenizer drops everything outside ``a-z0-9``: two identical Russian texts score 0
and «Грыжа L4-L5 12 мм» equals «Норма L4-L5 12 мм».
"""

import re
import unicodedata
from typing import Final

from razdel import sentenize
from rouge_score.tokenizers import Tokenizer

TOKENIZER_NAME: Final = "ru-words-v1"
"""Goes into every result, as figures of different tokenizers do not compare; changed rules get a new name."""

# A decimal number is one token, with a comma or a point; dates and vertebrae fall into their parts.
_TOKEN: Final = re.compile(r"\d+(?:[.,]\d+)?|\w+")

# razdel reads «см.» as «смотри» and «ст.» as «статья», and joins what follows. After a figure they are
# units, and a capital letter after a unit begins a sentence. «г.» stays with razdel, because «2020 г. Москва»
# is one sentence.
_AFTER_UNIT: Final = re.compile(
    r"""(?: (?:\d|\b[IVX]+)\s? (?:[смд]?м|мл|ст|см/с|м/с) | \b(?:кв|куб)\.\s?[смд]?м | рт\.\s?ст )
        \. \s+ (?=[А-ЯЁA-Z])""",
    re.VERBOSE,
)


class RussianTokenizer(Tokenizer):  # type: ignore[misc]  # the library is untyped
    """Words and numbers in lower case, ё as е, no stemming; works for any script.

    Case endings count: «грыжа» and «грыжи» differ. Texts are composed (NFC) first, because Word files hold
    «й» and «ё» as two characters each, the second of which is no word character.
    """

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of ``text`` in order; none if it has neither letters nor digits."""
        composed = unicodedata.normalize("NFC", text)
        return _TOKEN.findall(composed.lower().replace("ё", "е"))


def sentences(text: str) -> list[str]:
    """Return the sentences of ``text``, stripped and without empty ones; a line break always ends one."""
    return [sentence for line in text.splitlines() for sentence in _sentences_of_line(line)]


def _sentences_of_line(line: str) -> list[str]:
    found = []
    for chunk in sentenize(line):
        start = 0
        for end in _AFTER_UNIT.finditer(chunk.text):
            found.append(chunk.text[start : end.end()].strip())
            start = end.end()
        found.append(chunk.text[start:].strip())
    return [sentence for sentence in found if sentence]
