"""What every pod must have: no rights, limits, probes, pinned images, time to end well."""

import ast
import inspect
import re

import narrowcast_gateway.__main__ as gateway_main
from narrowcast_inference.settings import InferenceSection
from narrowcast_trainer.settings import TrainingSettings

from .conftest import Manifests, Pod, quantity, selects

SERVING = {"gateway", "inference", "redis", "s3"}
ONE_SHOTS = {"provision", "fetch-base-model"}
QUICK_STOP_S = 20
"""A CPU worker gives its jobs back between two documents; stores write what is left."""


def test_the_pods_are_those_we_know(manifests: Manifests) -> None:
    services = {pod.service for pod in manifests.pods}
    assert services >= {"gateway", "worker", "trainer", "inference", "fetch-base-model"}
    if manifests.name == "production":
        assert not services & {"redis", "s3", "provision"}
    else:
        assert services >= {"redis", "s3", "provision"}


def test_no_pod_has_rights(manifests: Manifests) -> None:
    for pod in manifests.pods:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod.name
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True, pod.name
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 10001, pod.name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, pod.name
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, (pod.name, container["name"])
        allowed = {"name", "configMap", "emptyDir", "secret", "persistentVolumeClaim", "projected"}
        assert all(volume.keys() <= allowed for volume in pod.spec["volumes"]), pod.name


def test_no_pod_holds_a_token(manifests: Manifests) -> None:
    accounts = {found["metadata"]["name"]: found for found in manifests.of("ServiceAccount")}
    for pod in manifests.pods:
        assert pod.spec["automountServiceAccountToken"] is False, pod.name
        # Its own account, so that nothing is granted to one by granting it to another.
        assert pod.spec["serviceAccountName"] == pod.service, pod.name
        assert accounts.pop(pod.service)["automountServiceAccountToken"] is False, pod.name
        # A Service called redis would set REDIS_PORT to an address.
        assert pod.spec["enableServiceLinks"] is False, pod.name
    assert not accounts, "accounts that no pod uses"
    assert not [found for found in manifests.objects if found["kind"].endswith(("Role", "RoleBinding"))]


def test_every_container_has_limits(manifests: Manifests) -> None:
    for pod in manifests.pods:
        for container in pod.containers:
            for kind in ("requests", "limits"):
                given = container["resources"][kind]
                assert given.keys() >= {"cpu", "memory", "ephemeral-storage"}, (pod.name, container["name"])
        for volume in pod.spec["volumes"]:
            if "emptyDir" in volume:
                quantity(volume["emptyDir"]["sizeLimit"])


def test_volumes_in_memory_fit_the_limit(manifests: Manifests) -> None:
    for pod in manifests.pods:
        (container,) = pod.spec["containers"]
        folders = [volume["emptyDir"] for volume in pod.spec["volumes"] if "emptyDir" in volume]
        used = [quantity(folder["sizeLimit"]) for folder in folders if folder.get("medium") == "Memory"]
        assert sum(used) < quantity(container["resources"]["limits"]["memory"]), pod.name


def test_images_are_pinned(manifests: Manifests) -> None:
    for pod in manifests.pods:
        for container in pod.containers:
            name, colon, tag = container["image"].rpartition(":")
            assert colon, container["image"]
            assert "/" not in tag, container["image"]
            assert re.fullmatch(r"(?!latest)[A-Za-z0-9._-]*\d[A-Za-z0-9._-]*", tag), container["image"]
            if name.endswith(("/trainer", "/inference")):
                gpus = pod.spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0)
                one_shot = pod.service in ONE_SHOTS and manifests.name != "dev"
                assert tag.endswith("-cuda" if gpus or one_shot else "-cpu"), (pod.name, tag)


def test_what_serves_is_probed(manifests: Manifests) -> None:
    for pod in manifests.pods:
        (container,) = pod.spec["containers"]
        probes = {key for key in container if key.endswith("Probe")}
        if pod.service in ONE_SHOTS:
            assert not probes, pod.name
        elif pod.service in SERVING:
            assert probes == {"startupProbe", "readinessProbe", "livenessProbe"}, pod.name
        else:
            assert probes == {"startupProbe", "livenessProbe"}, pod.name
        for probe in probes:
            port = container[probe].get("httpGet", {}).get("port")
            assert port is None or port in {entry["name"] for entry in container["ports"]}, pod.name


def test_every_pod_may_end_well(manifests: Manifests) -> None:
    for pod in manifests.pods:
        if pod.service in ONE_SHOTS:
            continue
        (container,) = pod.spec["containers"]
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = before + _needed_to_stop(manifests, pod)
        assert pod.spec["terminationGracePeriodSeconds"] > needed, pod.name
        if pod.service in {"gateway", "inference"}:
            assert before > 0, "requests would still be sent to a pod that no longer listens"


def _needed_to_stop(manifests: Manifests, pod: Pod) -> float:
    variables = manifests.environment(pod.spec["containers"][0])
    if pod.service == "trainer":
        default = TrainingSettings.model_fields["stop_grace_s"].default
        return float(variables.get("NARROWCAST_TRAINER__STOP_GRACE_S", default))
    if pod.service == "inference":
        default = InferenceSection.model_fields["shutdown_timeout_s"].default
        return float(variables.get("NARROWCAST_INFERENCE__SHUTDOWN_TIMEOUT_S", default))
    if pod.service == "gateway":
        source = ast.parse(inspect.getsource(gateway_main))
        (seconds,) = [
            node.value.value
            for node in ast.walk(source)
            if isinstance(node, ast.keyword)
            and node.arg == "timeout_graceful_shutdown"
            and isinstance(node.value, ast.Constant)
        ]
        return float(seconds)
    return QUICK_STOP_S


def test_budgets_select_pods_that_exist(manifests: Manifests) -> None:
    budgets = {found["metadata"]["name"]: found for found in manifests.of("PodDisruptionBudget")}
    assert budgets.keys() == {"gateway", "worker", "trainer", "inference"}
    for name, budget in budgets.items():
        selected = [pod.service for pod in manifests.pods if selects(budget["spec"]["selector"], pod.labels)]
        assert selected == [name]


def test_replicas_are_spread(manifests: Manifests) -> None:
    for service in ("gateway", "worker", "inference"):
        pod = manifests.pod(service)
        (constraint,) = pod.spec["topologySpreadConstraints"]
        assert constraint["topologyKey"] == "kubernetes.io/hostname"
        assert selects(constraint["labelSelector"], pod.labels)


def test_serving_comes_before_training(manifests: Manifests) -> None:
    classes = {found["metadata"]["name"]: found for found in manifests.of("PriorityClass")}
    priority = {pod.service: classes[pod.spec["priorityClassName"]]["value"] for pod in manifests.pods}
    assert min(priority[service] for service in SERVING & priority.keys()) > priority["trainer"]
    assert classes[manifests.pod("trainer").spec["priorityClassName"]]["preemptionPolicy"] == "Never"


def test_models_are_written_by_one_pod_only(manifests: Manifests) -> None:
    for pod in manifests.pods:
        for container in pod.containers:
            for mount in container.get("volumeMounts", []):
                if mount["name"] in {"models", "secrets"}:
                    writes = mount["name"] == "models" and pod.service == "fetch-base-model"
                    assert mount.get("readOnly", False) is not writes, (pod.name, mount)


def test_volumes_and_claims_exist(manifests: Manifests) -> None:
    claims = {found["metadata"]["name"] for found in manifests.of("PersistentVolumeClaim")}
    for pod in manifests.pods:
        names = {volume["name"] for volume in pod.spec["volumes"]}
        names |= {entry["metadata"]["name"] for entry in pod.owner["spec"].get("volumeClaimTemplates", [])}
        mounted = {mount["name"] for container in pod.containers for mount in container["volumeMounts"]}
        assert mounted == names, pod.name
        for volume in pod.spec["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims


def test_development_fits_in_8_gb(development: Manifests) -> None:
    running = [pod for pod in development.pods if pod.service not in ONE_SHOTS]
    limits = [quantity(pod.spec["containers"][0]["resources"]["limits"]["memory"]) for pod in running]
    assert sum(limits) < 8 * 1024**3
    requests = [quantity(pod.spec["containers"][0]["resources"]["requests"]["memory"]) for pod in running]
    assert sum(requests) < 5 * 1024**3
