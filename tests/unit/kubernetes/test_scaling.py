"""Scaling as it was meant: by what waits, never at the cost of a running training."""

from collections.abc import Callable

from narrowcast.jobs.queue import GPU_QUEUE

from .conftest import Manifests, selects

KEEP = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}


def test_one_thing_trains(manifests: Manifests) -> None:
    trainers = [pod.owner["kind"] for pod in manifests.pods if pod.service == "trainer"]
    assert trainers == (["ScaledJob"] if manifests.of("ScaledJob") else ["Deployment"])


def test_a_training_is_never_killed_by_scaling(scaled: Manifests) -> None:
    (job,) = scaled.of("ScaledJob")
    pod = scaled.pod("trainer")
    assert job["spec"]["rollout"]["strategy"] == "gradual"
    assert pod.spec["restartPolicy"] == "Never"
    assert pod.spec["containers"][0]["command"][-1] == "--one-job"
    target = job["spec"]["jobTargetRef"]
    assert (target["parallelism"], target["completions"], target["backoffLimit"]) == (1, 1, 0)
    assert not {"activeDeadlineSeconds", "ttlSecondsAfterFinished"} & target.keys()
    assert pod.metadata["annotations"] == KEEP
    budget = scaled.named("PodDisruptionBudget", "trainer")["spec"]
    # Of pods without a controller that scales, only a number is understood.
    assert budget["minAvailable"] == job["spec"]["maxReplicaCount"]
    assert "maxUnavailable" not in budget


def test_trainings_are_counted_right(scaled: Manifests) -> None:
    spec = scaled.of("ScaledJob")[0]["spec"]
    assert spec["minReplicaCount"] == 0
    assert spec["scalingStrategy"] == {"strategy": "accurate", "pendingPodConditions": ["Ready"]}
    # Ready must mean "has taken its message", once and for all.
    container = scaled.pod("trainer").spec["containers"][0]
    assert "startupProbe" in container
    assert "readinessProbe" not in container
    (trigger,) = spec["triggers"]
    assert (trigger["metadata"]["listName"], trigger["metadata"]["listLength"]) == (GPU_QUEUE, "1")
    assert trigger["metadata"]["databaseIndex"] == "0"


def test_keda_reads_the_queue_of_the_services(scaled: Manifests) -> None:
    (trigger,) = scaled.of("ScaledJob")[0]["spec"]["triggers"]
    url = scaled.environment(scaled.pod("trainer").spec["containers"][0])["NARROWCAST_REDIS__URL"]
    host, port = url.partition("://")[2].removesuffix("/0").split(":")
    if "." not in host:
        namespace = scaled.named("Service", host)["metadata"]["namespace"]
        host = f"{host}.{namespace}.svc"
    assert trigger["metadata"]["address"] == f"{host}:{port}"
    assert (trigger["metadata"].get("enableTLS") == "true") is url.startswith("rediss://")
    authentication = scaled.named("TriggerAuthentication", trigger["authenticationRef"]["name"])
    assert authentication["spec"]["secretTargetRef"] == [
        {"parameter": "password", "name": "redis", "key": "NARROWCAST_REDIS__PASSWORD"}
    ]


def test_the_training_job_is_the_trainer_of_the_base(
    scaled: Manifests, build: Callable[[str], Manifests]
) -> None:
    plain = build("self-contained").pod("trainer")
    job = scaled.pod("trainer")
    assert job.labels == plain.labels
    for field in (
        "securityContext",
        "volumes",
        "tolerations",
        "nodeSelector",
        "terminationGracePeriodSeconds",
    ):
        assert job.spec[field] == plain.spec[field]
    assert job.spec["containers"][0]["resources"] == plain.spec["containers"][0]["resources"]


def test_inference_is_scaled_by_what_waits(scaled: Manifests) -> None:
    (scaler,) = scaled.of("ScaledObject")
    deployment = scaled.named("Deployment", scaler["spec"]["scaleTargetRef"]["name"])
    assert deployment["metadata"]["name"] == "inference"
    assert "replicas" not in deployment["spec"], "each apply would undo the scaling"
    assert scaler["spec"]["minReplicaCount"] == 1
    # One number for whenever Prometheus is away would scale busy replicas in.
    assert "fallback" not in scaler["spec"]
    assert all(trigger["metadata"]["ignoreNullValues"] == "false" for trigger in scaler["spec"]["triggers"])
    waiting, running = (trigger["metadata"] for trigger in scaler["spec"]["triggers"])
    assert "vllm:num_requests_waiting" in waiting["query"]
    assert "vllm:num_requests_running" in running["query"]
    namespace = deployment["metadata"]["namespace"]
    assert all(f'{{namespace="{namespace}"}}' in metadata["query"] for metadata in (waiting, running))
    variables = scaled.environment(scaled.pod("inference").spec["containers"][0])
    batch = int(variables["NARROWCAST_INFERENCE__MAX_NUM_SEQS"])
    assert int(running["threshold"]) == batch * 3 // 4


def test_the_gateway_is_scaled_by_cpu(production: Manifests) -> None:
    (scaler,) = production.of("HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "gateway",
    }
    assert "replicas" not in production.named("Deployment", "gateway")["spec"]
    assert [metric["resource"]["name"] for metric in scaler["spec"]["metrics"]] == ["cpu"]
    assert scaler["spec"]["minReplicas"] >= 2


def test_updates_do_not_wait_for_a_gpu_that_nobody_has(manifests: Manifests) -> None:
    rolling = manifests.named("Deployment", "inference")["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 0, "maxUnavailable": 1}
    if not manifests.of("ScaledJob"):
        assert manifests.named("Deployment", "trainer")["spec"]["strategy"] == {"type": "Recreate"}


def test_prometheus_finds_the_pods(manifests: Manifests) -> None:
    monitors = manifests.of("PodMonitor")
    assert bool(monitors) is (manifests.name in {"production", "self-contained with monitoring"})
    monitored = {}
    for monitor in monitors:
        for pod in manifests.pods:
            if selects(monitor["spec"]["selector"], pod.labels):
                (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
                assert endpoint["port"] in {port["name"] for port in pod.spec["containers"][0]["ports"]}
                monitored[pod.service] = endpoint["port"]
    wanted = {"gateway": "metrics", "worker": "metrics", "trainer": "metrics", "inference": "http"}
    if "s3" in {pod.service for pod in manifests.pods}:
        wanted["s3"] = "s3"
    assert monitored == (wanted if monitors else {})
