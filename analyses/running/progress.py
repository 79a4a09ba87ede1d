"""How far is it? Bars on the standard error stream."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress
from rich.console import Console

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
    columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
    bars: dict[str, progress.TaskID] = {}
    text, console = progress.TextColumn("{task.description}"), Console(stderr=True)
    try:
        with progress.Progress(text, *columns, console=console) as display:

            def update(title: str, done: int, total: int) -> None:
                if title not in bars:
                    bars[title] = display.add_task(title, total=total)
                display.update(bars[title], completed=done, total=total)

            yield update
    finally:
        if theirs:
            transformers.logging.enable_progress_bar()
