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
from analyses.plots.statistics import in_words, mean_band, paired_permutation, require_rows

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
_PUBLISHED = "figure6_knockout_qwen2_5_omni_3b"
_ROWS = {
    "right": "{what}, %",
    "word_change": "change in log p of the\nreference words, nats a word",
    "caption_change": "change in log p of the\nbaseline caption, nats a token",
}


def plot(table: pd.DataFrame) -> Figure:
    """Panels A to D and any others, with 95 % bands; measures without a number are left out.

    The first row shows `audio_fidelity` or `video_fidelity` (0 to 1, from a judge), whichever the
    question is about, where the table has such columns; else the share of reference events that
    the caption names. For a model of 36 layers, published points are drawn underneath.
    """
    changes = measured(table)
    groups = sorted(figures.by_panel(changes), key=lambda panel: _PANELS.get(panel[:2], "Z"))
    rows = [row for row in _ROWS if changes[row].notna().any()]
    size = (max(6.4, 4.2 * len(groups)), 0.8 + 2.6 * len(rows))
    figure, every = figures.grid(len(rows), len(groups), size, sharex="col", sharey="row")
    for column, (kind, question, group) in zip(every.T, groups, strict=True):
        letter = _PANELS.get((kind, question), "")
        name = figures.as_written(f"{kind}, {question}")
        column[0].set_title(f"{letter}{': ' * bool(letter)}{name}")
        for axes, row in zip(column, rows, strict=True):
            _panel(axes, group, row)
            if row == "right":
                _underneath(axes, letter, table)
            axes.legend(frameon=False, fontsize="small")
        figures.layer_axis(column[-1], "center of the window, layer")
    for axes, row in zip(every[:, 0], rows, strict=True):
        axes.set_ylabel(_ROWS[row].format(what=_what(table)))
    return figure


def headline(table: pd.DataFrame) -> list[str]:
    """Where a knockout changes most what is named, and how likely the right words are."""
    lines = []
    for kind, question, group in figures.by_panel(measured(table)):
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


def _panel(axes: Axes, group: Any, row: str) -> None:
    cut = group[group["key"] != "none"]
    for key, own in cut.groupby("key", sort=False):
        band = mean_band(own, row, by=_WINDOW)
        figures.curve(axes, band, "center", figures.COLORS.get(str(key), "tab:green"), _arrow(own))
    baseline = mean_band(group[group["key"] == "none"], row, by=["key"])
    axes.axhline(baseline["mean"].iloc[0], color="black", ls="--", lw=1, label="untouched")


def _underneath(axes: Axes, letter: str, table: pd.DataFrame) -> None:
    if set(table["n_layers"]) != {36}:
        return
    points: Any = published.points(_PUBLISHED)
    for arrow, own in points[points["panel"] == letter].groupby("knockout"):
        color = figures.COLORS["audio" if str(arrow).endswith("A") else "video"]
        points_of = own["center_layer"], own["fidelity_percent"]
        label = f"published: {str(arrow).replace('!->', ' !-> ')}"
        axes.scatter(*points_of, color=color, alpha=0.35, zorder=0, label=label)
        axes.axhline(own["baseline_percent"].iloc[0], color="gray", linestyle=":", zorder=0)


def _strongest(cut: Any, baseline: Any, row: str) -> str:
    """A sentence on the window in which the measure differs most from the baseline."""
    untouched = cut.drop(columns=row).merge(
        baseline[[*KEYS, row]], on=[*KEYS], how="left", validate="many_to_one"
    )
    tested = paired_permutation(cut, untouched, row, by=_WINDOW)
    most: Any = tested.loc[tested["difference"].abs().idxmax()]
    what, unit = _MOVED[row]
    if abs(most["difference"]) < 0.005:  # 0.00 in print; rounding may make it other than zero
        return f"{_arrow(cut)} moves {what} in no window: 0.00 {unit}, n = {most['n']}."
    first, last = most["first_layer"], most["last_layer"]
    changed = cut.assign(change=cut[row].to_numpy() - untouched[row].to_numpy())
    here = changed[(changed["first_layer"] == first) & (changed["last_layer"] == last)]
    band: Any = mean_band(here, "change", by=["key"]).iloc[0]
    sign = "+" if band["mean"] > 0 else ""
    where = f"layer {first}" if first == last else f"layers {first} to {last}"
    return (
        f"{_arrow(cut)} moves {what} most in {where}: {sign}{in_words(band, unit, 2)} "
        f"(p = {most['p_corrected']:.2g}, corrected for {len(tested)} windows)."
    )


def _judged(table: pd.DataFrame) -> bool:
    return "audio_fidelity" in table and "video_fidelity" in table


def _what(table: pd.DataFrame) -> str:
    return "fidelity" if _judged(table) else "reference events named"


def _arrow(cut: Any) -> str:
    """The knockout in short: G are generated positions, without the last of the prompt."""
    key, query = str(cut["key"].iloc[0]), str(cut["query"].iloc[0])
    return f"{query.replace('generated', 'G')} !-> {_SHORT.get(key, key)}"
