"""How often is the right option chosen, how surely, and which way does a model lean?

Every number is of whole clips: questions about one clip are averaged first, and clips are drawn for
bands. A question whose right answer nobody says, or with two options equally likely, is missing.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from analyses.cases import KEYS
from analyses.configs import PLAIN
from analyses.plots.statistics import contrast, mean_band
from analyses.text.choices import HEARD_OR_SEEN
from data_prep.questions import YES_NO

_BINS = 10  # of confidence, as in Guo et al., arXiv 1706.04599
_CASE = [*KEYS, "task", "sub_task", "condition"]


def answers(table: pd.DataFrame) -> Any:
    """One row per case and condition.

    * `said`: the chosen option, missing for none; `label`: the right one; `correct`: 0 or 1.
    * `confidence`: `p` of the likeliest option; `n_options`.
    * `odds`: value of the right option, less that of the likeliest other, in nats.
    """
    rows, groups = [], table.groupby(_CASE, sort=False, dropna=False)
    for key, own in cast(Any, groups):
        right, value = own["right"].fillna(False).to_numpy(bool), own["value"].to_numpy(float)
        said = own.loc[own["chosen"].to_numpy(bool), "option"]
        label = own.loc[right, "option"]
        known, one = len(label) == 1, len(said) == 1
        correct = float(said.iloc[0] == label.iloc[0]) if known and one else np.nan
        rows.append(
            dict(zip(_CASE, key, strict=True))
            | dict(
                said=said.iloc[0] if one else None,
                label=label.iloc[0] if known else None,
                correct=correct,
                confidence=own["p"].max(),
                n_options=len(own),
                odds=value[right].max() - value[~right].max() if known else np.nan,
                options=frozenset(own["option"]),
            )
        )
    found = pd.DataFrame(rows)
    found.attrs = table.attrs
    return found


def by_clip(found: Any, value: str) -> Any:
    """Mean of a column over each clip's questions of a task, by condition."""
    keys = ["sample", "kind", "task", "condition"]
    clips = found.groupby(keys, sort=False, as_index=False).agg(**{value: (value, "mean")})
    clips.attrs = found.attrs
    return clips


def accuracy(found: Any) -> pd.DataFrame:
    """Share of right answers by kind, task and condition, with bands as `mean_band`.

    `chance` is that of guessing the same questions, `n_questions` how many they are; `n_unlabelled`
    have no right answer that anybody says, `n_tied` two options equally likely. `error` is the
    expected calibration error, 0 to 1: how far confidence is from accuracy, mean over ten bins.
    """
    bands = []
    for task, own in found.groupby("task", sort=False):
        clips = by_clip(own, "correct")
        band = mean_band(clips, "correct", by=["kind", "condition"])
        for _, point in band.iterrows():
            rows = own[(own["kind"] == point["kind"]) & (own["condition"] == point["condition"])]
            known = rows.dropna(subset=["correct"])
            guessed = (1 / known["n_options"]).groupby(known["sample"]).mean().mean()
            more = dict(task=task, chance=float(guessed), error=calibration_error(rows))
            unknown, tied = rows["label"].isna(), rows["said"].isna()
            more |= dict(n_unlabelled=int(unknown.sum()), n_tied=int((tied & ~unknown).sum()))
            bands.append(dict(point) | more | dict(n_questions=len(known)))
    return pd.DataFrame(bands)


def calibration_error(found: Any) -> float:
    """Expected calibration error of these answers; NaN without any that can be right or wrong."""
    known = found.dropna(subset=["correct"])
    if known.empty:
        return float("nan")
    bins = np.minimum((known["confidence"].to_numpy() * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(known["correct"].to_numpy()[bins == b].mean() - known["confidence"][bins == b].mean())
        * (bins == b).sum()
        for b in np.unique(bins)
    ]
    return float(sum(gaps) / len(known))


def yes_no(found: Any) -> pd.DataFrame:
    """Of questions answered Yes or No: F1 of Yes, and how often Yes is said, with bands over clips.

    One row per kind, task, condition and `measure`, "F1" or "yes"; F1 is missing without any Yes.
    """
    answered = found[found["options"].map(lambda own: own == frozenset(YES_NO))]
    answered = answered.dropna(subset=["correct"])
    says, is_yes = answered["said"] == YES_NO[0], answered["label"] == YES_NO[0]
    counts = answered.assign(
        hit=1.0 * (says & is_yes), wrong=1.0 * (says != is_yes), yes=1.0 * says
    )
    rows, keys = [], ["kind", "task", "condition"]
    twins = found.attrs.get("twins", {})
    for key, own in counts.groupby(keys, sort=False):
        clips = own.groupby("sample")[["hit", "wrong", "yes"]].sum()
        n_asked = own.groupby("sample").size()
        parts = [clips[name] for name in ("hit", "wrong")]
        measures = {
            "F1": contrast(parts, lambda hit, wrong: _ratio(2 * hit, 2 * hit + wrong), twins),
            "yes": contrast([clips["yes"], n_asked], _ratio, twins),
        }
        for name, point in measures.items():
            rows.append(dict(zip(keys, key, strict=True)) | point | dict(measure=name))
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n", "missing", "measure"])


def _ratio(part: Any, whole: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(part, whole)


def mcnemar(found: Any, condition: str, plain: str) -> dict[str, Any]:
    """Exact McNemar test: does a condition change how many answers are right?

    Returns:
        `lost`: right in `plain` alone; `gained`: right under the condition alone; `p`, two-sided;
        `n`, questions with an answer under both. Questions about one clip count each for itself.
    """
    right = found.pivot_table("correct", [*KEYS], "condition", dropna=False)
    pairs = right[[plain, condition]].dropna()
    lost = int(((pairs[plain] == 1) & (pairs[condition] == 0)).sum())
    gained = int(((pairs[plain] == 0) & (pairs[condition] == 1)).sum())
    p = float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
    return dict(lost=lost, gained=gained, p=p, n=len(pairs))


def heard_minus_seen(found: Any) -> Any:
    """Log-odds of what is heard against what is seen: one row per sample, question and condition.

    * `odds`: in nats, mean over both orders of a question; below 0, the picture's is preferred.
    * `order_effect`: odds when the heard one is named first, less odds when the seen one is;
      missing for a question with one order.
    """
    rows: Any = found[found["task"] == HEARD_OR_SEEN]
    keys = ["sample", "kind", "question", "condition"]
    if rows.empty:
        return pd.DataFrame(columns=[*keys, "odds", "order_effect"])
    rows = rows.assign(question=rows["question"].str.partition(".")[0])
    sides = rows.pivot_table("odds", keys, "sub_task", sort=False)
    both: Sequence[str] = ("heard first", "seen first")
    known = sides.reindex(columns=[*both])
    odds = sides.mean(axis=1)
    effect = known[both[0]] - known[both[1]]
    result = pd.DataFrame({"odds": odds, "order_effect": effect}).reset_index()
    result.attrs = found.attrs
    return result


def odds_bands(odds: Any) -> pd.DataFrame:
    """Means of `odds` by kind, question and condition, with bands as `mean_band`.

    `measure` is "heard minus seen" or, of a question with two orders, "order effect".
    """
    orders = odds.dropna(subset=["order_effect"])
    orders = orders.assign(odds=orders["order_effect"], measure="order effect")
    every = pd.concat([odds.assign(measure="heard minus seen"), orders])
    every.attrs = odds.attrs
    by = ["kind", "question", "measure", "condition"]
    return mean_band(every, "odds", by=by) if len(every) else pd.DataFrame(columns=by)


def beside_fidelity(odds: Any, scores: pd.DataFrame | None) -> Any:
    """The plain model's `odds` of each clip with the `score` of what it says it hears.

    `scores` are a judge's, of audio in answers to "hear"; no rows without any.
    """
    plain = odds[odds["condition"] == PLAIN]
    if scores is None or scores.empty:
        return plain.assign(score=np.nan, what="audio").iloc[:0]
    own: Any = scores[(scores["what"] == "audio") & (scores["condition"] == "")]
    own = own[own["question"] == "hear"][["sample", "kind", "what", "score"]]
    return own.merge(plain, on=["sample", "kind"])
