"""How is a file written whole or not at all, read strictly, and named by its content?"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hooked_omni.errors import FileError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; what was written there becomes `path` at the end of the block.

    An interrupted write, or one that raised (`FileError`), leaves what was at `path` before.
    """
    partial = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, ValueError) as error:
        raise FileError(
            f"expected to write {path}, got: {error}. Make room, or choose another folder, and "
            "run again: finished files are kept."
        ) from error
    finally:
        with suppress(OSError, ValueError):
            partial.unlink()


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all; return its path. `FileError` if it cannot be written."""
    with whole_file(path) as partial:
        partial.write_bytes(data)
    return path


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; `FileError` if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(
            f"expected a file that can be read at {path}, got: {error.strerror}. Check the path."
        ) from error


def digest(*parts: Any) -> str:
    """A key for anything that JSON can hold; equal parts have equal keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; else `FileError`."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise FileError(f"expected a file at {path}, got: {error.strerror}. Check it.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FileError(
            f"expected UTF-8 in {path}, line {line}, got byte 0x{error.object[error.start]:02x}. "
            f"Save the file as UTF-8."
        ) from error


def parse_json(text: str, where: str) -> Any:
    """Strict JSON: no key twice, no NaN; `FileError` with `where` for anything else."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"the keys {twice} more than once")
        return record

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant}, which is no JSON number")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise FileError(f"expected JSON in {where}, got: {error}. Correct it.") from error


def to_json(value: Any, where: str, indent: int | None = None) -> str:
    """The value as JSON; `FileError` with `where` if JSON cannot hold it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FileError(
            f"expected values that JSON can hold in {where}, got: {error}. Use numbers and text."
        ) from error
    return text
