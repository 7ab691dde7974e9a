"""Pushing to a hub by the real client."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.exports import HubDestination
from narrowcast_trainer.export.hub import HubOrder, _push, check_destination, push
from narrowcast_trainer.settings import HubSettings

from .hub_server import Hub, running_hub

TOKEN = "hf_secret_of_the_site"
SMALL = b"FROM ./model.gguf\n"
LARGE = bytes(range(256)) * 100


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as told:
        monkeypatch.setenv("HF_ENDPOINT", told.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as in a job's process
        yield told


def order(folder: Path | None, *, private: bool = True) -> HubOrder:
    destination = HubDestination(repo_id="clinic/reports", private=private)
    return HubOrder(destination=destination, token=SecretStr(TOKEN), folder=folder, message="reports as gguf")


def test_an_export_arrives_in_a_private_repository(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_bytes(SMALL)
    (tmp_path / "model.gguf").write_bytes(LARGE)
    assert push(order(tmp_path)) == f"{hub.url}/clinic/reports"
    assert hub.files == {"Modelfile": SMALL, "model.gguf": LARGE}
    (created,) = hub.repositories.values()
    assert created.get("private") is True or created.get("visibility") == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_repository_is_tried_before_the_work(hub: Hub) -> None:
    for _ in range(2):  # it is there the second time
        push(order(None))
    assert list(hub.repositories) == ["clinic/reports"]
    assert hub.files == {}
    assert not [path for path in hub.asked if "/commit/" in path or "/lfs/" in path], "nothing is changed"


def test_a_token_that_may_only_read_is_found_out_before_the_work(hub: Hub) -> None:
    hub.repositories["clinic/reports"] = {"visibility": "private"}
    hub.writable = False
    with pytest.raises(JobFailed) as caught:
        push(order(None))
    assert caught.value.code == "hub_refused"
    assert "403" in caught.value.message


def test_what_is_private_goes_into_no_public_repository(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_bytes(SMALL)
    push(order(None))
    hub.repositories["clinic/reports"]["visibility"] = "public"  # while the export was made
    for folder in (None, tmp_path):
        with pytest.raises(JobFailed) as caught:
            push(order(folder))
        assert (caught.value.code, caught.value.param) == (
            "hub_destination_not_allowed",
            "push_to_hub.repo_id",
        )
        assert "make it private" in caught.value.message
    assert hub.files == {}
    push(order(tmp_path, private=False))  # which the site has to allow: check_destination
    assert hub.files == {"Modelfile": SMALL}


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(401, JobFailed, "hub_refused"), (403, JobFailed, "hub_refused"), (500, Unavailable, "hub_unavailable")],
)
def test_a_hub_that_says_no(hub: Hub, status: int, kind: type[JobFailed | Unavailable], code: str) -> None:
    hub.status = status
    with pytest.raises(kind) as caught:
        push(order(None))
    assert caught.value.code == code
    assert str(status) in caught.value.message
    assert TOKEN not in caught.value.message


def test_a_name_that_the_client_refuses_is_not_tried_again() -> None:
    named = HubDestination.model_construct(repo_id="clinic/mri..reports", private=True)
    wanted = HubOrder.model_construct(destination=named, token=SecretStr(TOKEN), folder=None)
    outcome = _push(wanted)
    assert (outcome.result, "clinic/mri..reports" in outcome.reason) == ("refused", True)


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable) as caught:
        push(order(None))
    assert caught.value.code == "hub_unavailable"


def test_what_the_site_allows() -> None:
    allowed = HubSettings(token=SecretStr(TOKEN), owners=("clinic",))
    destination = HubDestination(repo_id="clinic/reports")
    assert check_destination(destination, allowed).get_secret_value() == TOKEN
    public = destination.model_copy(update={"private": False})
    for refused, settings in (
        (destination, HubSettings()),
        (destination, HubSettings(token=SecretStr("  "))),
        (HubDestination(repo_id="another/reports"), allowed),
        (public, allowed),
    ):
        with pytest.raises(JobFailed) as caught:
            check_destination(refused, settings)
        assert TOKEN not in caught.value.message
    assert check_destination(public, allowed.model_copy(update={"allow_public": True}))


def test_the_token_is_in_no_repr() -> None:
    settings = HubSettings(token=SecretStr(TOKEN))
    assert not re.search(TOKEN, f"{settings} {settings!r} {order(None)!r}")
