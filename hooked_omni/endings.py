"""How does a command end? With one line, and a code: 1, 2, or for SIGINT 130, for SIGTERM 143.

Nothing that takes long is imported, so that signals are caught before such imports begin.
"""

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from types import FrameType, TracebackType
from typing import Any, NoReturn


class Stopped(SystemExit):
    """Raised in the main thread by the first SIGINT or SIGTERM."""


class StopSignals:
    """A block that SIGINT and SIGTERM end, with a line that says how to go on, and code 130 or 143.

    The first signal unwinds the block, so that what is open is closed; the second, or `patience`
    seconds in which something does not close, ends the process at once, as a kill does. Processes
    started by the block end with the first. Signals that are ignored stay so, and in a thread other
    than the main one, where Python has none, all does.
    """

    patience = 10.0

    def __init__(self) -> None:
        self._process, self._code = os.getpid(), 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._stop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
        if self._code and kind is not Stopped:  # what else is raised now follows from the signal
            raise Stopped(self._code) from None

    def _stop(self, number: int, frame: FrameType | None) -> NoReturn:
        again, self._code = self._code, 128 + number
        if os.getpid() != self._process:  # a worker of a pool
            os._exit(self._code)
        if processes := sys.modules.get("multiprocessing"):
            for child in processes.active_children():
                child.kill()
        if again:
            os._exit(self._code)
        with suppress(RuntimeError, OSError, ValueError):  # it may have come within another print
            _thread.start_new_thread(self._end, ())  # `threading` has locks, which may be held
            print(
                f"stopped by {signal.Signals(number).name}: what is finished is kept; give the "
                "same command again, and it goes on from there.",
                file=sys.stderr,
                flush=True,
            )
        raise Stopped(self._code)

    def _end(self) -> None:
        time.sleep(self.patience)
        if self._before:  # the block has not ended
            os._exit(self._code)


def say(text: str, style: str | None = None) -> None:
    """Print a line as it is on the standard error stream."""
    from typer import secho  # takes a while, and signals are caught first

    secho(text, fg=style, err=True)


def run_command(app: Callable[..., Any], arguments: list[str] | None, name: str) -> None:
    """Run a command; the project's own errors, and the system's, are one red message.

    `--ray` without a value is `--ray auto`.
    """
    given = sys.argv[1:] if arguments is None else arguments
    bare = [one == "--ray" and after[:1] == "-" for one, after in pairwise([*given, "-"])]
    words = [w for one, alone in zip(given, bare, strict=True) for w in (one, *["auto"] * alone)]
    try:
        with StopSignals():
            app(words, prog_name=name)
    except Exception as error:
        # By name, so that the help page need not import the package.
        own = any(kind.__module__ == "hooked_omni.errors" for kind in type(error).__mro__)
        if not own and not isinstance(error, OSError):
            raise
        notes = " ".join(getattr(error, "__notes__", []))
        text = error if own else f"expected files that can be read and written, got: {error}."
        say(f"{type(error).__name__}: {text} {notes}".rstrip(), "red")
        sys.exit(1)
