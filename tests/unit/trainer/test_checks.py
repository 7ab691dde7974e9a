"""What is refused before a GPU is asked for."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from narrowcast.context import context_length
from narrowcast.errors import InvalidInput, JobFailed
from narrowcast_trainer import checks
from narrowcast_trainer.checks import check_rows
from narrowcast_trainer.data import Rows
from narrowcast_trainer.protocol import TrainingOrder


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"max_position_embeddings": 2048, "rope_scaling": None}, 2048),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default"}}, 4096),
        # Llama 3.1: the config's figure is that of the scaled base.
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 40960, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 40960),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({"model_type": "llama"}, None),
    ],
)
def test_the_context_of_a_base_is_what_vllm_takes_it_for(
    config: dict[str, Any], expected: int | None
) -> None:
    assert context_length(config) == expected


def _order(**hyperparameters: Any) -> TrainingOrder:
    spec = {"base_model": "toy", "dataset": "ds-1", "adapter_id": "a-1", "hyperparameters": hyperparameters}
    storage = {"endpoint": "127.0.0.1:9", "secret_key": "test-secret"}
    return TrainingOrder.model_validate(
        {"job_id": "ftjob-1", "tenant": "t", "spec": spec, "settings": {}, "storage": storage}
    )


def test_a_base_with_a_short_context_sets_the_limit(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from narrowcast.datasets import Row

    short = Row(instruction="Опиши", input="Грыжа", output="Норма.")
    long = Row(instruction="Опиши", input="Грыжа", output="Норма. " * 60)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).symlink_to(base_model / name)
    config = json.loads((base_model / "config.json").read_text()) | {"max_position_embeddings": 96}
    (tmp_path / "config.json").write_text(json.dumps(config))
    rows = Rows([short], [])
    monkeypatch.setattr(checks, "read_rows", lambda *_: rows)
    data: Any = None

    assert check_rows(_order(max_length=80), data, tmp_path).hyperparameters.max_length == 80
    # unsloth stretches a base's positions to the max_length that it is told.
    assert check_rows(_order(), data, tmp_path).hyperparameters.max_length == 96
    rows.train.append(long)
    with pytest.raises(InvalidInput) as refused:
        check_rows(_order(), data, tmp_path)
    assert refused.value.code == "rows_too_long"
    assert "1 rows of the train split are longer than the base model's context, 96 tokens" in str(
        refused.value
    )
    assert str(refused.value).endswith("rows 2")


def test_the_check_of_the_engine_leaves_the_gpu_alone() -> None:
    """In a process of its own, as it is: after it, that process sees no GPU and has opened none."""
    program = (
        "import os, sys, json\n"
        "from narrowcast_trainer.checks import check_engine\n"
        "from narrowcast_trainer.protocol import TrainingOrder\n"
        "check_engine(TrainingOrder.model_validate_json(sys.stdin.read()))\n"
        "import torch\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'] == '', torch.cuda.is_initialized(), torch.cuda.is_available())\n"
        "print(*[name for name in sys.modules if name.split('.')[0] in ('transformers', 'unsloth')])\n"
    )
    order = _order()
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=order.model_dump_json(),
        env=os.environ,
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["True False False", ""]


def test_quantisation_that_the_node_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    checks._check_quantization("auto", cuda=False)
    checks._check_quantization("none", cuda=True)
    for asked, cuda in (("nf4", False), ("int8", True), ("auto", True)):
        with pytest.raises(JobFailed) as refused:
            checks._check_quantization(asked, cuda=cuda)  # type: ignore[arg-type]
        assert (refused.value.code, refused.value.param) == ("quantization_unavailable", "quantization")


def test_layers_that_the_base_lacks_are_named(tmp_path: Path) -> None:
    save_file(
        {
            "model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2),
            "model.layers.0.mlp.fc1.weight": torch.zeros(2, 2),
        },
        tmp_path / "model.safetensors",
    )
    checks.check_modules(tmp_path, None)
    checks.check_modules(tmp_path, ("q_proj",))
    with pytest.raises(JobFailed, match="has no up_proj, down_proj;") as refused:
        checks.check_modules(tmp_path, ("q_proj", "up_proj", "down_proj"))
    assert (refused.value.code, refused.value.param) == ("unknown_target_modules", "target_modules")


@pytest.mark.parametrize(
    ("parallelism", "batch_size", "refused"), [("fsdp", 3, True), ("fsdp", 4, False), ("ddp", 3, False)]
)
def test_gpus_that_share_a_base_share_every_batch(parallelism: str, batch_size: int, refused: bool) -> None:
    order = _order(batch_size=batch_size)
    settings = order.settings.model_copy(update={"nproc_per_node": 2, "parallelism": parallelism})
    with pytest.raises(JobFailed, match="even batch_size") if refused else nullcontext():
        checks.check_ranks(order.model_copy(update={"settings": settings}))


def test_a_trainer_that_sees_too_few_gpus_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    checks.check_gpus(1)
    with pytest.raises(JobFailed, match="is 2, and this trainer sees 1 GPUs"):
        checks.check_gpus(2)
