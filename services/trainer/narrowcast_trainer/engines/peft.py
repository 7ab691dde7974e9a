"""The engine that runs anywhere: Transformers, PEFT and TRL, on a CPU or on CUDA.

Everything that this module imports is heavy; only a training process imports it.
"""

from pathlib import Path

from trl.trainer.sft_config import SFTConfig

from narrowcast_trainer.engines import precision as numbers
from narrowcast_trainer.engines.base import Trained, TrainingTask
from narrowcast_trainer.engines.completion import CompletionTrainer
from narrowcast_trainer.engines.loop import forget_earlier_runs, is_sharded, run
from narrowcast_trainer.engines.models import load_base, this_gpu, with_adapter
from narrowcast_trainer.engines.precision import Precision, quantization
from narrowcast_trainer.engines.smoke import SmokeTest


class PeftEngine:
    """See :class:`~narrowcast_trainer.engines.base.Engine`."""

    name = "peft"

    def train(self, task: TrainingTask) -> Trained:
        """Run the task to its end."""
        node = numbers.capability()
        precision = Precision.of(node)
        stored = quantization(task.hyperparameters.quantization, node, task.settings.parallelism)
        task.reporter.note(
            "loading the base model",
            precision=str(precision.compute).removeprefix("torch."),
            quantization=stored,
        )
        # FSDP lays parts of it on the GPUs itself.
        where = None if is_sharded(task) else this_gpu()
        return run(
            task,
            precision,
            stored,
            lambda: with_adapter(load_base(task.base, precision, stored, where), task.hyperparameters),
            CompletionTrainer,
            SFTConfig,
            # Recomputing activations pays on a GPU, whose memory is what limits. Not by FSDP's own means: it
            # wraps layers and with that renames the adapter's weights, which nothing could load then.
            gradient_checkpointing=node.cuda is not None,
            # The rows are tokens already, checked one by one: TRL would cut long ones and drop masked ones.
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=task.hyperparameters.max_length,
            packing=False,
            pad_to_multiple_of=None,
        )

    def smoke_test(self, task: TrainingTask, adapter: Path) -> None:
        """Try the adapter out."""
        forget_earlier_runs()
        if remark := SmokeTest.of(task, adapter).run():
            task.reporter.note(remark, warn=True)
