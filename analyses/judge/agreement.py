"""Does the judge agree with people, people with each other, and one judge with another?

Spearman's rank correlation, as in the paper (E6: 0.816 for audio, 0.732 for video, two raters, 200
samples), with a bootstrap band over samples; Krippendorff's alpha between raters; and the captions
on which they are furthest apart.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from analyses.judge.sheet import KEYS, identified, read_ratings, require_scores
from hooked_omni.errors import ResultsError

Ranked = Float[np.ndarray, " item"]

_MOST_LISTED = 8


def rated(scores: pd.DataFrame, sheet: Path, filled: Sequence[Path]) -> pd.DataFrame:
    """Ratings of people, each of whom has filled a copy of the empty `sheet`.

    Returns:
        One row per caption of the sheet: the columns of `scores`, `id`, one column `rater NAME` for
        each person, and `people`, their mean.

    Raises:
        ResultsError: For a sheet that is not as it should be, the same person twice, a sheet of
            other scores, and a table that holds no scores.
    """
    require_scores(scores)
    names = [f"rater {path.stem}" for path in filled]
    if not names or len(set(names)) < len(names):
        raise ResultsError(
            f"expected filled sheets with a name for each person, got {[str(p) for p in filled]}."
        )
    ratings = {name: read_ratings(path, sheet) for name, path in zip(names, filled, strict=True)}
    table = identified(scores)
    table = cast(pd.DataFrame, table[table["id"].isin(list(ratings[names[0]]))])
    if len(table) < len(ratings[names[0]]):
        raise ResultsError(
            f"expected the scores that {sheet} was made from, got {len(table)} of its "
            f"{len(ratings[names[0]])} captions. Give that table."
        )
    for name, by_id in ratings.items():
        table[name] = [by_id[one] for one in table["id"]]
    return table.assign(people=table[names].mean(axis=1)).reset_index(drop=True)


def fairness(scores: pd.DataFrame, ratings: Sequence[Path]) -> pd.DataFrame:
    """How far a study's judge agrees with people, over untouched answers, as in the paper.

    `ratings` are filled copies of one sheet of these `scores`, a file for each person. The table is
    as `with_people` has it; `attrs["raters"]` counts people, and `attrs["others"]` rated captions
    that are no untouched answers, and left out.

    Raises:
        ResultsError: For a file that is missing, people who did not rate the same captions, and,
            with row numbers, what is no rating, and captions that are not in the scores.
        FileError: For a file that is no text.
    """
    require_scores(scores)
    if gone := [str(path) for path in ratings if not path.is_file()]:
        raise ResultsError(
            f"expected people's ratings, got no file at {', '.join(gone)}. Make a sheet (`python "
            "-m analyses agreement sheet`), and save there what comes back, a file for each person."
        )
    known = set(identified(scores)["id"])
    copies = {path: read_ratings(path, path) for path in ratings}
    for path, by_id in copies.items():
        others = [f"row {row}, id {one!r}" for row, one in enumerate(by_id, 2) if one not in known]
        if others:
            raise ResultsError(
                f"expected ratings of captions in these scores, got {len(others)} of others in "
                f"{path}: {'; '.join(others[:_MOST_LISTED])}. Give what was rated for this study."
            )
    # Whoever left rows out is measured by who did not.
    sheet = max(copies, key=lambda path: len(copies[path]), default=Path())
    table = rated(scores, sheet, ratings)
    plain = cast(pd.DataFrame, table[table["condition"] == ""])
    if plain.empty:
        raise ResultsError(
            f"expected ratings of untouched answers, got {len(table)} of other captions. Make the "
            "sheet with --only untouched."
        )
    points = with_people(plain)
    points.attrs = {"raters": len(ratings), "others": len(table) - len(plain)}
    return points


def joined(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Scores of two judges of the same captions: `score` and `other`.

    A caption that one of the tables lacks has no score of that judge: it counts as missing, and
    `table.attrs["alone"]` tells how many are in the first table only, and in the second only.
    """
    require_scores(first)
    require_scores(second)
    keys = [*KEYS, "text"]
    others = second.assign(other=second["score"])[[*keys, "other"]]
    table = first.merge(others, on=keys, how="outer", sort=False, indicator="found")
    found = table.pop("found").tolist()
    if "both" not in found:
        raise ResultsError(
            f"expected two judges of the same captions, got {len(first)} and {len(second)} scores "
            "with none in common."
        )
    table.attrs["alone"] = [found.count("left_only"), found.count("right_only")]
    return table


def with_people(
    table: pd.DataFrame, other: str = "people", n_resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Spearman's rho between `score` and another column, for each point.

    Returns:
        One row per point (`what`), with `mean` (rho; NaN if one side does not vary), `low` and
        `high` (95 %, samples drawn with replacement), `n` (captions with both numbers) and
        `missing` (captions without one of them).
    """
    rows = []
    for what, part in cast(Any, table.groupby("what", sort=True)):
        both = part.dropna(subset=["score", other])
        pair = both["score"].to_numpy(float), both[other].to_numpy(float)
        samples = pd.factorize(both["sample"])[0]
        low, high = _band(*pair, samples, n_resamples, seed)
        counts = dict(n=len(both), missing=len(part) - len(both))
        rows.append(dict(what=what, mean=spearman(*pair), low=low, high=high, **counts))
    return pd.DataFrame(rows)


def between_raters(table: pd.DataFrame) -> pd.DataFrame:
    """How far people agree, for each point.

    Returns:
        One row per point, with `rho` (mean of Spearman's over pairs of people), `alpha`
        (Krippendorff's, interval: 1 is perfect), `difference` (mean absolute difference of two
        people) and `raters`.
    """
    names = [str(name) for name in table.columns if str(name).startswith("rater ")]
    rows = []
    for what, part in cast(Any, table.groupby("what", sort=True)):
        ratings = part[names].to_numpy(float)
        pairs = [(ratings[:, i], ratings[:, j]) for i, j in combinations(range(len(names)), 2)]
        rho = _mean([spearman(a, b) for a, b in pairs])
        apart = _mean([float(np.abs(a - b).mean()) for a, b in pairs])
        own = dict(rho=rho, alpha=_alpha(ratings), difference=apart, raters=len(names))
        rows.append(dict(what=what, **own))
    return pd.DataFrame(rows)


def worst(table: pd.DataFrame, other: str = "people", n: int = 10) -> pd.DataFrame:
    """Captions on which score and `other` are furthest apart; `difference` is score - other."""
    apart = table.assign(difference=table["score"] - table[other]).dropna(subset=["difference"])
    order = np.argsort(-apart["difference"].abs().to_numpy(float), kind="stable")
    columns = [*KEYS, "score", other, "difference", "text", "references", "reason"]
    return cast(pd.DataFrame, apart[columns].iloc[order[:n]].reset_index(drop=True))


def spearman(first: Ranked, second: Ranked) -> float:
    """Rank correlation, ties at their mean rank; NaN for fewer than three, or if one is constant.

    Example:
        >>> spearman(np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.3, 0.4]))
        1.0
    """
    ranks = rankdata(first), rankdata(second)
    if len(first) < 3 or any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return round(float(np.corrcoef(*ranks)[0, 1]), 12)


def _band(
    first: Ranked, second: Ranked, samples: np.ndarray, n_resamples: int, seed: int
) -> tuple[float, float]:
    """Percentiles of Spearman's rho when whole samples are drawn with replacement."""
    n = int(samples.max(initial=-1)) + 1
    if n < 3:
        return np.nan, np.nan
    order = np.argsort(samples, kind="stable")
    places = np.split(order, np.cumsum(np.bincount(samples))[:-1])
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, n, n) for _ in range(n_resamples))
    chosen = (np.concatenate([places[i] for i in draw]) for draw in drawn)
    values = np.array([spearman(first[at], second[at]) for at in chosen])
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) else [np.nan, np.nan]
    return low, high


def _alpha(ratings: Float[np.ndarray, "item rater"]) -> float:
    """Krippendorff's alpha for intervals, of ratings without gaps."""
    n_raters = ratings.shape[1]
    if n_raters < 2 or ratings.size < 4:
        return float("nan")
    # Mean squared difference of two ratings: within an item, and of any two.
    within = float(ratings.var(axis=1, ddof=1).mean())
    anywhere = float(ratings.var(ddof=1))
    return 1 - within / anywhere if anywhere > 0 else float("nan")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
