"""How much of what sounds does a language model find among the tokens, and by chance?

It judged the top tokens of all positions, of all layers or of some, the same tokens by what sounds
in another clip, which is chance, and the answer itself.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analyses.cases import KEYS
from analyses.plots import figures
from analyses.plots.statistics import in_words, mean_band, pooled

ANSWER = "answer"
"""The condition under which recall is of the answer itself."""

_OTHERS = ", other clips"


def condition(lens: str, first: int, last: int) -> str:
    """The condition of the tokens of some layers; that of all of them is the lens alone."""
    return f"{lens}, layers {first}-{last}"


def of_other_clips(condition: str) -> str:
    """The condition of the same tokens with another clip's references, which is chance."""
    return f"{condition}{_OTHERS}"


def judged(scores: pd.DataFrame) -> pd.DataFrame:
    """A judge's recall: a row per sample and `condition`.

    Returns:
        `sample`, `kind`, `question`, `condition`, and in percent `recall` and `chance`; NaN where
        it is missing, and for chance of the answer. No rows without a judge that gave any.
    """
    own: Any = scores[scores["what"] == "recall"]
    by_chance = own["condition"].str.endswith(_OTHERS).map({True: "chance", False: "recall"})
    named = own["condition"].str.removesuffix(_OTHERS)
    own = own.assign(percent=100 * own["score"], condition=named, of=by_chance)
    table = own.set_index([*KEYS, "condition", "of"])["percent"].unstack("of", sort=False)
    table = table.reindex(columns=["recall", "chance"]).reset_index()
    table.attrs = scores.attrs
    return table


def bars(axes: Axes, table: pd.DataFrame, lens: str) -> None:
    """Recall in all layers, in each group of them and in the answer; dotted: by chance."""
    fits: Any = table["condition"].str.partition(", ")[0].isin((lens, ANSWER))
    own: Any = pooled(table.loc[fits])
    ticks = list(dict.fromkeys(own["condition"]))
    groups = figures.by_panel(own)
    width = 0.8 / len(groups)
    for i, (kind, _, rows) in enumerate(groups):
        read: Any = mean_band(rows, "recall", by=["condition"])
        chance = mean_band(rows, "chance", by=["condition"])["mean"]
        label = f"{kind}, judged"
        for point, others in zip(read.to_dict("records"), chance, strict=True):
            at = ticks.index(point["condition"]) + width * (i - (len(groups) - 1) / 2)
            style = dict(color=figures.COLORS["audio"], alpha=0.9 / (1 + i), label=label)
            figures.bar(axes, at, point, width=width, **style)
            axes.hlines(others, at - width / 2, at + width / 2, color="black", linestyle=":")
    axes.set_xticks(range(len(ticks)), [tick.replace(", ", "\n") for tick in ticks])
    axes.set(ylabel="sounds recalled, %", ylim=(0, 100), title="dotted: other clips' sounds")


def sentences(table: pd.DataFrame) -> list[str]:
    """Recall by kind, question and condition, with chance."""
    lines = []
    for kind, question, rows in figures.by_panel(pooled(table)):
        read: Any = mean_band(rows, "recall", by=["condition"]).to_dict("records")
        chance: Any = mean_band(rows, "chance", by=["condition"]).to_dict("records")
        for point, others in zip(read, chance, strict=True):
            found = f"{kind}, {question}, {point['condition']}: {in_words(point)} of the sounds"
            note = f" (other clips' sounds: {in_words(others)})" if others["n"] else ""
            lines.append(f"{found}, as judged{note}.")
    return lines
