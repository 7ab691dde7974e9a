"""The Compose files, read as they stand: closed, hardened, pinned, and made of settings that exist."""

import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_settings import BaseSettings

import narrowcast_gateway.__main__ as gateway_main
from narrowcast_gateway.provisioning.policies import USERS
from narrowcast_gateway.provisioning.settings import OneShotSettings
from narrowcast_gateway.settings import GatewaySettings
from narrowcast_inference.settings import InferenceSection, InferenceSettings
from narrowcast_trainer.settings import TrainerSettings, TrainingSettings

REPOSITORY = Path(__file__).parents[3]
SETTINGS: dict[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "worker": GatewaySettings,
    "trainer": TrainerSettings,
    "inference": InferenceSettings,
    "provisioning": OneShotSettings,
}
MODES = ("split", "sleep", "separate")
_VARIABLE = re.compile(r"\$\{(\w+)(?::?[-+]([^}]*))?\}")


class _Loader(yaml.SafeLoader):
    """Knows Compose's ``!reset`` and ``!override``."""


def _plain(loader: _Loader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else None


_Loader.add_multi_constructor("!", _plain)


def _load(name: str) -> Any:
    return yaml.load((REPOSITORY / name).read_text(), _Loader)


@pytest.fixture(scope="module")
def compose() -> Any:
    return _load("docker-compose.yml")


@pytest.fixture(scope="module")
def services(compose: Any) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def test_only_the_gateway_is_published_without_a_profile(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert {name for name in published if "profiles" not in services[name]} == {"gateway"}
    assert set(published) == {"gateway", "tls", "grafana"}
    for name in ("gateway", "grafana"):
        assert all(_default(port).startswith("127.0.0.1:") for port in published[name])


def test_nothing_but_edge_and_download_leads_outside(compose: Any, services: dict[str, Any]) -> None:
    open_networks = {name for name, network in compose["networks"].items() if not network.get("internal")}
    assert open_networks == {"edge", "download"}
    assert _on(services, "edge") == {"gateway", "tls", "grafana"}
    assert _on(services, "download") == {"base-model"}
    assert _on(services, "jobs") == {"gateway", "worker", "trainer", "redis", "prometheus"}
    assert _on(services, "serving") == {"gateway", "worker", "trainer", "inference", "prometheus"}
    assert services["base-model"]["networks"] == ["download"], (
        "what reaches the internet reaches nothing else"
    )


def test_every_service_is_hardened(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["ulimits"] == {"core": 0}, name
        assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "tls" else []), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert "/var/run/docker.sock" not in str(service), name


def test_images_are_pinned(services: dict[str, Any]) -> None:
    for name, service in services.items():
        image, _, tag = _default(service["image"]).rpartition(":")
        assert image, name
        assert re.search(r"\d", tag), f"{name}: {tag}"
        assert "latest" not in tag


def test_everything_that_serves_is_waited_for(compose: Any, services: dict[str, Any]) -> None:
    waited = {
        (name, other): how["condition"]
        for name, service in services.items()
        if isinstance(service.get("depends_on"), dict)
        for other, how in service["depends_on"].items()
    }
    for name in ("gateway", "worker", "trainer"):
        assert waited[name, "redis"] == waited[name, "minio"] == "service_healthy"
        assert waited[name, "provisioning"] == "service_completed_successfully"
    for name in ("trainer", "inference"):
        assert waited[name, "base-model"] == "service_completed_successfully"
    for name in ("redis", "minio"):
        assert "healthcheck" in services[name]
    dockerfiles = {
        service: (REPOSITORY / "services" / service / "Dockerfile").read_text()
        for service in ("gateway", "trainer", "inference")
    }
    assert all("\nHEALTHCHECK " in text for text in dockerfiles.values())


def test_nothing_between_containers_goes_through_a_proxy(services: dict[str, Any]) -> None:
    # Docker's client hands the one that it is configured with to every container that Compose makes.
    for name, service in services.items():
        if name in {"redis", "minio", "prometheus", "base-model"}:
            continue  # they ask nobody, nobody by HTTP through a proxy, or the internet
        direct = service["environment"]["NO_PROXY"].split(",")
        assert set(direct) == {"localhost", "127.0.0.1", "gateway", "inference", "minio", "prometheus"}, name
        assert service["environment"]["no_proxy"] == service["environment"]["NO_PROXY"]


def test_what_is_reset_without_a_gpu_is_said_in_its_place() -> None:
    # Compose of early 2024 does not see such a tag in an anchor: the GPU would still be asked for.
    text = (REPOSITORY / "docker-compose.cpu.yml").read_text()
    events = list(yaml.parse(text, _Loader))
    assert not [event for event in events if isinstance(event, yaml.AliasEvent)]
    assert re.findall(r"^    (\w+): (!\w+)", text, re.MULTILINE) == [
        ("deploy", "!reset"),
        ("env_file", "!override"),
        ("deploy", "!reset"),
        ("env_file", "!override"),
        ("command", "!override"),
    ]


def test_the_trainer_reaches_a_hub_where_the_site_says_so_and_nothing_more(services: dict[str, Any]) -> None:
    hub = _load("docker-compose.hub.yml")
    assert set(hub["services"]) == {"trainer"}
    assert hub["services"]["trainer"]["networks"] == ["download"]
    assert "download" not in services["trainer"]["networks"]
    (secret,) = hub["services"]["trainer"]["secrets"]
    assert set(hub["secrets"]) == {secret["source"]}
    assert _exists(TrainerSettings, secret["target"])
    assert secret["source"] in (REPOSITORY / "deploy" / "secrets.sh").read_text()


def test_every_variable_is_a_setting() -> None:
    for file in (
        "docker-compose.yml",
        "docker-compose.cpu.yml",
        "docker-compose.hub.yml",
        "tests/containers/fast.yml",
    ):
        for name, service in _load(file)["services"].items():
            for variable in service.get("environment") or {}:
                if variable.startswith("NARROWCAST_") and name in SETTINGS:
                    assert _exists(SETTINGS[name], variable), (file, name, variable)
    for mode in MODES:
        for name in ("trainer", "inference"):
            for variable in _env_file(mode, name):
                if variable.startswith("NARROWCAST_"):
                    assert _exists(SETTINGS[name], variable), (mode, name, variable)


def test_secrets_are_files_named_like_their_setting(compose: Any, services: dict[str, Any]) -> None:
    assert all(set(secret) == {"file"} for secret in compose["secrets"].values())
    for name, settings in SETTINGS.items():
        for secret in services[name]["secrets"]:
            assert secret["source"] in compose["secrets"]
            target = secret["target"]
            assert _exists(settings, target) or target.removeprefix("users/") in USERS, (name, target)
    users = {secret["target"] for secret in services["provisioning"]["secrets"]} - {
        "NARROWCAST_STORAGE__SECRET_KEY"
    }
    assert users == {f"users/{user}" for user in USERS}
    for user in USERS:
        assert services[user]["environment"]["NARROWCAST_STORAGE__ACCESS_KEY"] == user
    text = (REPOSITORY / "deploy" / "secrets.sh").read_text()
    assert all(secret in text for secret in compose["secrets"])


def test_grace_periods_are_longer_than_what_they_are_for(services: dict[str, Any]) -> None:
    def seconds(name: str) -> float:
        return float(services[name]["stop_grace_period"].removesuffix("s"))

    assert seconds("trainer") > TrainingSettings().stop_grace_s
    assert seconds("inference") > InferenceSection.model_fields["shutdown_timeout_s"].default
    (streams,) = re.findall(r"timeout_graceful_shutdown=(\d+)", inspect.getsource(gateway_main))
    assert seconds("gateway") > int(streams)


def test_sharing_a_gpu_is_set_on_both_sides() -> None:
    for mode in MODES:
        trainer, inference = _env_file(mode, "trainer"), _env_file(mode, "inference")
        leases = "NARROWCAST_TRAINER__GPU_LEASE_URLS" in trainer
        assert leases == (inference.get("NARROWCAST_INFERENCE__GPU_SHARING") == "true") == (mode == "sleep")
        same_card = _default(trainer["CUDA_VISIBLE_DEVICES"]) == _default(inference["CUDA_VISIBLE_DEVICES"])
        assert same_card == (mode != "separate")


def test_the_example_lists_every_variable_and_no_other() -> None:
    files = [
        "docker-compose.yml",
        "docker-compose.cpu.yml",
        "docker-compose.hub.yml",
        *(f"deploy/gpu/{m}/{service}.env" for m in MODES for service in ("trainer", "inference")),
    ]
    used = {name for file in files for name, _ in _VARIABLE.findall((REPOSITORY / file).read_text())}
    example = (REPOSITORY / ".env.example").read_text()
    listed = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE)) - {"COMPOSE_FILE"}
    assert listed == used


@pytest.mark.parametrize(
    ("env", "environment", "folder"),
    [
        ("", {}, "secrets"),
        ("NARROWCAST_SECRETS=./elsewhere\n", {}, "elsewhere"),
        ('NARROWCAST_SECRETS="./else where"\n', {}, "else where"),
        ("NARROWCAST_SECRETS=./elsewhere\n", {"NARROWCAST_SECRETS": "here"}, "here"),
    ],
)
def test_passwords_are_written_where_compose_looks(
    env: str, environment: dict[str, str], folder: str, tmp_path: Path, compose: Any
) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    (tmp_path / "deploy").mkdir()
    shutil.copy(REPOSITORY / "deploy" / "secrets.sh", tmp_path / "deploy")
    (tmp_path / ".env").write_text("#NARROWCAST_SECRETS=./not-this\n" + env)
    command = ["make", "--silent", "secrets"]
    variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", **environment}
    subprocess.run(command, cwd=tmp_path, env=variables, check=True, capture_output=True)
    found = {path.name for path in (tmp_path / folder).iterdir()}
    assert found >= {Path(secret["file"].rpartition("/")[2]).name for secret in compose["secrets"].values()}
    assert {path.name for path in tmp_path.iterdir()} == {"Makefile", "deploy", ".env", folder}


def test_no_documented_command_waits_for_a_one_shot(services: dict[str, Any]) -> None:
    # Named in `up --wait`, one that ends well is an error, or is not waited for: `run` does it.
    one_shots = {name for name, service in services.items() if service.get("restart") == "on-failure:5"}
    assert one_shots == {"provisioning", "base-model"}
    commands = [
        command.split()
        for text in _documents().values()
        for command in re.findall(r"docker compose [^&|#\n`]*", text)
    ]
    assert [command for command in commands if "up" in command]
    assert not [command for command in commands if "--wait" in command and one_shots & set(command)]


def test_the_documents_name_variables_that_exist() -> None:
    known = set(re.findall(r"[A-Z][A-Z0-9_]+(?==)", (REPOSITORY / ".env.example").read_text()))
    known |= {"NARROWCAST_ENVIRONMENT", "NARROWCAST_SECRETS_DIR"}
    known |= {"NARROWCAST_BACKUP_BUCKETS", "NARROWCAST_BACKUP_TARGET"}
    for file, text in _documents().items():
        for variable in re.findall(r"\bNARROWCAST_[A-Z0-9_]*[A-Z0-9]\b(?!__)", text):
            if "__" in variable:
                assert any(_exists(settings, variable) for settings in SETTINGS.values()), (file, variable)
            else:
                assert variable in known, (file, variable)


def _documents() -> dict[str, str]:
    return {path.name: path.read_text() for path in [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md")]}


def _default(text: str) -> str:
    return _VARIABLE.sub(lambda found: found[2] or "", text)


def _on(services: dict[str, Any], network: str) -> set[str]:
    return {name for name, service in services.items() if network in service["networks"]}


def _env_file(mode: str, service: str) -> dict[str, str]:
    lines = (REPOSITORY / "deploy" / "gpu" / mode / f"{service}.env").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and not line.startswith("#")]
    return dict(pairs)


def _exists(settings: type[BaseModel], variable: str) -> bool:
    model: Any = settings
    for part in variable.removeprefix("NARROWCAST_").lower().split("__"):
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return False
        model = fields[part].annotation
    return True
