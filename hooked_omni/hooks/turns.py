"""Whose turn is it? One thread at a time runs a model, or has hooks on it.

Calls wait for each other. Hooks that stay between a thread's calls may never end: meanwhile,
another thread's call is refused.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch

from hooked_omni.errors import HookError

P = ParamSpec("P")
R = TypeVar("R")


class Turns:
    """Which thread a model belongs to now; a copy of a model belongs to none."""

    def __init__(self) -> None:
        self.lock, self.process = threading.RLock(), os.getpid()
        self.owner: threading.Thread | None = None
        self.unfinished = 0  # calls and blocks of the owner
        self.points: set[Any] = set()  # on which hooks have been put

    def __reduce__(self) -> Any:
        if any(point.hooked for point in self.points):
            raise HookError(
                "expected a model without hooks to copy, got some, which would act on the original "
                "too. Call `model.reset_hooks()` first, and put them on the copy."
            )
        return Turns, ()

    @contextmanager
    def block(self, whole: bool = False) -> Iterator[None]:
        """This thread's alone until the end; other threads wait if it is one `whole` call.

        Raises:
            HookError: While another thread's block or hooks stand.
        """
        if self.process != os.getpid():
            self._enter_fork()
        lock = self.lock
        with lock:
            self._take()
            self.unfinished += 1
            if whole:
                lock.acquire()
        try:
            yield
        finally:
            self.unfinished -= 1
            if whole:
                lock.release()

    def inherit(self) -> None:
        """Take over what a thread left that has ended, or that a forked process lacks."""
        if self.owner is not None and not self.owner.is_alive():
            self.owner, self.unfinished = threading.current_thread(), 0

    def _take(self) -> None:
        thread = threading.current_thread()
        in_use = self.unfinished or any(point.hooked for point in self.points)
        if self.owner is not thread and in_use:
            raise HookError(
                f"expected a model without hooks of another thread, got some of {self.owner}: they "
                "would act here too. Pass hooks to each call, or load a model for each thread; "
                "what an ended thread left, `model.reset_hooks()` takes off."
            )
        self.owner = thread

    def _enter_fork(self) -> None:
        if (threads := torch.get_num_threads()) > 1:
            raise HookError(
                f"expected one torch thread in a forked process, got {threads}, which would wait "
                "for threads that were not forked. Call `torch.set_num_threads(1)` there."
            )
        # The lock may be held by a thread that is not in this process.
        self.lock, self.process = threading.RLock(), os.getpid()


def in_turn(run: Callable[P, R]) -> Callable[P, R]:
    """`run(model, ...)` as one call of that model, never compiled."""

    @functools.wraps(run)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        model: Any = args[0] if args else kwargs["model"]
        with model.current.turns.block(whole=True):
            return run(*args, **kwargs)

    # A compiled graph would round otherwise, and miss hooks that come after it.
    uncompiled: Any = torch.compiler.disable(called)
    return uncompiled
