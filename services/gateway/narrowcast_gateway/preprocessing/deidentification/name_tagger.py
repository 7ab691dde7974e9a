"""The neural tagger of names, natasha's slovnet, trained on news."""

import importlib.util
from pathlib import Path

from navec import Navec
from slovnet import NER

_EMBEDDINGS = Path("emb/navec_news_v1_1B_250K_300d_100q.tar")
_TAGGER = Path("model/slovnet_ner_news_v1.tar")


class NameTagger:
    """Holds the models (about 200 MB). Not thread-safe."""

    def __init__(self) -> None:
        data = _model_folder()
        self._tagger = NER.load(str(data / _TAGGER))
        self._tagger.navec(Navec.load(str(data / _EMBEDDINGS)))

    def people(self, text: str) -> list[tuple[int, int]]:
        """Where the tagger sees a person: in order, not overlapping."""
        if not text.strip():
            return []
        return [(span.start, span.stop) for span in self._tagger(text).spans if span.type == "PER"]


def _model_folder() -> Path:
    """Folder of the model files inside natasha; importing it would need pymorphy2."""
    package = importlib.util.find_spec("natasha")
    if package is None or package.origin is None:
        raise RuntimeError("the natasha distribution, which carries the name models, is not installed")
    return Path(package.origin).parent / "data"
