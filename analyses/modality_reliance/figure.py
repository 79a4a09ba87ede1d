"""What does each variant of the clip cost the answer?"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.cases import KEYS
from analyses.configs import VARIANTS
from analyses.plots import figures
from analyses.plots.curves import paired_permutation
from analyses.plots.statistics import in_words, mean_band, pooled, require_rows


def plot(table: pd.DataFrame) -> Figure:
    """Mean change per variant in nats a token, with 95 % bands and every sample as a dot.

    One panel for each kind and question, and for all kinds together.
    """
    groups = figures.by_panel(_per_token(table))
    ylabel = "change in log p of\nthe answer, nats a token"
    figure, panels = figures.panels(len(groups), ylabel, n_columns=1)
    for axes, (kind, question, group) in zip(panels, groups, strict=True):
        _panel(axes, group)
        axes.set_title(figures.as_written(f"{kind}, {question}"))
    return figure


def _panel(axes: Axes, changes: Any) -> None:
    order = [name for name in VARIANTS if name in set(changes["variant"])]
    bands: Any = mean_band(changes, "change", by=["variant"])
    labels = []
    for x, name in enumerate(order):
        band, color = bands[bands["variant"] == name], figures.COLORS[VARIANTS[name]]
        own = changes[changes["variant"] == name]["change"]
        figures.bar(axes, x, band.iloc[0], color=color, alpha=0.5, width=0.6)
        axes.scatter([x - 0.2] * len(own), own, color=color, s=8, alpha=0.6)
        labels.append(figures.tick(name.replace(" ", "\n", 1), band))
    axes.axhline(0, color="black", linewidth=1)
    axes.set_xticks(range(len(order)), labels)


def headline(table: pd.DataFrame) -> list[str]:
    """What each variant costs the answer, and whether sound or picture costs more."""
    lines = []
    for kind, question, group in figures.by_panel(_per_token(table)):
        where = f"{kind}, {question}"
        bands = mean_band(group, "change", by=["variant"])
        for _, band in bands.iterrows():
            changed = in_words(band, "nats a token", 3)
            lines.append(f"{where}: {band['variant']} changes log p of the answer by {changed}.")
        mute, blank = (group[group["variant"] == name] for name in ("mute", "blank"))
        if set(mute["sample"]) & set(blank["sample"]):
            test = paired_permutation(blank, mute, "change", by=["kind"], correction="none").iloc[0]
            more = "picture" if test["difference"] < 0 else "sound"
            verb = "rests" if test["p"] < 0.05 else "seems to rest, within chance,"
            lines.append(
                f"{where}: the answer {verb} more on the {more}, by {abs(test['difference']):.3f} "
                f"nats a token (p = {test['p']:.2g}, n = {int(test['n'])})."
            )
    return lines


def _per_token(table: pd.DataFrame) -> Any:
    """Change of each answer in nats a token, by case and variant; the intact clip left out."""
    cut: Any = table[table["variant"] != "intact"]
    rows: Any = pooled(cut)
    require_rows(rows)
    grouped = rows.groupby([*KEYS, "variant"], sort=False, as_index=False)
    answers = grouped.agg(change=("change", "sum"), n_tokens=("n_tokens", "first"))
    return answers.assign(change=answers["change"] / answers["n_tokens"])
