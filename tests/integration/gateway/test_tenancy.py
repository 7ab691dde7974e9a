"""Every endpoint wants a key, and a key opens its tenant's things only."""

import asyncio
import re
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from fastapi.routing import APIRoute

ROW = '{"instruction": "i", "input": "in", "output": "out"}\n'


def endpoints(app: Any) -> list[tuple[str, str]]:
    paths = app.openapi()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def test_every_endpoint_but_health_wants_a_key(gateway: Any) -> None:
    anonymous = gateway.http.__class__(gateway.http.app)
    checked = 0
    for method, path in endpoints(gateway.http.app):
        response = anonymous.request(method, path.replace("{", "").replace("}", ""))
        if path in {"/healthz", "/readyz"}:
            assert response.status_code == 200
        else:
            assert response.status_code == 401, path
            assert response.json()["error"]["type"] == "authentication_error"
            checked += 1
    assert checked >= 20


@pytest.mark.parametrize("header", ["Bearer nc-wrong", "Bearer ", "Basic abc", "Bearer sk-other"])
def test_a_wrong_key_is_refused(gateway: Any, header: str) -> None:
    client = gateway.http.__class__(gateway.http.app, headers={"Authorization": header})
    assert client.get("/v1/models").status_code == 401


def test_keys_are_stored_hashed_and_can_be_revoked(gateway: Any) -> None:
    keys = gateway.services.keys
    key = keys.create("radiology")
    stored = str(gateway.services.connections.redis.hgetall("nc:api-keys"))
    assert key not in stored
    record = keys.authenticate(key)
    assert keys.revoke(record.id)
    client = gateway.http.__class__(gateway.http.app, headers={"Authorization": f"Bearer {key}"})
    assert client.get("/v1/models").status_code == 401


def test_another_tenants_objects_are_not_found(gateway: Any, error: Callable[..., dict[str, Any]]) -> None:
    file_id = gateway.http.post(
        "/v1/files", files={"file": ("rows.jsonl", ROW)}, data={"purpose": "fine-tune"}
    ).json()["id"]
    job_id = gateway.http.post(
        "/v1/fine_tuning/jobs", json={"model": "smollm2-135m-instruct", "training_file": file_id}
    ).json()["id"]
    stranger = gateway.as_tenant("stranger").http
    for path in (
        f"/v1/files/{file_id}",
        f"/v1/files/{file_id}/content",
        f"/v1/datasets/{file_id}",
        f"/v1/datasets/{file_id}/content",
        f"/v1/fine_tuning/jobs/{job_id}",
        f"/v1/fine_tuning/jobs/{job_id}/events",
    ):
        assert gateway.http.get(path).status_code == 200, path
        error(stranger.get(path), 404, "not_found")
    error(stranger.post(f"/v1/fine_tuning/jobs/{job_id}/cancel"), 404, "not_found")
    error(stranger.delete(f"/v1/files/{file_id}"), 404, "not_found")
    body = {"model": "smollm2-135m-instruct", "training_file": file_id}
    assert (
        error(stranger.post("/v1/fine_tuning/jobs", json=body), 404, "not_found")["param"] == "training_file"
    )
    assert stranger.get("/v1/files").json()["data"] == []
    assert stranger.get("/v1/fine_tuning/jobs").json()["data"] == []
    assert gateway.http.get(f"/v1/files/{file_id}").status_code == 200


# Not a new one each time: tests that run side by side have to be called the same.
NOBODY = "0" * 24


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/corpora/corpus-{NOBODY}",
        "/v1/corpora/..%2f..%2fx",
        f"/v1/datasets/dataset-{NOBODY}",
        "/v1/datasets/x",
        "/v1/files/file-00",
        f"/v1/fine_tuning/jobs/ftjob-{NOBODY}",
        f"/v1/evaluations/eval-{NOBODY}",
        "/v1/adapters/no-such-adapter",
        "/v1/models/no-such-model",
        "/v1/models/Иванов",
    ],
)
def test_what_does_not_exist_is_404_and_not_repeated(gateway: Any, path: str) -> None:
    response = gateway.http.get(path)
    assert response.status_code == 404
    assert "Иванов" not in response.text


TEXT = "Иванов-" + "x" * 1000


@pytest.mark.parametrize(
    "path",
    ["corpora/{}", "fine_tuning/jobs/{}", "evaluations/{}", "exports/{}", "datasets/{}", "files/{}"]
    + [f"{listing}?after={{}}" for listing in ("corpora", "fine_tuning/jobs", "evaluations", "exports")],
)
def test_what_is_no_id_is_not_repeated_and_an_id_is(
    gateway: Any, error: Callable[..., dict[str, Any]], path: str
) -> None:
    for text in (TEXT, "x" * 1000, "ivanov-" + NOBODY):
        found = error(gateway.http.get("/v1/" + path.format(text)), 404, "not_found")
        assert found["message"].startswith("no such ")
    if path.startswith("fine_tuning"):
        found = error(gateway.http.get("/v1/" + path.format("ftjob-" + NOBODY)), 404, "not_found")
        assert found["message"] == "no job ftjob-" + NOBODY


def test_all_routes_have_documented_answers(gateway: Any) -> None:
    routes = [
        route for route in gateway.http.app.routes if isinstance(route, APIRoute) and route.include_in_schema
    ]
    assert routes
    assert all(route.description for route in routes)


def test_the_reference_page_needs_nothing_from_outside(gateway: Any) -> None:
    page = gateway.http.get("/docs").text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources
    for source in sources:
        assert source.startswith("/"), source
        assert gateway.http.get(source).status_code == 200


@pytest.mark.parametrize("key", [None, b"Bearer nc-nobody", b"Basic eDp5"])
def test_no_body_is_read_from_who_has_no_key(gateway: Any, key: bytes | None) -> None:
    """A form goes to the disk and JSON into memory as it is read: anybody could fill both."""
    sent: list[Any] = []

    async def receive() -> Any:
        pytest.fail("its body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    paths = [path for method, path in endpoints(gateway.http.app) if method == "POST"]
    for path, content_type in product(paths, [b"multipart/form-data; boundary=b", b"application/json"]):
        headers = [(b"content-type", content_type)]
        headers += [(b"authorization", key)] if key is not None else []
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        sent.clear()
        asyncio.run(gateway.http.app(scope, receive, send))
        assert sent[0]["status"] == 401, path
        assert (b"www-authenticate", b"Bearer") in sent[0]["headers"]
    assert len(paths) >= 12
