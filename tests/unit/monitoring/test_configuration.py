"""The dashboard asks only for what a service shows, and Prometheus asks every service."""

import importlib
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric

from narrowcast.jobs.metrics import JobMetrics
from narrowcast.settings import RedisSettings

for module in (
    "narrowcast.jobs.reaper",
    "narrowcast_gateway.metrics",
    "narrowcast_trainer.metrics",
    "narrowcast_inference.metrics",
):
    importlib.import_module(module)  # registers what its service shows

MONITORING = Path(__file__).parents[3] / "deploy" / "monitoring"
GRAFANA = MONITORING / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "narrowcast.json").read_text())
VLLM = {
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:generation_tokens": "counter",
    "vllm:prompt_tokens": "counter",
    "vllm:prefix_cache_hits": "counter",
    "vllm:prefix_cache_queries": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
}
"""Of vLLM 0.32 (vllm/v1/metrics/loggers.py)."""
FOREIGN = {"minio_cluster_capacity_usable_free_bytes", "up"}
"""Of MinIO's metrics version 2 (docs/metrics/prometheus/list.md), and of Prometheus itself."""
WORDS = {"or", "and", "unless", "bool", "by", "without", "on", "ignoring", "group_left", "group_right"}
SAMPLES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def names_in(expression: str) -> set[str]:
    """Return the metrics that a query asks for."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expression)
    bare = re.sub(r"\{[^}]*\}|\b(by|without|on|ignoring)\s*\([^)]*\)", "", bare)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - WORDS


def shown_by_us() -> set[str]:
    families: list[Metric] = [
        *REGISTRY.collect(),
        *JobMetrics(RedisSettings()).describe(),
    ]
    return {family.name + ending for family in families for ending in SAMPLES.get(family.type, [])}


def test_names_are_found_in_queries() -> None:
    query = 'histogram_quantile(0.95, sum by (le) (rate(a_bucket{x="y"}[$__rate_interval]))) / vllm:b or up'
    assert names_in(query) == {"a_bucket", "vllm:b", "up"}


def test_the_dashboard_asks_only_for_what_is_shown() -> None:
    vllm = {name + ending for name, kind in VLLM.items() for ending in SAMPLES[kind]}
    asked = {name for expression in expressions() for name in names_in(expression)}
    assert asked - shown_by_us() - vllm - FOREIGN == set()


def test_every_metric_of_ours_has_its_place_on_the_dashboard() -> None:
    asked = {name for expression in expressions() for name in names_in(expression)}
    families = [*REGISTRY.collect(), *JobMetrics(RedisSettings()).describe()]
    ours = {family.name: family.type for family in families if family.name.startswith("narrowcast_")}
    missing = [name for name, kind in ours.items() if not {name + end for end in SAMPLES[kind]} & asked]
    assert missing == []


def test_vllm_has_the_metrics_that_we_list() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vllm is not installed")
    source = (Path(found.origin).parent / "v1" / "metrics" / "loggers.py").read_text()
    assert [name for name in VLLM if f'name="{name}"' not in source] == []


def test_names_follow_the_conventions() -> None:
    families = [*REGISTRY.collect(), *JobMetrics(RedisSettings()).describe()]
    ours = [family for family in families if family.name.startswith("narrowcast_")]
    assert len(ours) >= 20
    for family in ours:
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"_(ms|milliseconds|minutes|kib|mib|percent|count|total)$", family.name)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_the_dashboard_is_well_formed() -> None:
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"].isascii()


def test_grafana_finds_the_data_source_and_the_dashboard() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())
    (source,) = sources["datasources"]
    used = {
        target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])
    }
    assert used == {source["uid"]}
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "narrowcast.yml").read_text())


def test_prometheus_asks_every_service_at_its_port() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    asked = {
        job["job_name"]: (discovery["names"], discovery["port"], job.get("metrics_path", "/metrics"))
        for job in config["scrape_configs"]
        for discovery in job.get("dns_sd_configs", [])
    }
    assert asked == {
        "gateway": (["gateway"], 9100, "/metrics"),
        "worker": (["worker"], 9100, "/metrics"),
        "trainer": (["trainer"], 9100, "/metrics"),
        "inference": (["inference"], 8001, "/metrics"),
        "minio": (["minio"], 9000, "/minio/v2/metrics/cluster"),
    }
    jobs_asked = set(re.findall(r'job="(\w+)"', " ".join(expressions())))
    assert jobs_asked <= set(asked)


def test_promtool_accepts_the_configuration() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    subprocess.run(["promtool", "check", "config", MONITORING / "prometheus.yml"], check=True)
