"""Checks an adapter and publishes it: nothing vLLM would refuse, nothing that was not trained."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from narrowcast import logs
from narrowcast.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterManifest,
    BaseModelRef,
    PromptRef,
    adapter_prefix,
    check_servable,
)
from narrowcast.artifacts import publish, read_manifest
from narrowcast.cards import CARD, FailedCardManifest, failed_card_prefix
from narrowcast.errors import Conflict, JobFailed, NotFound
from narrowcast.prompts import TEMPLATE_HASH, TEMPLATE_ID
from narrowcast.storage import Bucket
from narrowcast.sweeps import Trial, best_trial
from narrowcast.training import LINEAR_KINDS, Hyperparameters
from narrowcast_trainer.card.record import RunRecord
from narrowcast_trainer.protocol import TrainingOrder

_log = logs.get(__name__)


def published_result(models: Bucket, order: TrainingOrder) -> dict[str, Any] | None:
    """Return the job's result if its adapter is published already, else None.

    Raises:
        Conflict: another job has published under this adapter id.
    """
    manifest = _published(models, order)
    return None if manifest is None else result_of(manifest)


def _published(models: Bucket, order: TrainingOrder) -> AdapterManifest | None:
    prefix = adapter_prefix(order.tenant, order.spec.adapter_id)
    try:
        manifest = read_manifest(models, prefix, AdapterManifest)
    except NotFound:
        return None
    if manifest.job != order.job_id:
        raise Conflict(f"adapter {manifest.id} exists already, made by job {manifest.job}")
    return manifest


def result_of(manifest: AdapterManifest) -> dict[str, Any]:
    """Return what the job's record says of its adapter."""
    tokens = manifest.metrics.get("trained_tokens")
    best = best_trial(manifest.trials)
    sweep = {
        "trials": [trial.model_dump(mode="json") for trial in manifest.trials],
        "best_trial": best.number if best else None,
        "hyperparameters": manifest.hyperparameters,
    }
    return {
        "adapter_id": manifest.id,
        "engine": manifest.engine,
        "quantization": manifest.quantization,
        "trained_tokens": None if tokens is None else int(tokens),
        "metrics": manifest.metrics,
        **(sweep if manifest.trials else {}),
        "training_card": CARD in manifest.files,
    }


def publish_adapter(
    models: Bucket,
    order: TrainingOrder,
    folder: Path,
    *,
    engine: str,
    quantization: str | None,
    fingerprint: str,
    default_instruction: str,
    metrics: Mapping[str, float],
    record: RunRecord,
    hyperparameters: Hyperparameters,
    trials: Sequence[Trial] = (),
) -> AdapterManifest:
    """Check the adapter in ``folder`` (PEFT's format) and publish it with its card; return its manifest.

    Where another attempt has published meanwhile it is that one's: somebody may have it in use.

    Raises:
        Conflict: another job has published under this adapter id.
        InvalidInput: vLLM would not serve it.
        JobFailed: its weights are not finite, or are as untrained as at the start.
        Unavailable: the object store does not answer.
    """
    if (tokens := record.trained_tokens) is not None:
        metrics = {**metrics, "trained_tokens": float(tokens)}
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    check_servable(config, order.settings.max_lora_rank)
    check_weights(folder / ADAPTER_WEIGHTS)
    # PEFT writes the path on this node, which means nothing anywhere else.
    config["base_model_name_or_path"] = order.spec.base_model
    published = published_hyperparameters(hyperparameters, trials)
    manifest = AdapterManifest(
        id=order.spec.adapter_id,
        tenant=order.tenant,
        base=BaseModelRef(name=order.spec.base_model, fingerprint=fingerprint),
        prompt=PromptRef(template=TEMPLATE_ID, hash=TEMPLATE_HASH, default_instruction=default_instruction),
        rank=config["r"],
        engine=engine,
        quantization=quantization,
        dataset=order.spec.dataset,
        job=order.job_id,
        metrics=dict(metrics),
        hyperparameters=published.model_dump(mode="json", exclude={"n_trials", "sweep"}),
        trials=list(trials),
    )
    if (earlier := _published(models, order)) is not None:
        return earlier
    prefix = adapter_prefix(order.tenant, order.spec.adapter_id)
    models.delete_prefix(prefix)  # an attempt that died here left files without a manifest
    files: dict[str, Path | bytes] = {
        ADAPTER_CONFIG: json.dumps(config, indent=1, sort_keys=True).encode(),
        ADAPTER_WEIGHTS: folder / ADAPTER_WEIGHTS,
        **_card(manifest, _of_best_trial(order, published), config, record),
    }
    return publish(models, prefix, files, manifest)


def publish_failed_card(
    data: Bucket,
    order: TrainingOrder,
    *,
    engine: str,
    fingerprint: str,
    hyperparameters: Hyperparameters,
    record: RunRecord,
    error: JobFailed,
) -> bool:
    """Publish the card of a training that failed for good, and return whether it has one.

    Never raises: the reason is worth more. Of a training that came to no step there is none.
    """
    from narrowcast_trainer.card.build import build_card, card_files

    if not record.points:
        return False
    would_be = AdapterManifest(
        id=order.spec.adapter_id,
        tenant=order.tenant,
        base=BaseModelRef(name=order.spec.base_model, fingerprint=fingerprint),
        prompt=PromptRef(template=TEMPLATE_ID, hash=TEMPLATE_HASH, default_instruction=""),
        rank=hyperparameters.rank,
        engine=engine,
        quantization=record.quantization,
        dataset=order.spec.dataset,
        job=order.job_id,
        metrics={"steps": float(record.points[-1].step)},
    )
    config = {
        "target_modules": list(hyperparameters.module_names or LINEAR_KINDS),
        "lora_alpha": hyperparameters.alpha,
        "lora_dropout": hyperparameters.dropout,
    }
    try:
        spec = order.spec.model_copy(update={"hyperparameters": hyperparameters})
        card = build_card(would_be, spec, config, record, kept_checkpoint=False, failed=error.code)
        prefix = failed_card_prefix(order.tenant, order.job_id)
        manifest = FailedCardManifest(id=order.job_id, tenant=order.tenant)
        publish(data, prefix, card_files(card), manifest)
    except Exception as trouble:  # noqa: BLE001 - whatever it is, the training has a reason of its own
        _log.error("no_training_card", exc_info=trouble)
        return False
    return True


def _of_best_trial(order: TrainingOrder, hyper: Hyperparameters) -> TrainingOrder:
    return order.model_copy(update={"spec": order.spec.model_copy(update={"hyperparameters": hyper})})


def _card(
    manifest: AdapterManifest, order: TrainingOrder, config: Mapping[str, Any], record: RunRecord
) -> dict[str, bytes]:
    from narrowcast_trainer.card.build import build_card, card_files

    try:
        kept = order.task == "publish_checkpoint"
        card = build_card(manifest, order.spec, config, record, kept_checkpoint=kept)
        return card_files(card)
    except Exception as error:  # noqa: BLE001 - hours on a GPU are not lost over a picture
        _log.error("no_training_card", exc_info=error)
        return {}


def published_hyperparameters(hyper: Hyperparameters, trials: Sequence[Trial]) -> Hyperparameters:
    """Return what the published adapter was trained with: a sweep's best trial's, else the job's own."""
    best = best_trial(trials)
    return hyper.of_trial(best.hyperparameters) if best else hyper


def check_weights(path: Path) -> None:
    """Check the weights of an adapter.

    B starts at zero, so an adapter whose every B is zero changes nothing.

    Raises:
        JobFailed: ``weights_not_finite`` or ``adapter_untrained``.
    """
    from safetensors import safe_open

    trained = False
    with safe_open(path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a dict
            tensor = tensors.get_tensor(name)
            if not bool(tensor.isfinite().all()):
                raise JobFailed(
                    f"the adapter's weights are not finite, first in {name}", code="weights_not_finite"
                )
            trained = trained or (".lora_B." in name and bool(tensor.any()))
    if not trained:
        raise JobFailed("the training left the adapter as it was at the start", code="adapter_untrained")
