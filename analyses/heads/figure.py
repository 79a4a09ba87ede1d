"""Which heads add to heard minus seen for having read the sound, and which for the picture?"""

from typing import Any

import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from analyses.heads.ranking import ranking
from analyses.plots import figures
from analyses.plots.statistics import in_words, mean_band, require_rows

_SPANS = ("audio", "video", "image")
_NAMED = 3  # heads that a headline names
_SIDES = [figures.COLORS["video"], "white", figures.COLORS["audio"]]
_MAP = LinearSegmentedColormap.from_list("seen to heard", _SIDES)


def plot(table: pd.DataFrame) -> Figure:
    """Mean share of every head, layer by head: a panel for sound and one for picture, each kind.

    Above 0 a head pushes towards what is heard, below towards what is seen.
    """
    require_rows(table)
    heads: Any = table[table["component"] == "head"]
    n_layers, n_heads = (int(heads[name].max()) + 1 for name in ("layer", "head"))
    spans = [span for span in _SPANS if span in set(heads["span"])]
    shown: list[tuple[str, Any]] = []
    for kind, question, rows in figures.by_panel(heads):
        for span in spans:
            own = rows[rows["span"] == span]
            mean: Any = own.pivot_table("share", "layer", "head", aggfunc="mean")
            name = f"{figures.as_written(kind)}, {figures.as_written(question)}"
            title = f"{name}\n{span}, n = {own['sample'].nunique()}"
            shown.append((title, mean.reindex(range(n_layers)).reindex(columns=range(n_heads))))
    figure, panels = figures.panels(len(shown), "layer")
    most = max(float(mean.abs().max().max()) for _, mean in shown)
    limits: Any = dict(vmin=-most, vmax=most, cmap=_MAP, aspect="auto", origin="lower")
    for axes, (title, mean) in zip(panels, shown, strict=True):
        axes.imshow(mean.to_numpy(float), **limits)
        axes.set_title(title)
        figures.layer_axis(axes, "head")
    bar = figure.colorbar(panels[0].images[0], ax=panels, shrink=0.9)
    bar.set_label("share of heard minus seen,\nnats, for having read this")
    return figure


def headline(table: pd.DataFrame) -> list[str]:
    """What reading each span adds in all heads together, and which heads add most."""
    require_rows(table)
    lines = []
    for kind, question, rows in figures.by_panel(table):
        where = f"{kind}, {question}"
        odds = rows.groupby("sample", as_index=False)["odds"].first()
        odds.attrs = table.attrs
        whole = in_words(_one(odds, "odds"), "nats", 2)
        lines.append(f"{where}: heard minus seen, where the answers part, is {whole}.")
        heads = rows[rows["component"] == "head"]
        for span in [span for span in _SPANS if span in set(heads["span"])]:
            read = heads[heads["span"] == span]
            total = read.groupby("sample", as_index=False)["share"].sum()
            total.attrs = table.attrs
            best = ranking(heads.assign(), span)
            most = ", ".join(_named(row) for _, row in best.head(_NAMED).iterrows())
            least = ", ".join(_named(row) for _, row in best.tail(_NAMED)[::-1].iterrows())
            added = in_words(_one(total, "share"), "nats", 2)
            lines.append(
                f"{where}: heads that read the {span} add {added}; most towards what is heard: "
                f"{most}; towards what is seen: {least}."
            )
    return lines


def _one(table: Any, value: str) -> Any:
    whole = table.assign(all="")
    whole.attrs = table.attrs
    return mean_band(whole, value, by=["all"]).iloc[0]


def _named(row: Any) -> str:
    return f"{int(row['layer'])}.{int(row['head'])} ({row['mean']:+.2f})"
