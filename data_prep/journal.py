"""What has already been worked out, so that a stopped run can go on?

One JSON object a line, `{"key": ..., "value": ..., "checksum": ...}`, forced to disk as soon as it
is known. A line cut off by a kill or a full disk, changed in any way, or that holds anything else,
is skipped by the reader, and worked out again. Of several lines with one key, the last counts.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hooked_omni.errors import FileError
from hooked_omni.files import digest, parse_object, read_bytes, to_json


class Journal:
    """Values by key, on disk after every `put`; safe to share between threads.

    Example:
        >>> journal = Journal(Path("captions.jsonl"))
        >>> journal.put("a3f0", ["A dog runs."])
        >>> Journal(Path("captions.jsonl")).get("a3f0")
        ['A dog runs.']
    """

    def __init__(self, path: Path, fits: Callable[[Any], bool] = lambda value: True) -> None:
        """`fits` says whether a value that was read is one that could have been put."""
        self.path = path
        self._values: dict[str, Any] = {}
        self._lock = threading.Lock()
        written = read_bytes(path) if os.path.exists(path) else b""  # noqa: PTH110  # False for bad names
        self._cut = bool(written) and not written.endswith(b"\n")
        for line in written.split(b"\n"):
            with suppress(ValueError, KeyError):
                entry = parse_object(line.decode(), str(path), key=str)
                same = entry["checksum"] == digest(entry["key"], entry["value"])
                if same and fits(entry["value"]):
                    self._values[entry["key"]] = entry["value"]

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> Any:
        """The value of `key`, or None."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Write `value` down; it is on disk when this returns.

        Raises:
            FileError: If the disk is full or the folder cannot be written to, and for a value that
                JSON cannot hold.
        """
        entry = {"key": key, "value": value, "checksum": digest(key, value)}
        line = to_json(entry, str(self.path)).encode() + b"\n"
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab") as file:
                    # A line that was cut off must not swallow this one.
                    self._cut = not _written(file.fileno(), b"\n" * self._cut + line)
            except OSError as error:
                self._cut = True
                raise FileError(
                    f"expected room for one more line in {self.path}, got {error}. Make room and "
                    f"run the same command again: what is done so far is kept."
                ) from error
            self._values[key] = value


def _written(descriptor: int, data: bytes) -> bool:
    whole = os.write(descriptor, data) == len(data)
    os.fsync(descriptor)
    if not whole:
        raise OSError("the disk took only part of a line")
    return whole
