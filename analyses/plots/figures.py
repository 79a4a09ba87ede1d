"""How does a curve show what it rests on?

A line for the means, a band for their confidence, and n beside it, with what is missing.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["counted", "draw", "layers_below", "panels"]


def draw(axes: Axes, band: pd.DataFrame, x: str, color: str, label: str, style: str = "-") -> None:
    """One curve of `statistics.mean_band`, over the column `x`."""
    band = band.sort_values(x)
    axes.plot(band[x], band["mean"], style, color=color, label=f"{label} ({counted(band)})")
    axes.fill_between(band[x], band["low"], band["high"], color=color, alpha=0.2, linewidth=0)


def counted(band: pd.DataFrame) -> str:
    """How many samples stand behind the points of a band, and how many are missing.

    Example:
        >>> counted(pd.DataFrame({"n": [9, 10], "missing": [1, 0]}))
        'n = 9 to 10, up to 1 missing'
    """
    numbers, missing = band["n"].tolist(), max(band["missing"].tolist())
    low, high = min(numbers), max(numbers)
    n = f"n = {low}" if low == high else f"n = {low} to {high}"
    return f"{n}, up to {missing} missing" if missing else n


def panels(n_panels: int, height: float = 3.6, width: float = 5.2) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, with a common y axis."""
    figure = Figure(figsize=(max(6.4, width * n_panels), height), layout="constrained")
    axes = figure.subplots(1, n_panels, sharey=True, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def layers_below(axes: Axes, words: str = "layer") -> None:
    """The x axis counts layers."""
    axes.set_xlabel(words)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
