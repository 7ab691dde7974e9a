"""The API's document is a contract: it changes only with a commit that says so."""

import json
from pathlib import Path

from narrowcast_gateway.openapi import document

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_served_document_is_the_committed_one() -> None:
    assert json.loads(document()) == json.loads(COMMITTED.read_text()), "run `make openapi` and read the diff"


def test_every_operation_is_described_and_guarded() -> None:
    paths = json.loads(document())["paths"]
    operations = [(path, operation) for path, methods in paths.items() for operation in methods.values()]
    assert operations
    for path, operation in operations:
        assert operation["description"], path
        if path not in {"/healthz", "/readyz"}:
            assert operation["security"], path
    names = [operation["operationId"] for _, operation in operations]
    assert len(names) == len(set(names))
