import io
import stat
import struct
import zipfile

import pytest

from narrowcast.errors import InvalidInput
from narrowcast_gateway.preprocessing.archive import ArchiveLimits, list_documents, open_archive, read_member

from .word_files import zip_bytes

LIMITS = ArchiveLimits()


def refusal(data: bytes, limits: ArchiveLimits = LIMITS) -> str:
    with pytest.raises(InvalidInput) as caught:
        list_documents(io.BytesIO(data), limits)
    return caught.value.code


def test_documents_are_listed_and_litter_is_not() -> None:
    data = zip_bytes(
        {"a.docx": b"1", "dir/b.doc": b"22", "__MACOSX/._a.docx": b"x", ".DS_Store": b"x", "dir/Thumbs.db": b"x",
         "dir/~$b.doc": b"x", "inner.zip": b"PK", "empty/": b""}
    )  # fmt: skip
    members = list_documents(io.BytesIO(data), LIMITS)
    assert [(member.name, member.size) for member in members] == [
        ("a.docx", 1),
        ("dir/b.doc", 2),
        ("inner.zip", 2),
    ]
    assert [read_member(io.BytesIO(data), member, LIMITS) for member in members] == [b"1", b"22", b"PK"]


def test_cyrillic_names_of_windows_are_decoded() -> None:
    data = zip_bytes({"XXXXXX.doc": b"1"}).replace(b"XXXXXX", "Иванов".encode("cp866"))
    assert list_documents(io.BytesIO(data), LIMITS)[0].name == "Иванов.doc"


@pytest.mark.parametrize(
    "name", ["../evil.doc", "a/../../evil.doc", "/etc/passwd", "C:\\evil.doc", "..\\evil.doc"]
)
def test_paths_that_climb_out_are_refused(name: str) -> None:
    assert refusal(zip_bytes({name: b"x"})) == "unsafe_path"


def test_links_are_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        entry = zipfile.ZipInfo("link.doc")
        entry.create_system = 3
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    assert refusal(out.getvalue()) == "unsafe_path"


def test_broken_and_empty_archives_are_refused() -> None:
    assert refusal(b"") == "corrupt_archive"
    assert refusal(b"not a zip") == "corrupt_archive"
    assert refusal(zip_bytes({"a.doc": b"x" * 1000})[:-30]) == "corrupt_archive"
    assert refusal(zip_bytes({})) == "empty_archive"
    assert refusal(zip_bytes({"__MACOSX/x": b"1", "folder/": b""})) == "empty_archive"


def test_too_many_files_are_refused() -> None:
    data = zip_bytes({f"{number}.doc": b"x" for number in range(6)})
    assert refusal(data, ArchiveLimits(max_files=5)) == "too_many_files"


def test_encrypted_archive_is_refused() -> None:
    data = bytearray(zip_bytes({"a.doc": b"x"}))
    directory = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, directory + 8, 1)
    struct.pack_into("<H", data, 6, 1)
    assert refusal(bytes(data)) == "encrypted_archive"


def test_zip_bomb_is_refused_unopened() -> None:
    bomb = zip_bytes({f"{number}.doc": b"\0" * (20 * 1024 * 1024) for number in range(3)})
    assert len(bomb) < 100_000
    assert refusal(bomb) == "zip_bomb"
    assert refusal(zip_bytes({"a.doc": b"x" * 2000}), ArchiveLimits(max_file_bytes=1000)) == "zip_bomb"


def test_a_member_that_lies_about_its_size_is_stopped() -> None:
    content = b"\0" * 5_000_000
    data = zip_bytes({"a.doc": content}).replace(
        len(content).to_bytes(4, "little"), (10).to_bytes(4, "little")
    )
    with open_archive(io.BytesIO(data), LIMITS) as archive, pytest.raises(InvalidInput) as caught:
        archive.read(archive.members[0])
    assert caught.value.code in {"zip_bomb", "corrupt_archive"}


def test_messages_hold_no_names() -> None:
    with pytest.raises(InvalidInput) as caught:
        list_documents(io.BytesIO(zip_bytes({"../Иванов.doc": b"x"})), LIMITS)
    assert "Иванов" not in caught.value.message
