"""A run's record as the paper's run would leave it: 936 rows, 3 epochs, 351 steps, resumed once."""

import math
import random
from collections.abc import Sequence
from typing import Any

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef
from narrowcast.cards import Attempt, DataFile, TokenCounts, TrainingCard
from narrowcast.sweeps import Trial
from narrowcast.training import TrainingSpec
from narrowcast_trainer.card.build import build_card
from narrowcast_trainer.card.record import RunRecord, points_of

GIB = 1024**3
STEPS, PER_EPOCH = 351, 117


def history(steps: int = STEPS, *, validated: bool = True) -> list[dict[str, Any]]:
    """Trainer's ``log_history``, with what the recorder adds."""
    noise = random.Random(1)
    entries: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = 0.62 + 1.4 * math.exp(-step / 35) - 0.09 * (step // (PER_EPOCH + 1)) + noise.gauss(0, 0.05)
        entries.append(
            {
                "loss": loss,
                "grad_norm": 0.3 + noise.random() / 5,
                "learning_rate": 2e-4 * (1 - step / STEPS),
                "epoch": step / PER_EPOCH,
                "step": step,
                "tokens": 4000 + step,
                "tokens_per_s": 300.0,
                "memory_bytes": int(8.84 * GIB),
            }
        )
        if validated and step % PER_EPOCH == 0:
            valid = {117: 0.742, 234: 0.701, 351: 0.713}[step]
            entries.append({"eval_loss": valid, "eval_runtime": 3.0, "epoch": step / PER_EPOCH, "step": step})
    if steps == STEPS:
        entries.append({"train_runtime": 4744.8, "train_loss": 0.7, "epoch": 3.0, "step": step})
    return entries


def attempt(first_step: int = 1, **changes: Any) -> Attempt:
    values: dict[str, Any] = {
        "first_step": first_step,
        "planned_steps": STEPS,
        "seconds": 2372.4,
        "device": "Tesla T4",
        "devices": 1,
        "device_memory_bytes": 16 * GIB,
        "loaded_memory_bytes": int(5.98 * GIB),
        "peak_memory_bytes": int(8.84 * GIB),
        "precision": "float16",
        "optimizer": "adamw_8bit",
        "micro_batch": 2,
        "accumulation_steps": 4,
        "trainable_parameters": 167_772_160,
        "all_parameters": 8_198_033_408,
        "libraries": {"torch": "2.13.0", "peft": "0.21.2"},
    }
    return Attempt.model_validate(values | changes)


def record(points: list[dict[str, Any]] | None = None) -> RunRecord:
    return RunRecord(
        attempts=[attempt(), attempt(101)],
        tokens=TokenCounts(
            train_rows=936,
            validation_rows=104,
            train_tokens=480_000,
            answer_tokens=390_000,
            longest_row_tokens=1_904,
        ),
        points=points_of(history() if points is None else points),
        files=[DataFile(dataset="dataset-0", split="train", rows=936, sha256="ab" * 32)],
    )


def card(
    run: RunRecord | None = None,
    *,
    kept_checkpoint: bool = False,
    failed: str | None = None,
    trials: Sequence[Trial] = (),
    **metrics: float,
) -> TrainingCard:
    spec = TrainingSpec(base_model="llama-3.1-8b", dataset="dataset-0", adapter_id="mri-brain-0a")
    manifest = AdapterManifest(
        id=spec.adapter_id,
        tenant="radiology",
        created_at=1_800_000_000,
        base=BaseModelRef(name=spec.base_model, fingerprint="0f" * 32),
        prompt=PromptRef(template="report-v1", hash="h", default_instruction="Опиши тайну"),
        rank=64,
        engine="unsloth",
        quantization="nf4",
        dataset=spec.dataset,
        job="ftjob-0",
        trials=list(trials),
        metrics={"steps": STEPS, "best_step": 234, "seconds": 4801.0} | metrics,
    )
    config = {
        "r": 64,
        "lora_alpha": 64,
        "lora_dropout": 0.0,
        "target_modules": ["v_proj", "q_proj"],
    }
    return build_card(manifest, spec, config, run or record(), kept_checkpoint=kept_checkpoint, failed=failed)
