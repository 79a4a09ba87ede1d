"""How does a curve show what it rests on?

A line or a bar for the mean, a band for its confidence, and n beside it, with what is missing.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data_prep.figure_text import label as as_written

COLORS = {"audio": "tab:orange", "video": "tab:blue", "text": "tab:gray", "both": "tab:gray"}


def by_panel(table: pd.DataFrame) -> list[tuple[str, str, Any]]:
    """Kind, question and rows of each panel, in the table's order."""
    groups: Any = table.groupby(["kind", "question"], sort=False)
    return [(str(kind), str(question), rows) for (kind, question), rows in groups]


def grid(n_rows: int, n_columns: int, size: tuple[float, float], **share: Any) -> Any:
    """A figure, and its axes as an array `[row, column]`."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False, **share)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def panels(n_panels: int, width: float = 5.2) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, with a common y axis."""
    figure, axes = grid(1, n_panels, (max(6.4, width * n_panels), 3.6), sharey=True)
    return figure, list(axes[0])


def curve(axes: Axes, band: pd.DataFrame, x: str, color: str, label: str, style: str = "-") -> None:
    """One curve of `statistics.mean_band`, over the column `x`."""
    band = band.sort_values(x)
    label = as_written(f"{label} ({counted(band)})")
    axes.plot(band[x], band["mean"], style, color=color, label=label)
    axes.fill_between(band[x], band["low"], band["high"], color=color, alpha=0.2, linewidth=0)


def bar(axes: Axes, x: float | int, point: Mapping[str, Any] | pd.Series, **style: Any) -> None:
    """One point of `statistics.mean_band`; `style` is for `Axes.bar`."""
    bottom = style.get("bottom", 0.0)
    axes.bar(x, point["mean"], **style)
    axes.vlines(x, bottom + point["low"], bottom + point["high"], color="black", linewidth=1)


def counted(band: pd.DataFrame) -> str:
    """How many samples the points of a band are means of, and how many are missing.

    Example:
        >>> counted(pd.DataFrame({"n": [9, 10], "missing": [1, 0]}))
        'n = 9 to 10, up to 1 missing'
    """
    numbers, missing = band["n"].tolist(), max(band["missing"].tolist())
    low, high = min(numbers), max(numbers)
    n = f"n = {low}" if low == high else f"n = {low} to {high}"
    return f"{n}, up to {missing} missing" if missing else n


def layer_axis(axes: Axes, label: str = "layer") -> None:
    """The x axis counts layers."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
