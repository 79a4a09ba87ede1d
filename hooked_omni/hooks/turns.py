"""Whose turn is it? One thread at a time runs a model, or has hooks on it.

Calls of several threads wait for each other. Hooks that stay between a thread's calls, and `with
model.hooks(...)` blocks, are that thread's own: waiting for their end might never end, so another
thread's call is refused meanwhile.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from hooked_omni.errors import HookError

P = ParamSpec("P")
R = TypeVar("R")


class Turns:
    """Which thread a model belongs to now. A copy belongs to nobody; hooks cannot be copied."""

    def __init__(self) -> None:
        self.lock, self.process = threading.RLock(), os.getpid()
        self.owner: threading.Thread | None = None
        self.unfinished = 0  # the owner's calls and blocks
        self.points: set[Any] = set()  # on which hooks have been put

    def __reduce__(self) -> Any:
        if any(point.hooked for point in self.points):
            raise HookError(
                "expected a model without hooks to copy, got some, which would act on the original "
                "too. Call `model.reset_hooks()` first, and put them on the copy."
            )
        return Turns, ()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Until the end of a call, others wait; `HookError` while another thread's hooks stay."""
        with self._lock(), self.block():
            yield

    @contextmanager
    def block(self) -> Iterator[None]:
        """Until the end of the block, others' calls are refused; errors as `call`."""
        with self._lock():
            self._take()
            self.unfinished += 1
        try:
            yield
        finally:
            self.unfinished -= 1

    def inherit(self) -> None:
        """Take over what a thread left that has ended, or that is not in this forked process."""
        if self.owner is not None and not self.owner.is_alive():
            self.owner, self.unfinished = threading.current_thread(), 0

    def _take(self) -> None:
        thread = threading.current_thread()
        if self.owner is thread:
            return
        if self.unfinished or any(point.hooked for point in self.points):
            raise HookError(
                f"expected a model without hooks of another thread, got some of {self.owner}: they "
                "would act here too. Pass hooks to each call, or load a model for each thread; "
                "what an ended thread left, `model.reset_hooks()` takes off."
            )
        self.owner = thread

    def _lock(self) -> threading.RLock:  # pyright: ignore[reportInvalidTypeForm]
        if self.process != os.getpid():
            # Forked: the lock may be held by a thread that does not exist here.
            self.lock, self.process = threading.RLock(), os.getpid()
        return self.lock


def in_turn(run: Callable[P, R]) -> Callable[P, R]:
    """`run(model, ...)` as one call of that model."""

    @functools.wraps(run)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        model: Any = args[0] if args else kwargs["model"]
        with model.current.turns.call():
            return run(*args, **kwargs)

    return called
