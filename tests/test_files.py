"""Files are written whole or not at all, read strictly, and named by their content."""

import hashlib
import os
import resource
import signal
from pathlib import Path

import pytest

from hooked_omni.errors import FileError
from hooked_omni.files import (
    digest,
    file_hash,
    parse_json,
    read_text,
    to_json,
    whole_file,
    write_whole,
)
from tests.support.forked import start


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write_whole(tmp_path / "made" / "data.txt", b"old")


def only(path: Path, content: bytes) -> bool:
    """Whether `path` has this content, and its folder nothing else."""
    return path.read_bytes() == content and list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced_and_its_folder_made(old):
    assert only(old, b"old")
    assert write_whole(old, b"new") == old and only(old, b"new")


def test_a_full_disk_leaves_the_old_file_and_no_part(old):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(FileError, match=r"data\.txt.*Make room, or choose another folder"):
            write_whole(old, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert only(old, b"old")


def test_a_kill_leaves_the_old_file(old):
    def write_half() -> None:
        with whole_file(old) as partial:
            partial.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    process = start(write_half)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert old.read_bytes() == b"old"
    assert write_whole(old, b"new").read_bytes() == b"new"


def test_an_error_while_writing_leaves_the_old_file(old):
    def write(error: Exception) -> None:
        with whole_file(old) as partial:
            partial.write_bytes(b"half")
            raise error

    for error, expected in ((KeyError("bug"), KeyError), (OSError("gone"), FileError)):
        with pytest.raises(expected):
            write(error)
        assert only(old, b"old")


def test_a_path_that_cannot_be_written(old):
    (old.parent / "folder" / "inside").mkdir(parents=True)
    for path in (old / "below", old.parent / "folder", Path("/proc/data.txt"), Path("a\0b")):
        with pytest.raises(FileError, match="expected to write"):
            write_whole(path, b"new")
    assert sorted(path.name for path in old.parent.iterdir()) == ["data.txt", "folder"]


def test_a_hash_is_of_the_content(old):
    assert file_hash(old) == file_hash(str(old)) == hashlib.sha256(b"old").hexdigest()
    for path in (old.parent, old.parent / "none"):
        with pytest.raises(FileError, match=f"can be read at {path}"):
            file_hash(path)


def test_equal_parts_have_equal_digests():
    assert digest({"a": 1, "b": [2]}, "x") == digest({"b": [2], "a": 1}, "x")
    assert len({digest("a", "b"), digest("ab"), digest(["a", "b"]), digest("b", "a")}) == 4


def test_text_is_utf8_with_or_without_a_mark(old):
    old.write_bytes(b"\xef\xbb\xbf\xc3\xa9")
    assert read_text(old) == "é"
    old.write_bytes(b"one\ntwo \xff")
    with pytest.raises(FileError, match="line 2, got byte 0xff"):
        read_text(old)
    with pytest.raises(FileError, match="expected a file at"):
        read_text(old.parent)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, "a": 2}', r"\['a'\] more than once"),
        ('{"a": NaN}', "NaN"),
        ("[-Infinity]", "-Infinity"),
        ('{"a": 1', "delimiter"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_json_is_strict(text, value):
    with pytest.raises(FileError, match=f"expected JSON in line 7, got: .*{value}"):
        parse_json(text, "line 7")


def test_json_comes_back(old):
    value = {"é": [1, None, 0.5, {"b": True}]}
    assert parse_json(to_json(value, "it"), "it") == value
    for wrong in (float("nan"), object(), "\ud800", {"a": {1, 2}}):
        with pytest.raises(FileError, match="JSON can hold in it"):
            to_json(wrong, "it")


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/null"), tmp_path):
        with pytest.raises(FileError, match="what is there is no file"):
            write_whole(path, b"x")
    assert pipe.is_fifo() and Path("/dev/null").is_char_device()
