"""How faithful are the answers to what is heard, and to what is seen?

A judge has scored captions (see `judge/`): audio fidelity and video fidelity, 0 to 1, for clips
with their own sound (factual) and with another clip's (counterfactual). Figure 2 of arXiv
2604.02605; under knockouts, the same scores are the curves of its figure 6.
"""

from typing import Any, cast

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analyses.cases import KEYS
from analyses.plots import figures, published
from analyses.plots.statistics import in_words, mean_band
from hooked_omni.errors import ResultsError

_MODALITIES = ("audio", "video")
_KINDS = ("factual", "counterfactual")


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
        table = table.merge(renamed, on=keys, how="left", validate="one_to_one")
    return table


def plot(scores: pd.DataFrame) -> Figure:
    """A panel for each question, a bar for each kind and modality, with 95 % bands and n.

    The paper's numbers for Qwen2.5-Omni-3B stand as lines across the bars of its question.
    """
    bands: Any = _bands(scores)
    questions = list(dict.fromkeys(bands["question"]))
    figure, panels = figures.panels(len(questions), width=4.4)
    for axes, question in zip(panels, questions, strict=True):
        _panel(axes, bands[bands["question"] == question])
        axes.set_title(f"question: {question}")
    panels[0].set(ylabel=f"fidelity, % (judge: {scores['judge'].iloc[0]})", ylim=(0, 100))
    bars = [Patch(color=figures.COLORS[w], alpha=0.6, label=w) for w in _MODALITIES]
    theirs = Line2D([], [], color="black", ls=":", label="published, audio, Qwen2.5-Omni-3B")
    figure.legend(handles=[*bars, theirs], loc="outside lower center", ncols=3, frameon=False)
    return figure


def _panel(axes: Axes, bands: Any) -> None:
    ticks, kinds = [], list(dict.fromkeys(bands["kind"]))
    for x, kind in enumerate(kinds):
        own = bands[bands["kind"] == kind].to_dict("records")
        for place, band in enumerate(own):
            at, what = x + 0.36 * (place - (len(own) - 1) / 2), band["what"]
            figures.bar(axes, at, band, width=0.34, color=figures.COLORS[what], alpha=0.6)
            if what == "audio" and kind in _KINDS:
                theirs = published.number(f"audio_fidelity_{kind}")
                axes.hlines(theirs, at - 0.17, at + 0.17, color="black", linestyle=":")
        ticks.append(f"{kind}\n{figures.counted(bands[bands['kind'] == kind])}")
    axes.set_xticks(range(len(kinds)), ticks)


def headline(scores: pd.DataFrame) -> list[str]:
    """Fidelity by question and kind, and what was published."""
    lines = [
        f"{band['kind']}, {band['question']}: {band['what']} fidelity is {in_words(band)}."
        for band in _bands(scores).to_dict("records")
    ]
    return [*lines, "Published for Qwen2.5-Omni-3B: audio, 60 % factual and 23 % counterfactual."]


def _bands(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean in percent of each kind, question and point, factual clips first."""
    own = plain(scores)
    if own["score"].dropna().empty:
        raise ResultsError("expected scores of answers, got none. Judge the captions first.")
    percent = own.assign(percent=100 * own["score"])
    bands: Any = mean_band(percent, "percent", by=["kind", "question", "what"])
    last = bands["kind"].map(lambda kind: _KINDS.index(kind) if kind in _KINDS else len(_KINDS))
    bands = bands.loc[last.sort_values(kind="stable").index]
    # What a question is not about is not judged.
    return bands[bands["n"] > 0].reset_index(drop=True)
