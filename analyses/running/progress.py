"""How far is it? One view of all that is under way, on stderr."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["View", "view"]

Item = TypeVar("Item")


class View:
    """Bars, one below the other."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bars: dict[str, int] = {}

    def shown(self, title: str) -> Callable[[Sequence[Item]], Iterator[Item]]:
        """From things to the same things, with a bar that counts them."""

        def through(items: Sequence[Item]) -> Iterator[Item]:
            for done, item in enumerate(items):
                self.told(title, done, len(items))
                yield item
            self.told(title, len(items), len(items))

        return through

    def told(self, title: str, done: int, n: int) -> None:
        """So many of so many are done; from any thread."""
        if title not in self.bars:
            self.bars[title] = self.progress.add_task(title, total=n)
        self.progress.update(self.bars[title], completed=done, total=n)  # pyright: ignore[reportArgumentType]


@contextmanager
def view() -> Iterator[View]:
    """A view that is there while the block runs; bars of transformers would tear it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    theirs = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield View(progress)
    finally:
        if theirs:
            transformers.logging.enable_progress_bar()
