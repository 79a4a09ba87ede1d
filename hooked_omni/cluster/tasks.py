"""What does a worker do, and would it compute what the driver would?

A worker is one process that holds one model. What its results depend on is compared with the
driver's: versions, code and weights before it does anything, the contents of files at each task.
"""

import os
import platform
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hooked_omni.errors import ClusterError, FileError
from hooked_omni.files import digest, file_hash

Work = Callable[[Any, Sequence[Path]], Any]
"""A function of what a task is given, and of the paths that it is to write to."""
Made = tuple[Work, dict[str, Any]]
"""What does the work, and all that its results depend on, such as a hash of weights."""

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "av", "librosa")
_CODE = ("hooked_omni", "analyses", "data_prep")


@dataclass(frozen=True, eq=False)
class Task:
    """What one call of a worker's function does: `files` are read, `outputs` written."""

    name: str
    given: Any
    files: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()

    @property
    def contents(self) -> dict[str, str | None]:
        """Hashes of the files, None for one that cannot be read."""
        found: dict[str, str | None] = {}
        for path in map(str, self.files):
            found[path] = None
            with suppress(FileError):
                found[path] = file_hash(path)
        return found


class WorkerActor:
    """The actor: one process on some node, which holds one model."""

    def start(self, make: Callable[[], Made], token: Any, folder: str, env: Any) -> Any:
        """Load the model; where this is, and all that results depend on."""
        os.environ.update(env)
        with suppress(OSError):  # paths below it are then missing, and that is an error
            os.chdir(folder)
        where = f"{socket.gethostname()}, process {os.getpid()}"
        self.shared = token is not None
        if token is not None and not (token[0].is_file() and token[0].read_text() == token[1]):
            raise ClusterError(
                f"expected the driver's folder {token[0].parent} on {where}, got another or none. "
                "Choose a folder that all machines share, or --storage driver."
            )
        self.work, facts = make()
        return where, {**versions(), **facts}

    def do(self, task: Task, contents: dict[str, str | None]) -> tuple[Any, list[Any]]:
        """What the work returns, and the bytes of its outputs if the driver writes them."""
        if wrong := [path for path, hashed in task.contents.items() if hashed != contents[path]]:
            raise ClusterError(
                f"expected {wrong[0]} on {socket.gethostname()} as the driver has it, got another "
                "file or none. Put the data where all machines see it under one path."
            )
        if self.shared:
            return self.work(task.given, task.outputs), []
        with tempfile.TemporaryDirectory() as own:
            paths = [Path(own, str(i), path.name) for i, path in enumerate(task.outputs)]
            for path in paths:
                path.parent.mkdir()
            value = self.work(task.given, paths)
            return value, [path.read_bytes() if path.exists() else None for path in paths]


def versions() -> dict[str, Any]:
    """Of what computes: Python, packages without their builds' names, and this project's code."""
    root = Path(__file__).parents[2]
    sources = sorted(path for name in _CODE for path in (root / name).rglob("*.py"))
    code = digest([[path.relative_to(root).as_posix(), file_hash(path)] for path in sources])
    packages = {name: version(name).partition("+")[0] for name in _PACKAGES}
    return {"python": platform.python_version(), **packages, "code of this project": code}
