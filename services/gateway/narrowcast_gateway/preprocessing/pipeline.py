"""One Word document to one de-identified row."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from threadpoolctl import ThreadpoolController

from narrowcast_gateway.preprocessing.deidentification import Deidentifier
from narrowcast_gateway.preprocessing.reading import read_document
from narrowcast_gateway.preprocessing.sections import find_sections
from narrowcast_gateway.preprocessing.studies import find_study


@dataclass(frozen=True)
class ProcessedDocument:
    """What becomes of a document.

    Attributes:
        study: method and region, from a closed vocabulary («МРТ коленного сустава»).
        description: what was seen, de-identified, paragraphs parted by line feeds.
        conclusion: the doctor's impression, de-identified.
        reader: which reader opened the file.
        redactions: how many placeholders of each kind were put in; never values.
    """

    study: str
    description: str
    conclusion: str
    reader: str
    redactions: dict[str, int]


class DocumentProcessor:
    """Reads documents and removes personal data.

    Loads the name models once (about 200 MB, one second). Threads may share one: reading runs
    side by side, the models one at a time.
    """

    def __init__(self, *, readers: Sequence[str] | None = None) -> None:
        self._readers = readers
        self._deidentifier = Deidentifier()
        self._models = threading.Lock()
        # The tagger's matrices are tiny: BLAS threads only wait for each other, and with one
        # worker a core they cost ten times the work (measured: 5 against 90 documents/s).
        self._blas = ThreadpoolController()

    def process(self, data: bytes) -> ProcessedDocument:
        """Process the bytes of one Word document.

        Raises:
            DocumentRejected: with one of the codes of :class:`rejections.Rejection`.
        """
        text = read_document(data, readers=self._readers)
        sections = find_sections(text.body)
        study = find_study(sections.rest, sections.description, sections.conclusion)
        with self._models, self._blas.limit(limits=1, user_api="blas"):
            names = self._deidentifier.harvest([*sections.rest, *text.header_footer])
            (description, conclusion), counts = self._deidentifier.redact(
                [sections.description, sections.conclusion], names
            )
        redactions = {str(kind): count for kind, count in sorted(counts.items())}
        return ProcessedDocument(study, description, conclusion, text.reader, redactions)
