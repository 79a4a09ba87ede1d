"""How does a curve show what it rests on, also in print?

A line or a bar for the mean, a band for its confidence, and n beside it, with what is missing. A
figure is as wide as a page, with the text of a page: in a single column all of it is half as large,
and can still be read. One color means one thing in every figure; kinds of clips differ in line and
marker.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses.plots.numbers import note
from analyses.plots.statistics import POOL
from data_prep.figure_text import label as as_written

COLORS = {
    **{"audio": "#D55E00", "video": "#0072B2", "text": "#009E73", "both": "#CC79A7"},
    "image": "#E69F00",
    **{"unshifted": "#8C8C8C", "marginal": "#BDBDBD", "shifted": "#E6E6E6", "kl": "white"},
    "other": "#56B4E9",
}
"""Of Okabe and Ito, which the color-blind can tell apart, and grays for what is no modality."""

WIDTH = 6.3
"""Inches of a page's text; a single column is half of it."""

_ORDER = (*POOL, "all", "see", "hear", "both")
# The first is the widest, so that it is seen under the others where lines coincide.
_LINES = (("-", "o", 8.0, 2.0), ("--", "s", 5.0, 1.3), (":", "^", 3.0, 1.3), ("-.", "D", 6.5, 1.0))


def place(name: str) -> int:
    """Where a kind of clips stands, factual first, then counterfactual, then all; or a question."""
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def by_panel(table: pd.DataFrame) -> list[tuple[str, str, Any]]:
    """Kind, question and rows of each panel, in the paper's order: factual, see first."""
    groups: Any = table.groupby(["kind", "question"], sort=False)
    panels = [(str(kind), str(question), rows) for (kind, question), rows in groups]
    return sorted(panels, key=lambda panel: (place(panel[0]), place(panel[1])))


def grid(n_rows: int, n_columns: int, size: tuple[float, float], **share: Any) -> Any:
    """A figure, and its axes as an array `[row, column]`."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False, **share)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def panels(n_panels: int, ylabel: str, n_columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure of panels, row by row, with a common y axis."""
    n_columns = min(n_panels, n_columns)
    n_rows = -(-n_panels // n_columns)
    figure, axes = grid(n_rows, n_columns, (WIDTH, 0.5 + 2.4 * n_rows), sharey=True)
    for one in axes[:, 0]:
        one.set_ylabel(ylabel)
    for one in axes.flat[n_panels:]:
        one.remove()
    return figure, list(axes.flat[:n_panels])


def curve(
    axes: Axes,
    band: pd.DataFrame,
    x: str,
    color: str,
    label: str,
    line: int = 0,
    alpha: float = 1.0,
) -> None:
    """One curve of `statistics.mean_band`, over the column `x`.

    Curves that may coincide in a panel have each its own number as `line`, from 0 on.
    """
    band = band.sort_values(x)
    style, marker, size, width = _LINES[line % len(_LINES)]
    more: Any = dict(color=color, alpha=alpha, label=as_written(label), linewidth=width)
    more |= dict(marker=marker, markersize=size, fillstyle="none")
    more |= dict(markevery=-(-len(band) // 9), clip_on=False)
    axes.plot(band[x], band["mean"], style, **more)
    shade: Any = dict(color=color, alpha=0.2 * alpha, linewidth=0)
    axes.fill_between(band[x], band["low"], band["high"], **shade)
    note(axes, "line", label, band[x].tolist(), band.to_dict("records"))


def bar(axes: Axes, x: float | int, point: Mapping[str, Any] | pd.Series, **style: Any) -> None:
    """One point of `statistics.mean_band`, its band with both ends; `style` is for `Axes.bar`."""
    axes.bar(x, point["mean"], **style)
    ends: Any = dict(marker="_", markersize=7, clip_on=False, zorder=3)  # also where an axis ends
    axes.plot([x, x], [point["low"], point["high"]], color="black", linewidth=1, **ends)
    note(axes, "bar", str(style.get("label") or ""), [x], [dict(point)])


def legend(figure: Figure) -> None:
    """One legend under the panels, with each label once."""
    own = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
    entries = {label: handle for pairs in own for handle, label in pairs}
    if entries:
        n_columns = 3 if max(map(len, entries)) < 16 else 2
        where: Any = dict(loc="outside lower center", ncols=n_columns, frameon=False)
        figure.legend([*entries.values()], [*entries], **where)


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


def tick(name: str, band: pd.DataFrame) -> str:
    """A name for a tick, with what it rests on, as narrow as can be."""
    return f"{name}\n{counted(band)}".replace("counterf", "counter-\nf").replace(", ", ",\n")


def layer_axis(axes: Axes, label: str = "layer") -> None:
    """The x axis counts layers."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
