"""``demo-report.json``: the demo's figures, for machines."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, Field

FILE_NAME = "demo-report.json"


class Documents(BaseModel):
    """What became of the uploaded documents."""

    read: int = 0
    rejected: int = 0


class DemoReport(BaseModel):
    """The demo's figures. Written whatever happens; ``ok`` only if every step held."""

    ok: bool = False
    failed_step: str | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall seconds of each step."""
    documents: Documents = Documents()
    leaked: int = 0
    """Personal data of the sample corpus found in the dataset."""
    rouge: dict[str, dict[str, float]] = Field(default_factory=dict)
    """F1 as a fraction, by contestant (``base``, ``adapter``, ``nearest-report``) and metric."""
    time_to_first_token_s: float | None = None
    """From the first request that names the new adapter to its first token, loading from S3 included."""
    training: dict[str, float] = Field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; a step that raises is named as the failed one."""
        started = time.monotonic()
        try:
            yield
        except BaseException:
            self.failed_step = name
            raise
        finally:
            self.seconds[name] = round(time.monotonic() - started, 2)

    def write(self, folder: Path) -> Path:
        """Write the file into ``folder`` and return its path."""
        path = folder / FILE_NAME
        path.write_text(self.model_dump_json(indent=2) + "\n")
        return path
