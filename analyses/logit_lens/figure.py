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
from analyses.plots.numbers import describe, note
from analyses.plots.statistics import in_words, mean_band, pooled

_PUBLISHED = "latent_audio_recall"
_RECALLED = "sound events\nrecalled, %"
_LIKELY = "log p of reference words,\nnats, best position"


def plot(table: pd.DataFrame, scores: pd.DataFrame | None = None) -> Figure:
    """A column for each question and lens: recall, log p of reference words, recall in time.

    Pale: the same for the events of other samples, which is chance. A fourth row has the recall of
    a judge that gave any in `scores`. The paper's number for this model stands in that row, since
    it was judged too, else in the first.
    """
    by_judge = _judged(scores)
    every: Any = table.groupby(["question", "lens"], sort=False)
    n_rows = 3 + (by_judge is not None)
    size = (max(1, len(every) / 2) * figures.WIDTH, 2.5 * n_rows)
    figure, rows = figures.grid(n_rows, len(every), size, sharey="row")
    heard, chance = pooled(recall(table)), pooled(recall(table, "chance"))
    words = pooled(_word_curves(table))
    heat = None
    for (first, second, third, *more), ((question, lens), own) in zip(rows.T, every, strict=True):
        same = "question == @question and lens == @lens"
        _curves(first, heard.query(same), "recall", "")
        _curves(first, chance.query(same), "recall", ", by chance", alpha=0.45)
        first.set(ylim=(0, 100), title=f"{question}, lens: {lens}\n{first.get_title()}")
        _curves(second, words.query(same), "logprob", "")
        for kind, _, _ in figures.by_panel(own):
            theirs = published.number(_PUBLISHED, table.attrs, question, kind)
            if theirs is not None:
                label = f"{published.title(table.attrs)},\n{kind}, all layers, judged"
                line: Any = dict(color="black", ls="-.", lw=1, zorder=0, label=label)
                (more or [first])[0].axhline(theirs, **line)
                note((more or [first])[0], "published", kind, [None], [{"mean": theirs}])
        for axes in more:
            bars(axes, by_judge.query("question == @question"), lens)
        heat = _heat(third, own) or heat
        figures.layer_axis(first)
        figures.layer_axis(second)
        for axes, what in ((first, _RECALLED), (second, _LIKELY)):
            describe(axes, y=what, title=f"{question}, lens {lens}")
    rows[0, 0].set_ylabel(_RECALLED)
    rows[1, 0].set_ylabel(_LIKELY)
    rows[2, 0].set_ylabel("layer")
    if heat:
        figure.colorbar(heat, ax=rows[2], label="positions that name\nwhat is heard, %")
    figures.legend(figure)
    if heard["recall"].isna().to_numpy().all():
        figure.suptitle("No reference captions name a sound event: there is nothing to recall.")
    return figure


def _judged(scores: pd.DataFrame | None) -> Any:
    """A judge's recall, or None without any."""
    table = None if scores is None else judged(scores)
    return None if table is None or table["recall"].dropna().empty else table


def _curves(axes: Axes, table: pd.DataFrame, value: str, note: str, alpha: float = 1.0) -> None:
    """A line for each kind, in the color of what the lens reads; what they rest on as the title."""
    layers: Any = table.query("layer != @ANY_LAYER")
    if layers[value].isna().all():
        return
    bands = mean_band(layers, value, by=["kind", "question", "layer"])
    for kind, _, band in figures.by_panel(bands):
        style = (figures.COLORS["audio"], f"{kind}{note}", figures.place(kind), alpha)
        figures.curve(axes, band, "layer", *style)
    axes.set_title(figures.counted(bands))


def _word_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over a sample's events of the log-probability of the likeliest word for each."""
    words: Any = table[(table["measure"] == "word") & (table["events"].str.len() > 0)]
    keys = [*KEYS, "lens", "layer"]
    best = words.groupby([*keys, "events"], sort=False, as_index=False)["logprob"].max()
    return best.groupby(keys, sort=False, as_index=False)["logprob"].mean()


def _heat(axes: Axes, table: pd.DataFrame) -> Any:
    """How many positions of each second name something that is heard."""
    top: Any = table[(table["measure"] == "top") & (table["heard"].str.len() > 0)]
    top = top.dropna(subset=["second"])
    n = len(top[["sample", "question"]].drop_duplicates())
    axes.set(title=f"n = {n}", xlabel="second of the clip")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    if top.empty:
        return None
    pairs = zip(top["events"], top["heard"], strict=True)
    hits = [0.0 if set(heard).isdisjoint(events) else 100.0 for events, heard in pairs]
    top = top.assign(hit=hits, second=top["second"].astype(int))
    once = ["sample", "question", "layer", "second", "position"]
    named = top.groupby(once, as_index=False)["hit"].max()
    share = named.pivot_table("hit", index="layer", columns="second")
    return axes.pcolormesh(share.columns, share.index, share, cmap="magma", vmin=0, vmax=100)


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
