"""How faithful are the answers to what is heard, and to what is seen?

A judge has scored captions (see `judge/`): audio fidelity and video fidelity, 0 to 1, for clips
with their own sound (factual) and with another clip's (counterfactual). Figure 2 of arXiv
2604.02605; under knockouts, the same scores are the curves of its figure 6.
"""

from collections.abc import Mapping
from typing import Any, cast

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.cases import KEYS
from analyses.plots import figures, published
from analyses.plots.numbers import note
from analyses.plots.statistics import in_words, mean_band, pooled
from hooked_omni.errors import ResultsError

_MODALITIES = ("audio", "video")


def plain(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of the untouched answers alone."""
    fits = scores["what"].isin(_MODALITIES) & (scores["condition"] == "")
    return cast(pd.DataFrame, scores[fits])


def joined(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """A table of captions, with `condition`, and their `audio_fidelity` and `video_fidelity`."""
    keys = [*KEYS, "condition"]
    for what in _MODALITIES:
        own: Any = scores[scores["what"] == what]
        renamed = own[[*keys, "score"]].rename(columns={"score": f"{what}_fidelity"})
        if renamed.duplicated(keys).any() or table.duplicated(keys).any():
            raise ResultsError(
                f"expected one answer and one score of {what} for each sample, question and "
                "condition, got several. Choose rows of one judge."
            )
        merged = table.merge(renamed, on=keys, how="left")
        merged.attrs, table = table.attrs, merged
    table.attrs |= {name: scores.attrs[name] for name in ("judge",) if name in scores.attrs}
    return table


def plot(scores: pd.DataFrame) -> Figure:
    """A panel for each question, a bar for each kind and modality, with 95 % bands and n.

    The paper's numbers for this model and question stand as lines across the bars.
    """
    bands: Any = _bands(scores)
    questions = sorted(dict.fromkeys(bands["question"]), key=figures.place)
    ylabel = f"fidelity, %\n(judge: {scores['judge'].iloc[0]})"
    figure, panels = figures.panels(len(questions), ylabel)
    for axes, question in zip(panels, questions, strict=True):
        _panel(axes, bands[bands["question"] == question], scores.attrs)
        axes.set_title(f"question: {question}")
    panels[0].set_ylim(0, 100)
    figures.legend(figure)
    return figure


def _panel(axes: Axes, bands: Any, of: Mapping[Any, Any]) -> None:
    ticks, kinds = [], list(dict.fromkeys(bands["kind"]))
    for x, kind in enumerate(kinds):
        own = bands[bands["kind"] == kind].to_dict("records")
        for place, band in enumerate(own):
            at, what = x + 0.36 * (place - (len(own) - 1) / 2), band["what"]
            style = dict(width=0.34, color=figures.COLORS[what], alpha=0.6, label=what)
            figures.bar(axes, at, band, **style)
            theirs = published.number(f"{what}_fidelity", of, band["question"], kind)
            if theirs is not None:
                line: Any = dict(color="black", linestyle=":", label=published.title(of))
                axes.hlines(theirs, at - 0.17, at + 0.17, **line)
                note(axes, "published", what, [at], [{"mean": theirs}])
        ticks.append(figures.tick(kind, bands[bands["kind"] == kind]))
    axes.set_xticks(range(len(kinds)), ticks)


def headline(scores: pd.DataFrame) -> list[str]:
    """Fidelity by question and kind, and what was published of it."""
    lines = []
    for band in _bands(scores).to_dict("records"):
        kind, question, what = band["kind"], band["question"], band["what"]
        theirs = published.number(f"{what}_fidelity", scores.attrs, question, kind)
        note = "" if theirs is None else f" ({published.title(scores.attrs)}: {theirs} %)"
        lines.append(f"{kind}, {question}: {what} fidelity is {in_words(band)}{note}.")
    return lines


def _bands(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean in percent of each kind, question and point, factual clips first."""
    own = plain(scores)
    if own["score"].dropna().empty:
        raise ResultsError("expected scores of answers, got none. Judge the captions first.")
    percent = pooled(own.assign(percent=100 * own["score"]))
    bands: Any = mean_band(percent, "percent", by=["kind", "question", "what"])
    bands = bands.sort_values("kind", key=lambda kinds: kinds.map(figures.place), kind="stable")
    # What a question is not about is not judged.
    return bands[bands["n"] > 0].reset_index(drop=True)
