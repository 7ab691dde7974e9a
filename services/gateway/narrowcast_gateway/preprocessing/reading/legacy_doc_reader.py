"""Print the text of the .doc named by the first argument, read by the legacy-doc library.

Runs as a process of its own: the library searches for the piece table byte by byte and a
hostile file can make that quadratic.
"""

import sys
from pathlib import Path

import legacy_doc


def main() -> int:
    """Exit status 1 where the library refuses the file."""
    try:
        result = legacy_doc.extract_text(Path(sys.argv[1]).read_bytes())
    except Exception:  # noqa: BLE001 - struct errors and whatever else a damaged file causes
        return 1
    sys.stdout.buffer.write(result.text.encode("utf-8", "replace"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
