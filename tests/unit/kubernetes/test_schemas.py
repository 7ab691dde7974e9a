"""Every object is one that the API servers of the last three Kubernetes versions accept."""

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

from .conftest import Manifests, Object, quantity

KUBERNETES = ("1.35.0", "1.36.0", "1.37.0")
CUSTOM = {"keda.sh/v1alpha1": keda, "monitoring.coreos.com/v1": prometheus_operator}


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(manifests: Manifests, version: str) -> None:
    for found in manifests.objects:
        if found["apiVersion"] not in CUSTOM:
            _validate(json.dumps(found, sort_keys=True), version)
        if found["kind"] == "ScaledJob":
            _validate(json.dumps(_as_job(found), sort_keys=True), version)


def test_operators_know_every_field(manifests: Manifests) -> None:
    for found in manifests.objects:
        if found["apiVersion"] in CUSTOM:
            given = copy.deepcopy(found)
            if given["kind"] == "ScaledJob":
                # Checked above, as a Job; the model refuses the quantity "8".
                given["spec"]["jobTargetRef"]["template"] = {"spec": {"containers": [{"name": "any"}]}}
            model = getattr(CUSTOM[given["apiVersion"]], given["kind"]).model_validate(given)
            # What the model does not know it drops, or refuses.
            assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) == given


def test_quantities_are_quantities(manifests: Manifests) -> None:
    count = 0
    for found in manifests.objects:
        for text in _quantities(found):
            quantity(text)
            count += 1
    assert count > 50


def test_no_request_is_above_its_limit(manifests: Manifests) -> None:
    for pod in manifests.pods:
        for container in pod.containers:
            resources = container["resources"]
            for name, request in resources["requests"].items():
                assert quantity(request) <= quantity(resources["limits"][name]), (pod.name, name)


@cache
def _validate(found: str, version: str) -> None:
    # Cached: most objects are the same in every overlay, and each check reads megabytes of schemas.
    kubernetes_validate.validate(json.loads(found), version, strict=True)


def _as_job(scaled_job: Object) -> Object:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": scaled_job["metadata"],
        "spec": scaled_job["spec"]["jobTargetRef"],
    }


def _quantities(node: Any) -> Iterator[str | int]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in {"requests", "limits"} and isinstance(value, dict):
                yield from value.values()
            elif key == "sizeLimit":
                yield value
            else:
                yield from _quantities(value)
    elif isinstance(node, list):
        for value in node:
            yield from _quantities(value)
