"""Setting the object store up: repeated, rotated, refused, and without a word of a secret."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from minio.crypto import decrypt
from pydantic import SecretStr
from urllib3.response import HTTPResponse

from narrowcast.errors import Conflict, InvalidInput, NarrowcastError, Unavailable
from narrowcast.settings import StorageSettings
from narrowcast.storage import Storage
from narrowcast_gateway.provisioning.policies import USERS, policy_document
from narrowcast_gateway.provisioning.service import provision, read_secrets
from narrowcast_gateway.provisioning.settings import OneShotSettings, ProvisioningSettings
from narrowcast_gateway.provisioning.user_admin import find_user_admin
from narrowcast_local.stack import servers

ADMIN_SECRET = "admin-secret-key"
Running = Callable[[list[str], Callable[[], bool]], AbstractContextManager[None]]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "users"
    folder.mkdir()
    for user in USERS:
        (folder / user).write_text(f"{user}-first-secret\n")
    return folder


@pytest.fixture
def one_shot(storage_settings: StorageSettings, secrets: Path) -> OneShotSettings:
    return OneShotSettings(
        storage=storage_settings, provisioning=ProvisioningSettings(users_dir=secrets, deadline_s=10)
    )


def _as(storage: StorageSettings, user: str, secret: str) -> Storage:
    return Storage(storage.model_copy(update={"access_key": user, "secret_key": SecretStr(secret)}))


def _run(
    storage: StorageSettings, secrets: Path, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "narrowcast_gateway.provisioning", *arguments],
        env={
            "NARROWCAST_STORAGE__ENDPOINT": storage.endpoint,
            "NARROWCAST_STORAGE__ACCESS_KEY": storage.access_key,
            "NARROWCAST_STORAGE__SECRET_KEY": storage.secret_key.get_secret_value(),
            "NARROWCAST_PROVISIONING__USERS_DIR": str(secrets),
            **more,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_repetition_changes_nothing(one_shot: OneShotSettings) -> None:
    provision(one_shot)
    trainer = _as(one_shot.storage, "trainer", "trainer-first-secret")
    trainer.models.put("adapters/p/kept", b"x")
    provision(one_shot)
    assert trainer.models.get("adapters/p/kept") == b"x"


def test_a_new_secret_replaces_the_old_one(one_shot: OneShotSettings, secrets: Path) -> None:
    provision(one_shot)
    (secrets / "worker").write_text("worker-second-secret")
    provision(one_shot)
    list(_as(one_shot.storage, "worker", "worker-second-secret").data.keys("datasets/none/"))
    with pytest.raises(Unavailable) as refused:
        list(_as(one_shot.storage, "worker", "worker-first-secret").data.keys("datasets/none/"))
    assert refused.value.code == "storage_refused"
    list(_as(one_shot.storage, "gateway", "gateway-first-secret").data.keys("datasets/none/"))


def test_a_policy_that_somebody_widened_is_narrowed_again(
    one_shot: OneShotSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(USERS, "inference", USERS["trainer"])
    provision(one_shot)
    inference = _as(one_shot.storage, "inference", "inference-first-secret")
    inference.models.put("adapters/p/by-inference", b"x")
    monkeypatch.undo()
    provision(one_shot)
    with pytest.raises(Unavailable):
        inference.models.put("adapters/p/by-inference", b"x")


@pytest.mark.parametrize("content", [None, "", "  \n", "seven77"])
def test_a_secret_that_cannot_be_used_stops_it_before_anything_is_done(
    secrets: Path, storage_settings: StorageSettings, content: str | None
) -> None:
    (secrets / "trainer").unlink()
    if content is not None:
        (secrets / "trainer").write_text(content)
    elsewhere = storage_settings.model_copy(update={"endpoint": "127.0.0.1:9"})
    with pytest.raises(InvalidInput, match="trainer") as bad:
        provision(OneShotSettings(storage=elsewhere, provisioning=ProvisioningSettings(users_dir=secrets)))
    assert bad.value.code == "bad_user_secret"
    assert "seven77" not in bad.value.message


def test_secrets_lose_their_line_end(secrets: Path) -> None:
    assert read_secrets(secrets)["worker"] == "worker-first-secret"


def test_the_wrong_administrator_is_refused_at_once(one_shot: OneShotSettings) -> None:
    wrong = one_shot.storage.model_copy(update={"secret_key": SecretStr("not-the-secret")})
    with pytest.raises(Unavailable) as refused:
        provision(one_shot.model_copy(update={"storage": wrong}))
    assert refused.value.code == "storage_refused"


def test_a_server_that_stays_away(one_shot: OneShotSettings) -> None:
    away = one_shot.storage.model_copy(update={"endpoint": "127.0.0.1:9"})
    short = one_shot.provisioning.model_copy(update={"deadline_s": 1.0})
    with pytest.raises(Unavailable) as unavailable:
        provision(OneShotSettings(storage=away, provisioning=short))
    assert unavailable.value.code == "storage_unavailable"


def test_a_server_without_users(rclone_settings: StorageSettings, secrets: Path) -> None:
    with pytest.raises(InvalidInput) as unknown:
        provision(
            OneShotSettings(storage=rclone_settings, provisioning=ProvisioningSettings(users_dir=secrets))
        )
    assert unknown.value.code == "no_user_administration"
    buckets_only = ProvisioningSettings(users=False, users_dir=secrets / "absent")
    provision(OneShotSettings(storage=rclone_settings, provisioning=buckets_only))
    Storage(rclone_settings).check()


def test_a_service_is_no_administrator(one_shot: OneShotSettings) -> None:
    provision(one_shot)
    trainer = one_shot.storage.model_copy(
        update={"access_key": "trainer", "secret_key": SecretStr("trainer-first-secret")}
    )
    with pytest.raises(NarrowcastError):
        provision(one_shot.model_copy(update={"storage": trainer}))


def test_it_waits_for_the_server_and_users_outlive_a_restart(
    running: Running, secrets: Path, tmp_path: Path
) -> None:
    port = servers.free_port()
    storage = StorageSettings.model_validate({"endpoint": f"127.0.0.1:{port}", "secret_key": ADMIN_SECRET})
    server = servers.seaweedfs(tmp_path / "s3", port, storage.access_key, ADMIN_SECRET)
    with running(server.command, lambda: True):  # not up yet
        provision(OneShotSettings(storage=storage, provisioning=ProvisioningSettings(users_dir=secrets)))
        _as(storage, "trainer", "trainer-first-secret").models.put("adapters/p/x", b"x")

    def back() -> bool:
        try:
            return _as(storage, "inference", "inference-first-secret").models.get("adapters/p/x") == b"x"
        except NarrowcastError:
            return False

    with running(server.command, back), pytest.raises(Unavailable):
        _as(storage, "inference", "inference-first-secret").models.put("adapters/p/x", b"y")


def test_a_server_whose_users_may_not_be_changed(running: Running, secrets: Path, tmp_path: Path) -> None:
    port = servers.free_port()
    storage = StorageSettings.model_validate({"endpoint": f"127.0.0.1:{port}", "secret_key": ADMIN_SECRET})
    server = servers.seaweedfs(tmp_path / "s3", port, storage.access_key, ADMIN_SECRET)
    command = [argument for argument in server.command if "iam.readOnly" not in argument]
    with running(command, lambda: True), pytest.raises(Conflict, match="readOnly=false"):
        provision(OneShotSettings(storage=storage, provisioning=ProvisioningSettings(users_dir=secrets)))


def test_the_command_says_no_secret(storage_settings: StorageSettings, secrets: Path) -> None:
    done = _run(storage_settings, secrets, NARROWCAST_LOG_LEVEL="DEBUG")
    assert done.returncode == 0, done.stderr
    (secrets / "worker").write_text("worker-third-secret")
    rotated = _run(storage_settings, secrets, NARROWCAST_LOG_LEVEL="DEBUG")
    assert rotated.returncode == 0, rotated.stderr
    refused = _run(storage_settings, secrets, NARROWCAST_STORAGE__SECRET_KEY="another-secret")
    assert (refused.returncode, "refused" in refused.stderr) == (1, True)
    said = "".join(run.stdout + run.stderr for run in (done, rotated, refused))
    hidden = [path.read_text().strip() for path in secrets.iterdir()]
    hidden += ["worker-first-secret", "another-secret", storage_settings.secret_key.get_secret_value()]
    assert [secret for secret in hidden if secret in said] == []
    assert all(f'"{user}"' in done.stderr + done.stdout for user in USERS)


def test_the_policies_are_printed_for_other_servers(storage_settings: StorageSettings, secrets: Path) -> None:
    printed = json.loads(_run(storage_settings, secrets, "--policies").stdout)
    assert printed == {user: policy_document(user, storage_settings) for user in USERS}
    actions = {
        action
        for document in printed.values()
        for statement in document["Statement"]
        for action in statement["Action"]
    }
    assert actions == {
        "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject", "s3:ListBucket",
    }  # fmt: skip


def test_what_minio_is_asked(storage_settings: StorageSettings) -> None:
    """MinIO itself is not at hand: this is the requests' form, as its router and the SDK have it."""
    asked: list[tuple[str, str, dict[str, list[str]], bytes]] = []

    class Recorder(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.command, url.path, parse_qs(url.query), body))
            refused = "taken" in url.query
            self.send_response(400 if refused else 200)
            self.end_headers()
            self.wfile.write(b'{"Code":"XMinioAdminInvalidAccessKey","Message":"no"}' if refused else b"{}")

        do_GET = do_PUT = _answer  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as recorder:
        threading.Thread(target=recorder.serve_forever, daemon=True).start()
        storage = storage_settings.model_copy(update={"endpoint": f"127.0.0.1:{recorder.server_port}"})
        admin = find_user_admin(storage)
        admin.set_user("trainer", "trainer-secret", "narrowcast-trainer", policy_document("trainer", storage))
        with pytest.raises(Conflict, match="XMinioAdminInvalidAccessKey"):
            admin.set_user("taken", "trainer-secret", "narrowcast-taken", {})
        recorder.shutdown()

    api = "/minio/admin/v3/"
    assert [(method, path.removeprefix(api), query) for method, path, query, _ in asked[:4]] == [
        ("GET", "list-canned-policies", {}),
        ("PUT", "add-canned-policy", {"name": ["narrowcast-trainer"]}),
        ("PUT", "add-user", {"accessKey": ["trainer"]}),
        (
            "PUT",
            "set-user-or-group-policy",
            {"policyName": ["narrowcast-trainer"], "userOrGroup": ["trainer"], "isGroup": ["false"]},
        ),
    ]
    assert json.loads(asked[1][3]) == policy_document("trainer", storage)
    assert b"trainer-secret" not in asked[2][3], "the secret goes encrypted"
    opened = decrypt(
        HTTPResponse(BytesIO(asked[2][3]), preload_content=False), storage.secret_key.get_secret_value()
    )
    assert json.loads(opened) == {"status": "enabled", "secretKey": "trainer-secret"}
