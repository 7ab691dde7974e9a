"""One training by an engine's CUDA code on a CPU: ``python train_interpreted.py ORDER RESULT``.

An order is that of ``tests/gpu/train_once.py``, and ``interpreted``: the compute capability of the GPU
that the engine is to see, or null for the engine as it is on a CPU; ``gpus``, how many of them, else one a
rank; ``bitsandbytes_loads``; ``times``, how many trainings one after the other in this process.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "gpu"))


def main(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Train; return what each training measured."""
    capability = order.pop("interpreted")
    gpus = order.pop("gpus", order.get("ranks", 1))
    loads = order.pop("bitsandbytes_loads", True)
    if capability is not None:
        from cuda_on_cpu import import_unsloth, interpret

        if order["engine"] == "unsloth":
            import_unsloth(tuple(capability), gpus=gpus, bitsandbytes_loads=loads)
        interpret(tuple(capability))
        os.environ["INTERPRETED"] = json.dumps({"capability": capability, "gpus": gpus})
        os.environ["PYTHONPATH"] = str(Path(__file__).parent / "ranks")
    import train_once

    from narrowcast.datasets import Row
    from narrowcast.errors import NarrowcastError

    def rows(count: int, start: int = 0) -> list[Row]:
        """Short ones: the interpreter takes a tenth of a second a token."""
        numbers = range(start, start + count)
        return [
            Row(instruction="Say", input=f"{number}", output="a b " * (1 + number % 3) + f"{number}")
            for number in numbers
        ]

    train_once.rows = rows
    scratch = Path(order["scratch"])
    answers = []
    for time in range(order.pop("times", 1)):
        try:
            answers.append(train_once.train(order | {"scratch": str(scratch / str(time))}))
        except NarrowcastError as error:
            answers.append({"failed": error.code, "message": error.message})
        answers[-1]["left_bytes"] = left_bytes()
    return answers


def left_bytes() -> int:
    """Return what models that are trained still hold when the next training begins."""
    import torch

    from narrowcast_trainer.engines.loop import forget_earlier_runs

    forget_earlier_runs()
    modules = [there for there in gc.get_objects() if issubclass(type(there), torch.nn.Module)]
    parameters = [one for module in modules for one in module.parameters(recurse=False)]
    return sum(one.untyped_storage().nbytes() for one in parameters)


if __name__ == "__main__":
    # Of the engines' own smoke test, which a process of its own runs, this is no part.
    Path(sys.argv[2]).write_text(json.dumps(main(json.loads(sys.argv[1]))))
