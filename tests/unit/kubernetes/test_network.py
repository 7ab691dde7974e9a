"""Who may talk to whom: exactly the arrows of docker-compose.yml, and nothing to the outside."""

from .conftest import Manifests, Object, Pod, selects

REDIS, S3, VLLM, HTTP, METRICS = 6379, 9000, 8001, 8000, 9100
CLIENTS = ("gateway", "worker", "trainer")
ARROWS = {
    **{(client, "redis"): REDIS for client in CLIENTS},
    **{(client, "s3"): S3 for client in (*CLIENTS, "inference", "provision")},
    **{(client, "inference"): VLLM for client in CLIENTS},
}
MONITORING = {**{("monitoring", target): METRICS for target in CLIENTS}, ("monitoring", "inference"): VLLM}
ENTRANCES = {
    "production": {("traefik", "gateway"): HTTP, **MONITORING},
    "self-contained with monitoring": {**MONITORING, ("monitoring", "s3"): S3},
    "self-contained with KEDA": {("keda", "redis"): REDIS},
}
"""From other namespaces."""


def test_everything_is_denied_at_first(manifests: Manifests) -> None:
    deny = manifests.named("NetworkPolicy", "default-deny")["spec"]
    assert deny["podSelector"] == {}, "selects every pod"
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    assert not {"ingress", "egress"} & deny.keys()
    namespaces = {
        found["metadata"]["namespace"] for found in manifests.objects if "namespace" in found["metadata"]
    }
    assert namespaces == {"narrowcast"}, "the policy is of one namespace"


def test_pods_reach_each_other_by_these_arrows_only(manifests: Manifests) -> None:
    pods = {pod.service: pod for pod in manifests.pods}
    wanted = {pair: port for pair, port in ARROWS.items() if set(pair) <= pods.keys()}
    found = {}
    for source in pods.values():
        for target in pods.values():
            out = _ports(manifests, source, "egress", target)
            into = _ports(manifests, target, "ingress", source)
            assert out == into, f"half an arrow from {source.name} to {target.name}"
            if out:
                (found[source.service, target.service],) = out
    assert found == wanted


def test_from_other_namespaces(manifests: Manifests) -> None:
    assert _entrances(manifests) == ENTRANCES.get(manifests.name, {})


def test_the_outside_is_reached_where_it_must_be(manifests: Manifests) -> None:
    outside = {}
    for pod in manifests.pods:
        for peer, ports in _peers(manifests, pod, "egress"):
            if "ipBlock" in peer:
                outside.setdefault(pod.service, []).append((peer["ipBlock"]["cidr"], *ports))
                # The internet is not the cluster's neighbours, nor a cloud's metadata service.
                if peer["ipBlock"]["cidr"] == "0.0.0.0/0":
                    assert {"10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16"} <= set(
                        peer["ipBlock"]["except"]
                    )
    internet = ("0.0.0.0/0", 443)
    assert outside.pop("fetch-base-model") == [internet]
    if manifests.name == "production":
        stores = [("192.0.2.10/32", REDIS), ("192.0.2.20/32", 443)]
        assert outside == {**dict.fromkeys(CLIENTS, stores), "inference": stores[1:]}
    elif manifests.name == "self-contained with a hub":
        assert outside == {"trainer": [internet]}
    else:
        assert outside == {}


def test_every_pod_may_ask_for_names(manifests: Manifests) -> None:
    for pod in manifests.pods:
        assert ("kube-system", (53, 53)) in [
            (_namespace(peer), ports)
            for peer, ports in _peers(manifests, pod, "egress")
            if "namespaceSelector" in peer
        ], pod.name


def test_nothing_but_the_gateway_is_exposed(manifests: Manifests) -> None:
    for service in manifests.of("Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
        assert "externalIPs" not in service["spec"]
    for pod in manifests.pods:
        assert not [port for c in pod.containers for port in c.get("ports", []) if "hostPort" in port]
    backends = [
        path["backend"]["service"]
        for ingress in manifests.of("Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    wanted = [{"name": "gateway", "port": {"name": "http"}}] if manifests.name == "production" else []
    assert backends == wanted
    for ingress in manifests.of("Ingress"):
        hosts = {rule["host"] for rule in ingress["spec"]["rules"]}
        assert {host for entry in ingress["spec"]["tls"] for host in entry["hosts"]} == hosts, "TLS for each"


def test_services_lead_to_ports_of_pods(manifests: Manifests) -> None:
    assert {service["metadata"]["name"] for service in manifests.of("Service")} >= {"gateway", "inference"}
    for service in manifests.of("Service"):
        (pod,) = [
            pod for pod in manifests.pods if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)
        ]
        ports = {port["name"] for port in pod.spec["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        # On no Service: only Prometheus, which asks pods, is to reach it.
        assert METRICS not in {port["port"] for port in service["spec"]["ports"]}


def _policies(manifests: Manifests, pod: Pod, direction: str) -> list[Object]:
    return [
        policy["spec"]
        for policy in manifests.of("NetworkPolicy")
        if direction.capitalize() in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], pod.labels)
    ]


def _peers(manifests: Manifests, pod: Pod, direction: str) -> list[tuple[Object, tuple[int, ...]]]:
    end = {"ingress": "from", "egress": "to"}[direction]
    return [
        (peer, tuple(port["port"] for port in rule["ports"]))
        for policy in _policies(manifests, pod, direction)
        for rule in policy.get(direction, [])
        for peer in rule[end]
    ]


def _ports(manifests: Manifests, pod: Pod, direction: str, other: Pod) -> set[int]:
    """Ports open between two pods of this namespace, as this direction's policies have it."""
    return {
        port
        for peer, ports in _peers(manifests, pod, direction)
        if "namespaceSelector" not in peer
        and "podSelector" in peer
        and selects(peer["podSelector"], other.labels)
        for port in ports
    }


def _entrances(manifests: Manifests) -> dict[tuple[str, str], int]:
    found = {}
    for pod in manifests.pods:
        for peer, ports in _peers(manifests, pod, "ingress"):
            assert peer.keys() <= {"namespaceSelector", "podSelector"}, "no address ranges"
            if "namespaceSelector" in peer:
                (found[_namespace(peer), pod.service],) = ports
    return found


def _namespace(peer: Object) -> str:
    (pair,) = peer["namespaceSelector"]["matchLabels"].items()
    assert pair[0] == "kubernetes.io/metadata.name"
    return str(pair[1])
