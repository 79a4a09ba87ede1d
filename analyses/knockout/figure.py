"""What does a knockout sweep look like, next to the published one?

Figure 6 of arXiv 2604.02605: a panel for each kind of clip and question, a line for each modality
that is not read, the untouched baseline dashed. The log-probabilities below it need no judge.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.cases import KEYS
from analyses.plots import figures, published
from analyses.plots.curves import paired_permutation, simultaneous_bands
from analyses.plots.numbers import describe, note
from analyses.plots.statistics import in_words, mean_band, pooled, require_rows

_PANELS = {
    ("factual", "see"): "A",
    ("factual", "hear"): "B",
    ("counterfactual", "see"): "C",
    ("counterfactual", "hear"): "D",
}
_SHORT = {"audio": "A", "video": "V"}
_WINDOW = ["key", "first_layer", "last_layer", "center"]
_MOVED = {
    "right": ("what is named", "points"),
    "word_change": ("the log-probability of reference words", "nats a word"),
    "caption_change": ("the log-probability of the untouched caption", "nats a token"),
}
"""What each measure is, and its unit, in sentences."""
_PUBLISHED = "figure6_knockout"
_CENTER = "center of the window, layer"
_COLUMNS = {
    "right": "{what}, %",
    "word_change": "log p of reference\nwords, change,\nnats a word",
    "caption_change": "log p of baseline\ncaption, change,\nnats a token",
}


def plot(table: pd.DataFrame) -> Figure:
    """Panels A to D and any others, with 95 % bands; measures without a number are left out.

    A row for each kind and question, and for all kinds together; a column for each measure. The
    first shows `audio_fidelity` or `video_fidelity` (0 to 1, from a judge), whichever the question
    is about, where the table has such columns; else the share of reference events that the caption
    names. The paper's points for this model are drawn underneath.
    """
    changes: Any = pooled(measured(table))
    groups = figures.by_panel(changes)
    columns = [column for column in _COLUMNS if changes[column].notna().any()]
    size = (figures.WIDTH, 1.3 + 1.4 * len(groups))
    figure, every = figures.grid(len(groups), len(columns), size, sharex=True, sharey="col")
    for row, (kind, question, group) in zip(every, groups, strict=True):
        letter = _PANELS.get((kind, question), "")
        name = figures.as_written(kind)
        row[0].set_ylabel(f"{letter}{': ' * bool(letter)}{name},\n{question}")
        for axes, column in zip(row, columns, strict=True):
            draw_panel(axes, group, column)
            place, measure = (
                f"{letter}{': ' * bool(letter)}{kind}, {question}",
                _measure(table, column),
            )
            describe(axes, title=f"{place}: {axes.get_title()}", x=_CENTER, y=measure)
            if column == "right" and _judged(table):
                points = published.points(_PUBLISHED, table.attrs, question, kind)
                underneath(axes, points, published.title(table.attrs))
    for axes, column in zip(every[0], columns, strict=True):
        axes.set_title(f"{_measure(table, column)}\n{axes.get_title()}", fontsize="medium")
        figures.layer_axis(axes, "")
    every[-1, len(columns) // 2].set_xlabel(_CENTER)
    figures.legend(figure)
    return figure


def headline(table: pd.DataFrame) -> list[str]:
    """Where a knockout changes most what is named, and how likely the right words are."""
    lines = []
    for kind, question, group in figures.by_panel(pooled(measured(table))):
        where, baseline = f"{kind}, {question}", group[group["key"] == "none"]
        if group["right"].notna().any():
            start = mean_band(baseline, "right", by=["key"]).iloc[0]
            lines.append(f"{where}: untouched, {_what(table)}: {in_words(start)}.")
        for _, cut in group[group["key"] != "none"].groupby("key", sort=False):
            known = [row for row in _MOVED if cut[row].notna().any()]
            lines += [f"{where}: {_strongest(cut, baseline, row)}" for row in known]
    return lines


def measured(table: pd.DataFrame) -> Any:
    """The table with what the panels show.

    Returns:
        It, and the columns `right` (percent: what the question is about, by the judge or by words),
        `word_change` (nats a word: log-probability of the words for what the question is about,
        minus the baseline's) and `caption_change` (nats a token: of the baseline caption).
    """
    require_rows(table)
    sees = table["question"] == "see"
    judged = ("video_fidelity", "audio_fidelity")
    seen, heard = judged if _judged(table) else ("seen_found", "heard_found")
    made = table.assign(
        right=100 * table[heard].where(~sees, table[seen]).astype(float),
        words=table["heard_logprob"].where(~sees, table["seen_logprob"]).astype(float),
        per_token=table["caption_logprob"] / table["n_scored"],
    )
    baseline = made[made["key"] == "none"].set_index([*KEYS])[["words", "per_token"]]
    before = made[[*KEYS]].join(baseline, on=[*KEYS])
    return made.assign(
        word_change=made["words"] - before["words"],
        caption_change=made["per_token"] - before["per_token"],
    ).drop(columns=["words", "per_token"])


def draw_panel(axes: Axes, group: Any, measure: str) -> None:
    """A line for each key, the baseline with its band; what they rest on as the title."""
    baseline = mean_band(group[group["key"] == "none"], measure, by=["key"])
    level = baseline.iloc[0]
    if measure == "right":  # a point of percent at least, where nothing moves
        axes.update_datalim([(0, level["mean"] - 0.5), (0, level["mean"] + 0.5)], updatex=False)
    axes.axhspan(level["low"], level["high"], color="black", alpha=0.1, linewidth=0)
    axes.axhline(level["mean"], color="black", ls=":", zorder=3, label="untouched")
    note(axes, "level", "untouched", [0], [dict(level)])
    bands = [baseline]
    for i, (key, own) in enumerate(group[group["key"] != "none"].groupby("key", sort=False)):
        bands.append(mean_band(own, measure, by=_WINDOW))
        color = figures.COLORS.get(str(key).partition("@")[0], figures.COLORS["other"])
        figures.curve(axes, bands[-1], "center", color, _arrow(own), i)
    axes.set_title(figures.counted(pd.concat(bands)), fontsize="medium")


def underneath(axes: Axes, points: pd.DataFrame, title: str) -> None:
    """The paper's points for one panel, if it has any, and its baseline."""
    for arrow, own in points.groupby("knockout"):
        color = figures.COLORS["audio" if str(arrow).endswith("A") else "video"]
        points_of = own["center_layer"], own["fidelity_percent"]
        label = f"{title}: {str(arrow).replace('!->', ' !-> ')}"
        axes.scatter(*points_of, color=color, marker="x", s=14, zorder=0, label=label)
        theirs, name = [{"mean": y} for y in points_of[1]], str(arrow).replace("!->", " !-> ")
        note(axes, "published", name, points_of[0], theirs)
        level, label = own["baseline_percent"].iloc[0], f"{title}: untouched"
        axes.axhline(level, color="black", ls="-.", lw=0.6, zorder=0, label=label)


def changes(cut: pd.DataFrame, baseline: pd.DataFrame, measure: str) -> Any:
    """By window, how far a measure is from the baseline's, with bands for all windows at once.

    Args:
        cut: The rows of one panel and key.
        baseline: The panel's rows without a knockout.
        measure: A column of both.

    Returns:
        As `simultaneous_bands`, with `before` and `after`, means over the samples that have both.
        Windows without any are left out; a `ResultsError` if none is left.
    """
    both, untouched = _curves(cut, baseline, measure)
    known = both.assign(before=untouched[measure]).dropna(subset=[measure, "before"])
    means = known.groupby(_WINDOW, as_index=False).agg(
        before=("before", "mean"), after=(measure, "mean")
    )
    return simultaneous_bands(both, untouched, measure, by=_WINDOW).merge(means, on=_WINDOW)


def _curves(cut: Any, baseline: Any, measure: str) -> tuple[Any, Any]:
    """The measure in each window, and the same rows with the baseline's in its place."""
    untouched = cut.drop(columns=measure).merge(
        baseline[[*KEYS, measure]], on=[*KEYS], how="left", validate="many_to_one"
    )
    return cut.reset_index(drop=True), untouched


def _strongest(cut: Any, baseline: Any, row: str) -> str:
    """A sentence on the window in which the measure differs most from the baseline."""
    bands = changes(cut, baseline, row)
    most: Any = bands.loc[bands["mean"].abs().idxmax()]
    tested = paired_permutation(*_curves(cut, baseline, row), row, by=_WINDOW)
    p = tested.merge(most[_WINDOW].to_frame().T)["p_corrected"].iloc[0]
    what, unit = _MOVED[row]
    if abs(most["mean"]) < 0.005:  # 0.00 in print; rounding may make it other than zero
        return f"{_arrow(cut)} moves {what} in no window: 0.00 {unit}, n = {most['n']}."
    first, last = most["first_layer"], most["last_layer"]
    sign = "+" if most["mean"] > 0 else ""
    where = f"layer {first}" if first == last else f"layers {first} to {last}"
    return (
        f"{_arrow(cut)} moves {what} most in {where}: {sign}{in_words(most, unit, 2)} "
        f"(band and p = {p:.2g} for all {len(bands)} windows at once)."
    )


def _judged(table: pd.DataFrame) -> bool:
    return "audio_fidelity" in table and "video_fidelity" in table


def _what(table: pd.DataFrame) -> str:
    return "fidelity" if _judged(table) else "reference events named"


def _measure(table: pd.DataFrame, column: str) -> str:
    return _COLUMNS[column].format(what=_what(table))


def _arrow(cut: Any) -> str:
    """The knockout in short: G are generated positions, without the last of the prompt."""
    key, query = str(cut["key"].iloc[0]), str(cut["query"].iloc[0])
    return f"{query.replace('generated', 'G')} !-> {_SHORT.get(key, key)}"
