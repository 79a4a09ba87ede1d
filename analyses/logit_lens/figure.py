"""In which layers, and in which seconds, can the sounds be read, and how many by chance?"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses.cases import KEYS
from analyses.logit_lens.judged import bars, judged, sentences
from analyses.logit_lens.recall import ANY_LAYER, recall
from analyses.plots import figures, published
from analyses.plots.statistics import in_words, mean_band, pooled

_PUBLISHED = "latent_audio_recall"


def plot(table: pd.DataFrame, scores: pd.DataFrame | None = None) -> Figure:
    """A row of panels for each lens: recall, log-probability of reference words, recall in time.

    Dotted: the same for the events of other samples, which is chance. A fourth panel has the recall
    of a judge that gave any in `scores`. The paper's number for this model stands in that panel,
    since it was judged too, else in the first.
    """
    lenses, by_judge = list(dict.fromkeys(table["lens"])), _judged(scores)
    n = 3 + (by_judge is not None)
    figure, rows = figures.grid(len(lenses), n, (5.0 * n, 3.8 * len(lenses)))
    heard, chance = pooled(recall(table)), pooled(recall(table, "chance"))
    words = pooled(_word_curves(table))
    for (left, middle, right, *more), lens in zip(rows, lenses, strict=True):
        left.set(ylabel="sound events recalled, %", ylim=(0, 100), title=f"lens: {lens}")
        middle.set(ylabel="log p of reference words, nats", title="best position, mean over events")
        _curves(left, heard.query("lens == @lens"), "recall", "-", "")
        _curves(left, chance.query("lens == @lens"), "recall", ":", ", by chance")
        _curves(middle, words.query("lens == @lens"), "logprob", "-", "")
        for (kind, question), _ in table.groupby(["kind", "question"], sort=False):
            theirs = published.number(_PUBLISHED, table.attrs, question, kind)
            if theirs is not None:
                label = f"{published.title(table.attrs)}, {kind}, all layers, judged"
                line: Any = dict(color="black", ls="--", lw=1, alpha=0.5, zorder=0, label=label)
                (more or [left])[0].axhline(theirs, **line)
        _heat(figure, right, table.query("lens == @lens"))
        for axes in (left, middle):
            figures.layer_axis(axes)
            if axes.get_lines():
                axes.legend(frameon=False, fontsize="small")
        for axes in more:
            bars(axes, by_judge, lens)
            axes.legend(frameon=False, fontsize="small")
    return figure


def _judged(scores: pd.DataFrame | None) -> Any:
    """A judge's recall, or None without any."""
    table = None if scores is None else judged(scores)
    return None if table is None or table["recall"].dropna().empty else table


def _curves(axes: Axes, table: pd.DataFrame, value: str, style: str, note: str) -> None:
    layers: Any = table.query("layer != @ANY_LAYER")
    if layers[value].isna().all():
        return
    bands = mean_band(layers, value, by=["kind", "question", "layer"])
    for i, (kind, question, band) in enumerate(figures.by_panel(bands)):
        figures.curve(axes, band, "layer", f"C{i}", f"{kind}, {question}{note}", style)


def _word_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over a sample's events of the log-probability of the likeliest word for each."""
    words: Any = table[(table["measure"] == "word") & (table["events"].str.len() > 0)]
    keys = [*KEYS, "lens", "layer"]
    best = words.groupby([*keys, "events"], sort=False, as_index=False)["logprob"].max()
    return best.groupby(keys, sort=False, as_index=False)["logprob"].mean()


def _heat(figure: Figure, axes: Axes, table: pd.DataFrame) -> None:
    """How many positions of each second name something that is heard."""
    top: Any = table[(table["measure"] == "top") & (table["heard"].str.len() > 0)]
    top = top.dropna(subset=["second"])
    n = len(top[["sample", "question"]].drop_duplicates())
    axes.set(title=f"positions that name what is heard, % (n = {n})")
    axes.set(xlabel="second of the clip", ylabel="layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if top.empty:
        return
    pairs = zip(top["events"], top["heard"], strict=True)
    hits = [0.0 if set(heard).isdisjoint(events) else 100.0 for events, heard in pairs]
    top = top.assign(hit=hits, second=top["second"].astype(int))
    once = ["sample", "question", "layer", "second", "position"]
    named = top.groupby(once, as_index=False)["hit"].max()
    share = named.pivot_table("hit", index="layer", columns="second")
    drawn = axes.pcolormesh(share.columns, share.index, share, cmap="magma", vmin=0, vmax=100)
    figure.colorbar(drawn, ax=axes)


def headline(table: pd.DataFrame, scores: pd.DataFrame | None = None) -> list[str]:
    """How much of what is heard can be read inside the model, by words and as a judge finds."""
    heard, chance = pooled(recall(table)), pooled(recall(table, "chance"))
    lines = []
    for kind, question, panel in figures.by_panel(heard):
        for lens, part in panel.groupby("lens", sort=False):
            title = f"{kind}, {question}, lens {lens}"
            bands: Any = mean_band(part, "recall", by=["layer"])
            if not bands["n"].any():
                lines.append(f"{title}: no sample has captions that name a sound event.")
                continue
            points = {point["layer"]: point for point in bands.to_dict("records")}
            anywhere = points.pop(ANY_LAYER)
            best = max(points.values(), key=lambda point: point["mean"])
            same = "kind == @kind and question == @question and lens == @lens"
            others = chance.query(f"{same} and layer == @ANY_LAYER")
            by_chance: Any = mean_band(others, "recall", by=["layer"]).iloc[0]
            note = f" (events of other clips: {in_words(by_chance)})" if by_chance["n"] else ""
            lines.append(
                f"{title}: {in_words(anywhere)} of the sound events that the captions name can be "
                f"read off in some layer{note}; in the best one, {best['layer']}, {in_words(best)}."
            )
        theirs = published.number(_PUBLISHED, table.attrs, question, kind)
        if theirs is not None:
            source = f"{kind}, {question}, {published.title(table.attrs)}"
            lines.append(f"{source}: {theirs} %, all layers, judged.")
    by_judge = _judged(scores)
    return lines if by_judge is None else lines + sentences(by_judge)
