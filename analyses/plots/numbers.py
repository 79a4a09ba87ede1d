"""Which numbers does a figure show?

What is drawn is noted, so that a page and a table have the numbers of the figure, with its bands,
and nothing is computed a second time.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_NOTED: WeakKeyDictionary[Axes, list[tuple[str, str, list[dict[str, Any]]]]] = WeakKeyDictionary()
_LABELS: WeakKeyDictionary[Axes, dict[str, str]] = WeakKeyDictionary()
_FIELDS = {"mean": "y", "low": "low", "high": "high", "n": "n"}


def note(
    axes: Axes, form: str, name: str, x: Iterable[Any], points: Iterable[Mapping[Any, Any]]
) -> None:
    """Note points, as `mean_band` has them, of a series.

    `form` is "line", "bar", "level" (a line across all, of one point), or "published", of which
    a point is its `mean` alone.
    """
    made = [
        {"x": at, **{key: _known(point.get(name)) for name, key in _FIELDS.items()}}
        for at, point in zip(x, points, strict=True)
    ]
    _NOTED.setdefault(axes, []).append((form, name, made))


def describe(axes: Axes, **texts: str) -> None:
    """What the panel is by itself, as `title`, `x` or `y`, where the figure shares it."""
    _LABELS.setdefault(axes, {}).update(texts)


def _known(value: Any) -> Any:
    """A number of Python's own; None for NaN."""
    number = value.item() if isinstance(value, np.generic) else value
    return number if number == number else None


def panels(figure: Figure) -> dict[str, list[dict[str, Any]]]:
    """By "line" and "bar", the panels that have any, in their order.

    Returns:
        Of each panel its `title`, the labels `x` and `y`, and `series`: `name`, `points` with `x`
        (a number, or of bars the text of their tick), `y`, `low`, `high` and `n`, None where there
        is none; and the `published` points.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for axes in figure.axes:
        noted = _NOTED.get(axes, [])
        form = "bar" if any(one == "bar" for one, _, _ in noted) else "line"
        if series := list(_series(axes, noted)):
            shared = next((y for one in figure.axes if (y := one.get_ylabel())), "")
            labels = {"x": axes.get_xlabel(), "y": axes.get_ylabel() or shared}
            labels = {"title": axes.get_title(), **labels, **_LABELS.get(axes, {})}
            made = {key: " ".join(text.split()) for key, text in labels.items()}
            found.setdefault(form, []).append({**made, "series": series})
    return found


def _series(axes: Axes, noted: list[tuple[str, str, list[dict[str, Any]]]]) -> Iterable[Any]:
    numbers = [p["x"] for form, _, points in noted if form == "line" for p in points]
    made: dict[str, dict[str, Any]] = {}
    for form, name, points in noted:
        own = made.setdefault(name, {"name": name, "points": [], "published": []})
        if form == "level":
            ends = [min(numbers), max(numbers)] if numbers else []
            points = [{**points[0], "x": x} for x in ends]
        if form == "published" and numbers and points[0]["x"] is None:
            points = [{**points[0], "x": x} for x in (min(numbers), max(numbers))]
        if bars := [p["x"] for form, _, points in noted if form == "bar" for p in points]:
            points = [
                {**p, "x": _tick(axes, bars[0] if p["x"] is None else p["x"])} for p in points
            ]
        own["published" if form == "published" else "points"] += points
    return made.values()


def _tick(axes: Axes, x: float) -> str:
    """The text under a bar, without what it counts."""
    ticks = axes.get_xticks()
    nearest = int(np.abs(np.asarray(ticks) - x).argmin())
    text = axes.get_xticklabels()[nearest].get_text().replace("-\n", "")
    return " ".join(text.split()).partition(" n = ")[0]
