"""What does a knockout sweep look like, next to the published one?

Figure 6 of arXiv 2604.02605: a panel for each kind of clip and question, a line for each modality
that is not read, the untouched baseline dashed. Below it, the log-probabilities, which need no
caption to be judged.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.cases import KEYS
from analyses.plots import figures
from analyses.plots.published import published
from analyses.plots.statistics import in_words, mean_band, paired_permutation
from hooked_omni.errors import ResultsError

__all__ = ["headline", "measured", "plot"]

_PANELS = {
    ("factual", "see"): "A",
    ("factual", "hear"): "B",
    ("counterfactual", "see"): "C",
    ("counterfactual", "hear"): "D",
}
_COLORS = {"audio": "tab:orange", "video": "tab:blue"}
_SHORT = {"audio": "A", "video": "V"}
_WINDOW = ["key", "first_layer", "last_layer", "center"]
_MOVED = {
    "right": "what is named",
    "word_change": "the log-probability of reference words",
    "caption_change": "the log-probability of the untouched caption",
}
_PUBLISHED = "figure6_knockout_qwen2_5_omni_3b"
_ROWS = {
    "right": "{what}, %",
    "word_change": "change in log p of the\nreference words, nats a word",
    "caption_change": "change in log p of the\nbaseline caption, nats a token",
}


def plot(table: pd.DataFrame) -> Figure:
    """Panels A to D and any others, with 95 % bands; rows that nothing is known of are left out.

    The first row shows `audio_fidelity` or `video_fidelity` (0 to 1, from a judge), whichever is
    asked for, where the table has such columns; else the share of reference events that the
    caption names. For a model of 36 layers, published points are drawn underneath.

    Raises:
        ResultsError: For a table without rows.
    """
    shown = measured(table)
    groups = sorted(
        shown.groupby(["kind", "question"], sort=False),
        key=lambda group: _PANELS.get(_pair(group[0]), "Z"),
    )
    rows = [row for row in _ROWS if shown[row].notna().any()]
    size = (max(6.4, 4.2 * len(groups)), 0.8 + 2.6 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    every = figure.subplots(len(rows), len(groups), squeeze=False, sharex="col", sharey="row")
    for column, (keys, group) in enumerate(groups):
        pair = _pair(keys)
        letter = f"{_PANELS[pair]}: " if pair in _PANELS else ""
        every[0, column].set_title(f"{letter}{', '.join(pair)}")
        for axes, row in zip(every[:, column], rows, strict=True):
            _panel(axes, group, row)
            if row == "right":
                _underneath(axes, pair, table)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize="small")
        figures.layers_below(every[-1, column], "center of the window, layer")
    for axes, row in zip(every[:, 0], rows, strict=True):
        axes.set_ylabel(_ROWS[row].format(what=_what(table)))
    return figure


def headline(table: pd.DataFrame) -> list[str]:
    """Where a knockout changes most what is named, and how likely the right words are.

    Raises:
        ResultsError: For a table without rows.
    """
    said, shown = [], measured(table)
    for keys, group in shown.groupby(["kind", "question"], sort=False):
        where, baseline = ", ".join(_pair(keys)), group[group["key"] == "none"]
        if group["right"].notna().any():
            start = mean_band(baseline, "right", by=["key"]).iloc[0]
            said.append(f"{where}: untouched, {_what(table)}: {in_words(start)}.")
        for _, cut in group[group["key"] != "none"].groupby("key", sort=False):
            for row, unit in (
                ("right", "points"),
                ("word_change", "nats a word"),
                ("caption_change", "nats a token"),
            ):
                if cut[row].notna().any():
                    said.append(f"{where}: {_strongest(cut, baseline, row, unit)}")
    return said


def measured(table: pd.DataFrame) -> Any:
    """The table with what the panels show.

    Returns:
        It, and the columns `right` (percent: what the question asks for, by the judge or by words),
        `word_change` (nats a word: log-probability of the words for what is asked for, minus the
        baseline's) and `caption_change` (nats a token, likewise for the baseline caption).

    Raises:
        ResultsError: For a table without rows.
    """
    if table.empty:
        raise ResultsError("expected rows, got none. Look at `table.attrs['skipped']`.")
    sees = table["question"] == "see"
    judged = "audio_fidelity" in table and "video_fidelity" in table
    seen, heard = ("video_fidelity", "audio_fidelity") if judged else ("seen_found", "heard_found")
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
        figures.draw(axes, band, "center", _COLORS.get(str(key), "tab:green"), _arrow(own))
    baseline = mean_band(group[group["key"] == "none"], row, by=["key"])
    axes.axhline(baseline["mean"].iloc[0], color="black", ls="--", lw=1, label="untouched")


def _underneath(axes: Axes, pair: tuple[str, str], table: pd.DataFrame) -> None:
    if set(table["n_layers"]) != {36} or pair not in _PANELS:
        return
    points: Any = published(_PUBLISHED)
    for arrow, own in points[points["panel"] == _PANELS[pair]].groupby("knockout"):
        color = _COLORS["audio" if str(arrow).endswith("A") else "video"]
        axes.scatter(
            own["centre_layer"],
            own["fidelity_percent"],
            color=color,
            alpha=0.35,
            zorder=0,
            label=f"published: {str(arrow).replace('!->', ' !-> ')}",
        )
        axes.axhline(own["baseline_percent"].iloc[0], color="gray", linestyle=":", zorder=0)


def _strongest(cut: Any, baseline: Any, row: str, unit: str) -> str:
    """A sentence on the window in which the measure differs most from the baseline."""
    untouched = cut.drop(columns=row).merge(
        baseline[[*KEYS, row]], on=[*KEYS], how="left", validate="many_to_one"
    )
    tested = paired_permutation(cut, untouched, row, by=_WINDOW)
    most: Any = tested.loc[tested["difference"].abs().idxmax()]
    if abs(most["difference"]) < 0.005:  # 0.00 as shown; rounding may make it other than zero
        return f"{_arrow(cut)} moves {_MOVED[row]} in no window: 0.00 {unit}, n = {most['n']}."
    first, last = most["first_layer"], most["last_layer"]
    changed = cut.assign(change=cut[row].to_numpy() - untouched[row].to_numpy())
    here = changed[(changed["first_layer"] == first) & (changed["last_layer"] == last)]
    band: Any = mean_band(here, "change", by=["key"]).iloc[0]
    sign = "+" if band["mean"] > 0 else ""
    where = f"layer {first}" if first == last else f"layers {first} to {last}"
    return (
        f"{_arrow(cut)} moves {_MOVED[row]} most in {where}: {sign}{in_words(band, unit, 2)} "
        f"(p = {most['p_corrected']:.2g}, corrected for {len(tested)} windows)."
    )


def _what(table: pd.DataFrame) -> str:
    judged = "audio_fidelity" in table and "video_fidelity" in table
    return "fidelity" if judged else "reference events named"


def _arrow(cut: Any) -> str:
    """Who does not read what: G are generated positions, without the last of the prompt."""
    key, query = str(cut["key"].iloc[0]), str(cut["query"].iloc[0])
    return f"{query.replace('generated', 'G')} !-> {_SHORT.get(key, key)}"


def _pair(keys: Any) -> tuple[str, str]:
    kind, question = keys
    return str(kind), str(question)
