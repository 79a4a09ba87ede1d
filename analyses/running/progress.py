"""How far is it? Bars and messages on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

ProgressCallback = Callable[[str, int, int], None]
"""Called with a title, how many are done, and of how many; from any thread."""


def no_progress(title: str, done: int, total: int) -> None:
    """Show nothing."""


@contextmanager
def progress_bars() -> Iterator[ProgressCallback]:
    """A bar for each title while the block runs; bars of transformers would tear them."""
    import transformers  # takes seconds, and a help page imports this file

    theirs = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, TaskID] = {}
    try:
        with Progress(
            TextColumn("{task.description}"), *columns, console=Console(stderr=True)
        ) as shown:

            def update(title: str, done: int, total: int) -> None:
                if title not in bars:
                    bars[title] = shown.add_task(title, total=total)
                shown.update(bars[title], completed=done, total=total)

            yield update
    finally:
        if theirs:
            transformers.logging.enable_progress_bar()


def say(text: str, style: str = "") -> None:
    """Print a line as it is: no markup, no wrapping."""
    Console(stderr=True).print(text, style=style, markup=False, highlight=False, soft_wrap=True)
