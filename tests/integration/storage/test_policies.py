"""Each service's user on a server that enforces the policies: what it needs works, the rest is refused."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from narrowcast.artifacts import Manifest, discard, fetch, publish, read_manifest
from narrowcast.errors import NotFound, Unavailable
from narrowcast.settings import StorageSettings
from narrowcast.storage import Bucket, Storage
from narrowcast_gateway.provisioning.policies import USERS
from narrowcast_gateway.provisioning.service import provision
from narrowcast_gateway.provisioning.settings import OneShotSettings, ProvisioningSettings

MIB = 1024 * 1024
BUCKETS = ("documents", "data", "models")


@pytest.fixture(scope="module")
def users(
    storage_settings: StorageSettings, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Storage]:
    """The object store as a service sees it."""
    folder = tmp_path_factory.mktemp("users")
    for user in USERS:
        (folder / user).write_text(f"{user}-secret-of-policies\n")
    provision(OneShotSettings(storage=storage_settings, provisioning=ProvisioningSettings(users_dir=folder)))

    def seen_by(user: str) -> Storage:
        secret = SecretStr(f"{user}-secret-of-policies")
        return Storage(storage_settings.model_copy(update={"access_key": user, "secret_key": secret}))

    return seen_by


@pytest.fixture(scope="module")
def everything(storage_settings: StorageSettings) -> Iterator[Storage]:
    """The administrator's view, with something in every place."""
    storage = Storage(storage_settings)
    for bucket in storage.buckets:
        for place in (
            "datasets/p/x",
            "jobs/p/x",
            "evaluations/p/x",
            "adapters/p/x",
            "checkpoints/p/x",
            "exports/p/x",
            "p/c/x",
        ):
            bucket.put(place, b"x")
    yield storage
    for bucket in storage.buckets:
        bucket.delete_prefix("")


def _refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except Unavailable as error:
        if error.code != "storage_refused":
            raise
        return True
    return False


def _may_read(bucket: Bucket, folder: str) -> bool:
    refusals = [
        _refused(lambda: bucket.get(f"{folder}p/x")),
        _refused(lambda: list(bucket.stream(f"{folder}p/x"))),
    ]
    assert len(set(refusals)) == 1
    return not refusals[0]


def _may_write(bucket: Bucket, folder: str) -> bool:
    large = io.BytesIO(b"x" * 20 * MIB)
    refusals = [
        _refused(lambda: bucket.put(f"{folder}p/new", b"x")),
        _refused(lambda: bucket.put_stream(f"{folder}p/large", large, 20 * MIB)),
    ]
    assert len(set(refusals)) == 1
    return not refusals[0]


def _may_list(bucket: Bucket, folder: str) -> bool:
    refusals = [
        _refused(lambda: list(bucket.keys(folder))),
        _refused(lambda: list(bucket.folders(folder))),
        _refused(lambda: bucket.age_s(folder)),
    ]
    assert len(set(refusals)) == 1
    return not refusals[0]


def _may_delete(bucket: Bucket, administrator: Bucket, folder: str) -> bool:
    administrator.put(f"{folder}p/victim", b"x")
    refused = _refused(lambda: bucket.delete(f"{folder}p/victim"))
    assert administrator.exists(f"{folder}p/victim") == refused
    return not refused


def _allowed(mine: Storage, everything: Storage, place: str) -> str:
    """Return what a user may do at ``bucket`` or ``bucket/folder``, by letters."""
    role, _, folder = place.partition("/")
    bucket, administrator = getattr(mine, role), getattr(everything, role)
    letters = [
        ("r", _may_read(bucket, folder or "datasets/")),
        ("w", _may_write(bucket, folder)),
        ("d", _may_delete(bucket, administrator, folder)),
        ("l", _may_list(bucket, folder)),
    ]
    return "".join(letter for letter, allowed in letters if allowed)


# Written out once more, so that a slip in the table of policies is noticed.
EXPECTED = {
    "gateway": {
        "documents": "wdl", "data/": "rl", "data/datasets/": "rwdl", "data/jobs/": "rl",
        "data/evaluations/": "rdl", "models/adapters/": "rdl", "models/checkpoints/": "rl",
        "models/exports/": "rdl",
    },
    "worker": {
        "documents": "rdl", "data/datasets/": "rwdl", "data/jobs/": "rwdl", "data/evaluations/": "rwdl",
        "models/adapters/": "rl", "models/checkpoints/": "rl",
    },
    "trainer": {
        "documents": "", "data/datasets/": "rl", "data/jobs/": "rwl", "data/evaluations/": "rl",
        "models/adapters/": "rwdl", "models/checkpoints/": "rwdl", "models/exports/": "rwdl",
    },
    "inference": {
        "documents": "", "data/": "", "data/datasets/": "", "data/jobs/": "", "data/adapters/": "",
        "models": "", "models/adapters/": "rl", "models/checkpoints/": "", "models/exports/": "",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("user", "place", "letters"),
    [(user, place, letters) for user, places in EXPECTED.items() for place, letters in places.items()],
)
def test_what_each_user_may_do(
    users: Callable[[str], Storage], everything: Storage, user: str, place: str, letters: str
) -> None:
    assert _allowed(users(user), everything, place) == letters


def test_the_table_names_every_user(users: Callable[[str], Storage]) -> None:
    assert set(EXPECTED) == set(USERS)


def test_the_main_line_with_each_services_own_key(
    users: Callable[[str], Storage], everything: Storage, tenant: str, tmp_path: Path
) -> None:
    """What the services do one after the other, from the upload to the served adapter."""
    gateway, worker, trainer, inference = (
        users(name) for name in ("gateway", "worker", "trainer", "inference")
    )
    gateway.check()
    gateway.documents.put_stream(f"{tenant}/corpus/upload-00000", io.BytesIO(b"x" * 20 * MIB), 20 * MIB)
    assert sum(map(len, worker.documents.stream(f"{tenant}/corpus/upload-00000"))) == 20 * MIB
    rows = publish(
        worker.data, f"datasets/{tenant}/d/", {"train.jsonl": b"{}"}, Manifest(id="d", tenant=tenant)
    )
    worker.data.put(f"jobs/{tenant}/corpus.json", b"{}")
    assert worker.documents.delete_prefix(f"{tenant}/corpus/") == 1
    assert read_manifest(trainer.data, f"datasets/{tenant}/d/", Manifest) == rows
    for step in ("step-1", "step-2"):
        trainer.models.put(f"checkpoints/{tenant}/job/{step}/state", b"x")
    weights = tmp_path / "weights"
    weights.write_bytes(b"w" * 20 * MIB)
    publish(trainer.models, f"adapters/{tenant}/a/", {"weights": weights}, Manifest(id="a", tenant=tenant))
    trainer.models.delete_prefix(f"checkpoints/{tenant}/job/")
    trainer.data.put(f"jobs/{tenant}/job.json", b"{}")
    adapter = read_manifest(inference.models, f"adapters/{tenant}/a/", Manifest)
    fetch(inference.models, f"adapters/{tenant}/a/", adapter, tmp_path / "served")
    assert list(gateway.models.folders(f"adapters/{tenant}/")) == ["a"]
    publish(worker.data, f"evaluations/{tenant}/e/", {"predictions": b"x"}, Manifest(id="e", tenant=tenant))
    assert gateway.data.get(f"evaluations/{tenant}/e/predictions") == b"x"
    assert gateway.data.get(f"jobs/{tenant}/job.json") == b"{}"
    assert gateway.data.delete_prefix(f"datasets/{tenant}/d/") == 2
    assert discard(gateway.data, f"evaluations/{tenant}/e/") == 1
    discard(gateway.models, f"adapters/{tenant}/a/")
    assert list(gateway.models.folders(f"adapters/{tenant}/")) == []


@pytest.mark.parametrize("user", ["gateway", "worker", "trainer", "inference"])
def test_what_is_missing_is_not_found_rather_than_refused(
    users: Callable[[str], Storage], user: str, tenant: str
) -> None:
    with pytest.raises(NotFound):
        users(user).models.get(f"adapters/{tenant}/none/manifest.json")
