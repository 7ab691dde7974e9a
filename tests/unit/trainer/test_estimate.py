"""The command line, the committed table, and what a node says of itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from narrowcast.estimates.history import NodeFacts
from narrowcast.training import TrainingSpec
from narrowcast_trainer import node
from narrowcast_trainer.batches import MICRO_BATCH_TOKENS
from narrowcast_trainer.estimate import main
from narrowcast_trainer.estimate_table import table
from narrowcast_trainer.node import base_configs, first_gpu, node_facts
from narrowcast_trainer.observing import observation
from narrowcast_trainer.settings import TrainingSettings

DOCUMENT = Path(__file__).parents[3] / "docs" / "estimates.md"
GIB = 1024**3


@pytest.fixture
def config(tmp_path: Path, llama_8b: dict[str, Any]) -> str:
    config = llama_8b | {"architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path / "config.json")


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main([*arguments, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_committed_table_is_what_the_code_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--table"]) == 0
    assert capsys.readouterr().out == table()
    assert DOCUMENT.read_text() == table(), (
        "python -m narrowcast_trainer.estimate --table > docs/estimates.md"
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tokens-per-row", "-5"),
        ("--tokens-per-row", "nan"),
        ("--gpu-memory", "inf"),
        ("--gpu-memory", "0"),
        ("--gpus", "65"),
    ],
)
def test_numbers_that_are_none_are_refused(
    config: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--config", config, "--gpu", "Tesla T4", "--gpu-memory", "15", option, value])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rank", "513"),
        ("--batch-size", "1000000000"),
        ("--micro-batch", "513"),
        ("--max-length", "31"),
        ("--epochs", "51"),
    ],
)
def test_what_no_job_may_have_is_not_estimated(
    config: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", config, "--gpu", "Tesla T4", "--gpu-memory", "15", option, value]) == 2
    assert f"{option}: no job may have that" in capsys.readouterr().err


@pytest.mark.parametrize(("batch", "rows"), [("1", 1), ("5", 1), ("6", 2)])
def test_rows_at_once_divide_the_batch(
    config: str, batch: str, rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["--config", config, "--batch-size", batch]
    assert _json(capsys, *one) == _json(capsys, *one, "--micro-batch", str(rows))
    assert _json(capsys, *one, "--micro-batch", "3") == _json(
        capsys, *one, "--micro-batch", str(3 if batch == "6" else 1)
    )


def test_several_gpus_take_their_shares(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    t4 = ["--config", config, "--gpu", "Tesla T4", "--gpu-memory", "15"]
    shared = _json(capsys, *t4, "--gpus", "3", "--parallelism", "fsdp")
    assert (shared["gpus"], shared["parallelism"]) == (2, "fsdp"), "three do not share 8 rows evenly"
    assert _json(capsys, *t4, "--gpus", "8") == _json(capsys, *t4, "--gpus", "8", "--micro-batch", "1")
    assert main([*t4, "--gpus", "2"]) == 0
    assert "on each of 2 GPUs" in capsys.readouterr().out
    for wrong, named in (
        (["--parallelism", "fsdp"], "--gpus"),
        (["--gpus", "2", "--device", "cpu"], "--device"),
        (["--parallelism", "fsdp", "--gpus", "2", "--quantization", "nf4"], "nf4"),
        (["--parallelism", "fsdp", "--gpus", "2", "--batch-size", "3"], "share"),
    ):
        assert main([*t4, *wrong]) == 2
        assert named in capsys.readouterr().err


def test_a_quantised_copy_is_not_taken_for_its_base(
    tmp_path: Path, llama_8b: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for quantised in ({"quant_method": "awq"}, "awq"):
        (tmp_path / "config.json").write_text(json.dumps(llama_8b | {"quantization_config": quantised}))
        assert main(["--config", str(tmp_path)]) == 2
        assert "16-bit base" in capsys.readouterr().err
    bitsandbytes = {"quantization_config": {"quant_method": "bitsandbytes"}}
    (tmp_path / "config.json").write_text(json.dumps(llama_8b | bitsandbytes))
    assert main(["--config", str(tmp_path)]) == 0


def test_the_papers_case_as_its_command_line(config: str) -> None:
    arguments = ["--rank", "64", "--max-length", "2048", "--micro-batch", "2", "--rows", "936"]
    module = [sys.executable, "-m", "narrowcast_trainer.estimate"]
    done = subprocess.run(
        [*module, "--config", config, *arguments, "--epochs", "3", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert (found["trainable_parameters"], found["steps"]) == (167_772_160, 351)
    assert found["total_gib"]["expected"] == pytest.approx(8.84, rel=0.05)
    assert found["memory"]["total"]["expected"] / GIB == pytest.approx(
        found["total_gib"]["expected"], abs=0.001
    )


def test_no_pass_is_larger_than_the_trainer_makes(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    long = ["--config", config, "--gpu", "Tesla T4", "--gpu-memory", "15", "--max-length", "8192"]
    assert _json(capsys, *long, "--micro-batch", "2") == _json(capsys, *long, "--micro-batch", "1")


def test_rows_end_where_the_base_does(
    tmp_path: Path, llama_8b: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(llama_8b | {"max_position_embeddings": 2048}))
    t4 = ["--config", str(tmp_path), "--gpu", "Tesla T4", "--gpu-memory", "15"]
    assert _json(capsys, *t4, "--max-length", "8192") == _json(capsys, *t4, "--max-length", "2048")
    assert main([*t4, "--max-length", "8192", "--tokens-per-row", "3000"]) == 2
    assert "above the base's context, 2048" in capsys.readouterr().err


def test_where_no_speed_is_known_it_says_so(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", config, "--gpu", "Imaginary 9000", "--gpu-memory", "24"]) == 0
    assert "minutes unknown" in capsys.readouterr().out


def test_people_get_words(capsys: pytest.CaptureFixture[str], config: str) -> None:
    assert main(["--config", config, "--gpu", "Tesla T4", "--gpu-memory", "10.4", "--engine", "peft"]) == 0
    printed = capsys.readouterr().out
    assert "167,772,160 trainable of 8,030,261,248 parameters, 351 steps" in printed
    assert "fits Tesla T4 (10.4 GiB): perhaps" in printed
    assert "with micro_batch 1:" in printed


def test_a_folder_and_a_cpu_will_do(capsys: pytest.CaptureFixture[str], base_model: Path) -> None:
    found = _json(
        capsys, "--config", str(base_model), "--device", "cpu", "--gpu-memory", "16", "--max-length", "512"
    )
    assert found["parameters"] == 134_515_008
    assert found["device"] == "cpu"
    assert found["fits"] == "yes"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "--config is required"),
        (["--config", "/does/not/exist"], "cannot be read"),
        (["--config", "CONFIG", "--gpu", "Tesla T4"], "--gpu-memory"),
        (["--config", "CONFIG", "--tokens-per-row", "513", "--max-length", "512"], "above --max-length 512"),
        (["--config", "CONFIG", "--device", "cpu", "--engine", "unsloth"], "needs CUDA"),
        (["--config", "CONFIG", "--device", "cpu", "--gpu", "Tesla T4"], "--gpu needs --device cuda"),
    ],
)
def test_what_cannot_be_estimated_is_said(
    capsys: pytest.CaptureFixture[str], config: str, arguments: list[str], reason: str
) -> None:
    assert main([config if part == "CONFIG" else part for part in arguments]) == 2
    assert reason in capsys.readouterr().err


def test_help_shows_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--max-length" in capsys.readouterr().out


def test_a_gpu_is_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA A10, 23028'\necho 'NVIDIA A10, 23028'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert first_gpu() == ("NVIDIA A10", 23028 * 1024**2)
    facts = node_facts(TrainingSettings())
    assert (facts.name, facts.device, facts.micro_batch_tokens) == (
        "NVIDIA A10",
        "cuda",
        MICRO_BATCH_TOKENS["cuda"],
    )
    shared = node_facts(TrainingSettings(gpu_memory_share=0.5))
    assert shared.memory_bytes == facts.memory_bytes // 2
    program.write_text("#!/bin/sh\n[ \"$3\" = --id=1 ] && echo 'Tesla T4, 15360'\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert first_gpu() == ("Tesla T4", 15360 * 1024**2)
    program.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert first_gpu() is None  # PyTorch, asked then, sees none here either


@pytest.mark.parametrize("number", ["[Insufficient Permissions]", "[N/A]"])
def test_a_part_of_a_gpu_is_what_pytorch_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """MIG. There is none here: what PyTorch answers there is made up."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho 'NVIDIA A100-SXM4-80GB, {number}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "torch.py").write_text(
        "from types import SimpleNamespace as N\n"
        "cuda = N(is_available=lambda: True, get_device_properties=lambda _: N("
        "name='NVIDIA A100-SXM4-80GB MIG 2g.20gb', total_memory=20 * 1024**3))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert first_gpu() == ("NVIDIA A100-SXM4-80GB MIG 2g.20gb", 20 * GIB)
    assert node_facts(TrainingSettings()).device == "cuda"
    (tmp_path / "torch.py").write_text("raise OSError")
    assert first_gpu() is None


def test_a_node_without_a_gpu_is_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    limit = tmp_path / "memory.max"
    limit.write_text("2147483648\n")
    monkeypatch.setattr(node, "_CGROUP_LIMIT", limit)
    facts = node_facts(TrainingSettings(threads=3, micro_batch_tokens=100))
    assert (facts.name, facts.device, facts.engine, facts.cores) == ("cpu", "cpu", "peft", 3)
    assert (facts.memory_bytes, facts.micro_batch_tokens) == (2 * GIB, 100)
    limit.write_text("max\n")
    assert node_facts(TrainingSettings()).memory_bytes > 0


def test_every_readable_base_is_reported(tmp_path: Path) -> None:
    for name, content in (("one", "{}"), ("broken", "{"), (".two.partial", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    assert base_configs(tmp_path) == {"one": {}}
    assert base_configs(tmp_path / "missing") == {}


def test_a_finished_job_is_compared_with_its_own_estimate(llama_8b: dict[str, Any]) -> None:
    facts = NodeFacts(
        name="Tesla T4",
        device="cuda",
        memory_bytes=15 * GIB,
        engine="unsloth",
        quantization="nf4",
        micro_batch_tokens=8192,
    )
    spec = TrainingSpec(base_model="llama", dataset="ds", adapter_id="a")
    metrics = {
        "micro_batch": 2,
        "longest_row_tokens": 2048,
        "peak_memory_bytes": 10 * GIB,
        "steps": 351,
        "tokens_per_s": 500.0,
    }
    result = {
        "engine": "unsloth",
        "quantization": "nf4",
        "trained_tokens": 2808 * 700,
        "metrics": metrics,
    }
    found = observation(llama_8b, spec, facts, result)
    exact, expected = 6.88, 8.64  # of what PyTorch reserves
    assert found.memory_ratio == pytest.approx((10 - exact) / (expected - exact), rel=0.01)
    assert found.parameters == 8_030_261_248
    assert found.flops is not None
    assert 0.1 < found.flops / 65e12 < 0.6
    offloaded = result | {"metrics": metrics | {"peak_memory_bytes": 6 * GIB}}
    assert 0 < observation(llama_8b, spec, facts, offloaded).memory_ratio < 0.1
    with pytest.raises(KeyError):
        observation(llama_8b, spec, facts, result | {"metrics": {}})
