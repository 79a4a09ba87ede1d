"""How is a file written whole or not at all, read strictly, and named by its content?"""

import fcntl
import hashlib
import json
import math
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hooked_omni.errors import FileError, HookedOmniError

_DEEPEST = 100  # levels in JSON or TOML: far from what Python can follow
_LARGEST = 2**63  # integers are kept in 64 bits by every table and tensor


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; what was written there becomes `path` at the end of the block.

    An interrupted write, or one that raised (`FileError`), leaves what was at `path` before.
    """
    partial = path.parent / f".part-{os.getpid()}-{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device would be replaced by a file
            raise OSError("what is there is no file")
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except HookedOmniError:
        raise  # the block's own
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


def remove(path: Path) -> None:
    """Delete a file if it is there; `FileError` if that is not allowed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"expected to replace {path}, got: {error.strerror}. Choose another folder."
        ) from error


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Make and lock a folder, so that one run alone writes to it; the lock ends with its process.

    Raises:
        FileError: If the folder cannot be written to, or another run writes to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except (OSError, ValueError) as error:
        raise FileError(
            f"expected a folder to write to at {folder}, got: {error}. Choose another one."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FileError(
                f"expected no other run that writes to {folder}, got one. Wait for it, or choose "
                "another folder."
            ) from error
        yield


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


def read_bytes(path: Path) -> bytes:
    """The content of a file; `FileError` if it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a null byte in a path is no OSError
        why = getattr(error, "strerror", None) or error
        raise FileError(f"expected a file at {path}, got: {why}. Check the path.") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; else `FileError`."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FileError(
            f"expected UTF-8 in {path}, line {line}, got byte 0x{error.object[error.start]:02x}. "
            f"Save the file as UTF-8."
        ) from error


def parse_json(text: str, where: str) -> Any:
    """Strict JSON: no key twice, no NaN, nothing that a table could not hold.

    Anything else is a `FileError` with `where`: numbers of more than 64 bits, halves of a surrogate
    pair, and more than 100 levels too.
    """

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
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        _require_plain(value)
    except (ValueError, RecursionError) as error:
        raise FileError(f"expected JSON in {where}, got: {error}. Correct it.") from error
    return value


def parse_object(text: str, where: str, **kinds: type) -> dict[str, Any]:
    """A JSON object with at least these keys, of these types; as `parse_json` for all else."""
    value = parse_json(text, where)
    found = {k: type(value[k]) for k in kinds if k in value} if isinstance(value, dict) else None
    if found != kinds:
        wanted = ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
        raise FileError(
            f"expected an object with {wanted or 'keys'} in {where}, got {value!r:.120}. Make it "
            "again."
        )
    return value


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Strict TOML, with the limits of `parse_json`; `FileError` with `where` for anything else."""
    try:
        value = tomllib.loads(text)
        _require_plain(value)
    except (ValueError, RecursionError) as error:
        raise FileError(f"expected TOML in {where}, got: {error}. Correct it.") from error
    return value


def _require_plain(value: Any, level: int = 1) -> None:
    """A `ValueError` for what JSON or TOML can spell, and numbers, texts or Python cannot hold."""
    if level > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} levels")
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise ValueError("an integer of more than 64 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value}, which is no finite number")
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    for one in inner if isinstance(inner, list) else ():
        _require_plain(one, level + 1)


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
