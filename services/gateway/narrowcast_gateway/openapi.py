"""Writes the OpenAPI document: ``python -m narrowcast_gateway.openapi FILE``."""

import json
import sys
from pathlib import Path

from narrowcast_gateway.app import create_app
from narrowcast_gateway.settings import GatewaySettings


def document() -> str:
    """Return the document as text, stable from run to run."""
    return json.dumps(create_app(GatewaySettings()).openapi(), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(document(), encoding="utf-8")
