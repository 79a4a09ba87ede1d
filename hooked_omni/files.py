"""How is a file of text or JSON read strictly, and written whole or not at all?"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hooked_omni.errors import ManifestError

__all__ = ["dumped", "loaded", "read_text", "write_whole"]


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file under another name until it is whole; a killed run leaves the old one.

    Raises:
        ManifestError: If the file cannot be written, for example because the disk is full.
    """
    partial = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"expected to write {len(data)} bytes to {path}, got: {error}. Make room, or choose "
            f"another folder, and run again: finished files are kept."
        ) from error
    finally:
        with suppress(OSError, ValueError):
            partial.unlink()
    return path


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        ManifestError: If there is no such file, or it has another encoding.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManifestError(
            f"expected a file at {path}, got: {error.strerror}. Check the path."
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ManifestError(
            f"expected UTF-8 in {path}, line {line}, got byte 0x{error.object[error.start]:02x}. "
            f"Save the file as UTF-8."
        ) from error


def loaded(text: str, where: str) -> Any:
    """Strict JSON: no key twice, no NaN.

    Raises:
        ManifestError: For anything else, with `where`.
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
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"expected JSON in {where}, got: {error}. Correct it.") from error


def dumped(value: Any, where: str, indent: int | None = None) -> str:
    """The value as JSON.

    Raises:
        ManifestError: If JSON cannot hold it, with `where`.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ManifestError(
            f"expected values that JSON can hold in {where}, got: {error}. Use text, finite "
            f"numbers, lists and dicts."
        ) from error
    return text
