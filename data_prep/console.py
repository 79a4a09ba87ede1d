"""How does a step say how far it is, and what it leaves out? On the standard error stream."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import track

from hooked_omni.endings import say


def say_reasons(reasons: Mapping[str, str], label: str) -> None:
    """Print the first ten of what is left out or missing, each with its reason."""
    for name, reason in list(reasons.items())[:10]:
        say(f"{label}: {name}: {reason}")


def bar(words: str) -> Callable[[list[Any]], Iterable[Any]]:
    """A function that shows a progress bar while a list is gone through."""

    def through(items: list[Any]) -> Iterable[Any]:
        return track(items, words, console=Console(stderr=True), disable=not items)

    return through
