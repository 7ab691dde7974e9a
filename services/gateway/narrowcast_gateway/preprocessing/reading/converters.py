"""Further attempts at a .doc that our own reader cannot follow, best understood first.

Order: legacy-doc (always installed, another reading of the same structures), antiword
(6 ms, knows Word 2 to 2003 and damaged files), LibreOffice (opens the most and costs a
second and a half). All three put page headers where we cannot tell them from the body or
drop them, which is why they come after :mod:`binary_doc`.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from narrowcast_gateway.preprocessing.reading import limits
from narrowcast_gateway.preprocessing.reading.sandbox import (
    ConversionError,
    ConversionTimeoutError,
    run_limited,
)
from narrowcast_gateway.preprocessing.reading.text import DocumentText, clean_lines, is_mojibake

LEGACY_DOC, ANTIWORD, LIBREOFFICE = CONVERTERS = ("legacy-doc", "antiword", "libreoffice")

_LEGACY_DOC_SCRIPT = Path(__file__).with_name("legacy_doc_reader.py")
_LIBREOFFICE_NAMES = ("soffice", "libreoffice")

# Nothing of the document may run or be fetched, whatever the system-wide profile says.
_SETTING = """<item oor:path="/org.openoffice.Office.Common/Security/Scripting">
<prop oor:name="{name}" oor:op="fuse"><value>{value}</value></prop></item>
"""
_LIBREOFFICE_SETTINGS = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<oor:items xmlns:oor="http://openoffice.org/2001/registry">\n'
    + _SETTING.format(name="MacroSecurityLevel", value="3")
    + _SETTING.format(name="DisableMacrosExecution", value="true")
    + _SETTING.format(name="BlockUntrustedRefererLinks", value="true")
    + "</oor:items>\n"
)


def convert_doc(data: bytes, allowed: Sequence[str] | None = None) -> DocumentText | None:
    """Text by the first converter of ``allowed`` (``None``: of all installed) that gives any.

    Returns:
        ``None`` where every converter that is installed fails.

    Raises:
        ConversionTimeoutError: none succeeded and at least one ran out of time.
    """
    timeout: ConversionTimeoutError | None = None
    for name, convert in _converters(allowed):
        with tempfile.TemporaryDirectory(prefix="narrowcast-convert-") as folder:
            source = Path(folder) / "document.doc"
            source.write_bytes(data)
            try:
                lines = clean_lines([convert(source)])
            except ConversionTimeoutError as error:
                timeout = error
                continue
            except ConversionError:
                continue
        if lines and not is_mojibake("\n".join(lines)):
            return DocumentText(lines, (), name)
    if timeout is not None:
        raise timeout
    return None


def _converters(allowed: Sequence[str] | None) -> list[tuple[str, Callable[[Path], str]]]:
    programs: tuple[tuple[str, Callable[[Path], str], tuple[str, ...]], ...] = (
        (LEGACY_DOC, _legacy_doc, (sys.executable,)),
        (ANTIWORD, _antiword, ("antiword",)),
        (LIBREOFFICE, _libreoffice, _LIBREOFFICE_NAMES),
    )
    return [
        (name, convert)
        for name, convert, commands in programs
        if (allowed is None or name in allowed) and any(shutil.which(command) for command in commands)
    ]


def _legacy_doc(source: Path) -> str:
    command = [sys.executable, "-I", str(_LEGACY_DOC_SCRIPT), str(source)]
    output = run_limited(
        command,
        source.parent,
        seconds=limits.PYTHON_READER_SECONDS,
        memory_bytes=limits.PYTHON_READER_MEMORY_BYTES,
    )
    return output.decode("utf-8", "replace")


def _antiword(source: Path) -> str:
    text = _antiword_with(source, "UTF-8.txt")
    # Word 6 and 95 files in cp1251 come out as Western European letters: ask again.
    return _antiword_with(source, "cp1251.txt", encoding="cp1251") if is_mojibake(text) else text


def _antiword_with(source: Path, mapping: str, *, encoding: str = "utf-8") -> str:
    output = run_limited(["antiword", "-m", mapping, "-w", "0", str(source)], source.parent)
    return output.decode(encoding, "replace").replace("|", "\t")


def _libreoffice(source: Path) -> str:
    program = next(path for name in _LIBREOFFICE_NAMES if (path := shutil.which(name)))
    profile = source.parent / "profile"
    (profile / "user").mkdir(parents=True)
    (profile / "user" / "registrymodifications.xcu").write_text(_LIBREOFFICE_SETTINGS, encoding="utf-8")
    command = [
        program,
        "--headless",
        "--norestore",
        "--nolockcheck",
        "--nodefault",
        "--nologo",
        f"-env:UserInstallation={profile.as_uri()}",
        "--convert-to",
        "txt:Text (encoded):UTF8",
        "--outdir",
        str(source.parent),
        str(source),
    ]
    run_limited(command, source.parent)
    result = source.with_suffix(".txt")
    if not result.is_file():
        raise ConversionError
    return result.read_text(encoding="utf-8-sig", errors="replace")
