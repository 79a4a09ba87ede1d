"""How does attention move from audio to video, layer by layer, next to the published figure?"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analyses.attention_share.table import MODALITIES
from analyses.cases import KEYS
from analyses.plots import figures, published
from analyses.plots.numbers import note
from analyses.plots.statistics import in_words, mean_band, pooled
from hooked_omni.errors import ResultsError

_LABELS = {"audio": "audio", "video": "video", "image": "image", "text": "query text"}
_PUBLISHED = "figure4_attention_share"


def plot(table: pd.DataFrame) -> Figure:
    """Mean over samples per layer, with 95 % bands; audio, video, images and text add up to 100 %.

    One panel for each kind and question, and for all kinds together. Samples without all the
    segments that others have are left out, as the title says: their 100 % is another. The paper's
    certain points for this model and question are drawn underneath.
    """
    complete = pooled(percents(table))
    groups = figures.by_panel(complete)
    figure, panels = figures.panels(len(groups), "attention of\ngenerated tokens, %")
    for axes, (kind, question, group) in zip(panels, groups, strict=True):
        bands: Any = mean_band(group, "percent", by=["segment", "layer"])
        name = figures.as_written(f"{kind}, question {question!r}")
        axes.set_title(f"{name}\n{figures.counted(bands)}")
        for i, segment in enumerate(s for s in MODALITIES if s in set(bands["segment"])):
            band = bands[bands["segment"] == segment]
            figures.curve(axes, band, "layer", figures.COLORS[segment], _LABELS[segment], i)
        figures.layer_axis(axes)
        points = published.points(_PUBLISHED, table.attrs, question, kind)
        for segment, own in points.groupby("segment"):
            title = f"{published.title(table.attrs)}: {segment}"
            where = own["layer"], own["share_percent"]
            axes.scatter(*where, c=figures.COLORS[str(segment)], marker="x", label=title)
            theirs = [{"mean": share} for share in own["share_percent"]]
            note(axes, "published", _LABELS[str(segment)], own["layer"], theirs)
    left_out = len(set(table["sample"]) - set(complete["sample"]))
    if left_out:
        most = ", ".join(s for s in MODALITIES if s in set(complete["segment"]))
        figure.suptitle(f"{left_out} samples without all of {most} left out")
    panels[0].set_ylim(0, 100)
    figures.legend(figure)
    return figure


def headline(table: pd.DataFrame) -> list[str]:
    """What Figure 4 shows, with this table's numbers: where each segment peaks, where it ends."""
    lines, complete = [], pooled(percents(table))
    n_layers = max(complete["layer"]) + 1
    late = range(n_layers - max(n_layers // 3, 1), n_layers)
    for kind, question, group in figures.by_panel(complete):
        by_layer: Any = mean_band(group, "percent", by=["segment", "layer"])
        inside = group[group["layer"].isin(late)]
        means = inside.groupby(["sample", "segment"], as_index=False)["percent"].mean()
        ends = mean_band(means, "percent", by=["segment"]).set_index("segment")
        for segment in [s for s in MODALITIES if s in ends.index]:
            band = by_layer[by_layer["segment"] == segment]
            peak = band.loc[band["mean"].idxmax()]
            lines.append(
                f"{kind}, {question}: {_LABELS[segment]} gets most of its attention in layer "
                f"{int(peak['layer'])}, {in_words(peak)}; in the last third "
                f"of the layers, from {late[0]} on, it gets {in_words(ends.loc[segment])}."
            )
        points = published.points(_PUBLISHED, table.attrs, question, kind).to_dict("records")
        theirs = ", ".join("{segment} {share_percent} % in {layer}".format(**p) for p in points)
        lines += (
            [f"{kind}, {question}, {published.title(table.attrs)}: {theirs}."] if points else []
        )
    return lines


def percents(table: pd.DataFrame) -> pd.DataFrame:
    """Percent on audio, video, images and text by case and layer, over heads and steps.

    Samples without all the segments that others have are left out. A table that lacks one
    that its prompts have is a `ResultsError`.
    """
    parts: Any = table[table["segment"].isin(MODALITIES)]
    keys = [*KEYS, "layer"]
    if parts.empty:
        raise ResultsError(f"expected rows for any of {MODALITIES}, got none. Measure them too.")
    each = parts.groupby([*keys, "head", "step"], dropna=False, sort=False)["percent"].sum()
    if (each - 100).abs().max() > 0.01:
        raise ResultsError(
            f"expected rows for all of {MODALITIES} that the prompts have, got "
            f"{sorted(set(parts['segment']))}: their 100 % is not known. Measure them too."
        )
    found = parts.groupby("sample")["segment"].agg(frozenset)
    most = max(found, key=len)
    complete = parts["sample"].map(found.map(lambda own: own == most))
    shares = parts[complete].groupby([*keys, "segment"], sort=False)["share"].mean()
    whole = shares.groupby(level=keys, sort=False).transform("sum")
    return (100 * shares / whole).rename("percent").reset_index()
