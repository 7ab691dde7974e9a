import os
from pathlib import Path

import pytest

from narrowcast_gateway.preprocessing.deidentification import Deidentifier
from narrowcast_gateway.preprocessing.pipeline import DocumentProcessor

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def processor() -> DocumentProcessor:
    return DocumentProcessor()


@pytest.fixture(scope="session")
def deidentifier() -> Deidentifier:
    return Deidentifier()


@pytest.fixture(scope="session")
def test_data() -> Path:
    folder = Path(os.environ.get("NARROWCAST_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no test data: set NARROWCAST_TEST_DATA or put it at ../shared/data")
    return folder


def redacted(deidentifier: Deidentifier, text: str) -> str:
    return deidentifier.redact([text])[0][0]
