"""Do two curves differ, and by how much at least?

Every test and band resamples whole samples, the same ones at every point, and is corrected for
looking at many points.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.plots.statistics import (
    N_RESAMPLES,
    Pairs,
    Values,
    by_sample,
    mean_of,
    resampled,
    summed,
)
from hooked_omni.errors import ResultsError

_MOST_EXACT = 13  # samples: 8192 sign flips


def simultaneous_bands(
    first: pd.DataFrame,
    second: pd.DataFrame,
    value: str,
    by: Sequence[str],
    level: float = 0.95,
    rng: np.random.Generator | int = 0,
) -> pd.DataFrame:
    """Differences of two curves, with bands that hold at all points at once.

    A band is the difference -+ q standard errors (bootstrap over samples), with the q that the
    largest of all points' deviations stays below in `level` of the resamples. So the largest
    difference lies between the largest `low` and the largest `high`, whichever point it is at.

    Args:
        first: Tidy rows with `sample`.
        second: The other curve, paired as in `paired_permutation`.
        value: The column to compare.
        by: The columns that make a point of the curve.
        level: Of all bands together.
        rng: A generator, or a seed.

    Returns:
        One row per point: the columns of `by`, then `mean` (of first - second), `low`, `high`, `n`
        (pairs) and `missing` (samples in either curve without a pair of numbers here). No pair at
        all is a `ResultsError`.
    """
    differences, points, pairs = _differences(first, second, value, by)
    mean, n = mean_of(differences)
    means = resampled(differences, pairs, N_RESAMPLES, rng)
    error = np.nanstd(means, axis=0)
    deviations = np.abs(means - mean) / np.where(error > 0, error, np.inf)
    q = np.percentile(np.nanmax(deviations, axis=1), 100 * level)
    half = np.where(n > 1, q * error, np.nan)  # one sample has no band
    bands = dict(mean=mean, low=mean - half, high=mean + half, n=n)
    return points.assign(**bands, missing=len(differences) - n)


def paired_permutation(
    first: pd.DataFrame,
    second: pd.DataFrame,
    value: str,
    by: Sequence[str],
    correction: Literal["max", "holm", "none"] = "max",
    n_resamples: int = 10_000,
    rng: np.random.Generator | int = 0,
) -> pd.DataFrame:
    """Do two curves differ anywhere? Signs of each sample's differences are flipped at random.

    All assignments of signs are tried for up to 13 samples (exact), else `n_resamples` random ones,
    with the observed one among them, so that p is never 0. Twins count as one sample.

    Args:
        first: Tidy rows with `sample`.
        second: The other curve; samples are paired by name, and by "question" where both have it.
        value: The column to compare.
        by: The columns that make a point of the curve, such as ["layer"].
        correction: For looking at many points. "max": compared with the largest statistic over all
            points (Westfall and Young), which takes their correlation into account. "holm": valid
            for any dependence, but p is then at least (points / resamples). "none".
        n_resamples: Random assignments.
        rng: A generator, or a seed.

    Returns:
        One row per point: the columns of `by`, then `difference` (mean of first - second), `p`
        (two-sided), `p_corrected`, `n` (pairs) and `missing` (samples in either curve without a
        pair of numbers here). `attrs` hold "correction", "exact" and "assignments". No pair at all,
        or several rows of one sample at one point, are a `ResultsError`.
    """
    if correction not in ("max", "holm", "none"):
        raise ResultsError(f"expected correction 'max', 'holm' or 'none', got {correction!r}.")
    differences, points, pairs = _differences(first, second, value, by)
    difference, n = mean_of(differences)
    filled = summed(np.where(np.isfinite(differences), differences, 0.0), pairs)
    signs, exact = _signs(len(filled), n_resamples, np.random.default_rng(rng))
    # Flipping signs leaves the root of the sum of squares as it is: dividing by it makes points of
    # different spread comparable.
    spread = np.sqrt((filled**2).sum(0))
    scale = np.where(spread > 0, spread, 1.0)
    observed = np.abs(filled.sum(0)) / scale
    flipped = np.abs(signs @ filled) / scale
    reached = observed * (1 - 1e-12)  # sums in another order differ in the last digits
    p = corrected = (flipped >= reached).mean(0)
    if correction == "max":
        corrected = (flipped.max(1)[:, None] >= reached).mean(0)
    elif correction == "holm":
        corrected = holm(p)
    unknown = np.where(n > 0, 0.0, np.nan)
    tested = dict(difference=difference, p=p + unknown, p_corrected=corrected + unknown, n=n)
    result = points.assign(**tested, missing=len(differences) - n)
    result.attrs |= dict(correction=correction, exact=exact, assignments=len(signs))
    return result


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Holm's correction: the chance of any false alarm among all tests stays below the level."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _differences(
    first: pd.DataFrame, second: pd.DataFrame, value: str, by: Sequence[str]
) -> tuple[Values, pd.DataFrame, Pairs]:
    """Differences by sample and point; the points; and which samples are drawn together.

    Twins of which each curve has one are subtracted from each other.
    """
    both = "question" in first and "question" in second and "question" not in by
    twin = {**first.attrs.get("twins", {}), **second.attrs.get("twins", {})}
    sides = []
    for number, table in enumerate((first, second)):
        question = "/" + table["question"].astype(str) if both else ""
        own = table["sample"].astype(str)
        pair = own.map(lambda sample: twin.get(sample, sample)) + question
        sides.append(table.assign(own=own + question, pair=pair, curve=number))
    every = pd.concat(sides, ignore_index=True)
    apart = all(side["own"].nunique() == side["pair"].nunique() for side in sides)
    every["sample"] = every["pair" if apart else "own"]
    twins = dict(zip(every["sample"], every["pair"], strict=True))
    values, points, pairs = by_sample(every, value, ["curve", *by], twins)
    numbered = points.assign(column=range(len(points)))
    sides = [numbered[numbered["curve"] == number].drop(columns="curve") for number in (0, 1)]
    joined = sides[0].merge(sides[1], on=list(by), how="inner", suffixes=("", "_second"))
    if joined.empty:
        raise ResultsError(f"expected curves with points {list(by)} in common, got none.")
    columns = joined["column"].to_numpy(), joined["column_second"].to_numpy()
    differences = values[:, columns[0]] - values[:, columns[1]]
    if not np.isfinite(differences).any():
        raise ResultsError(
            f"expected samples with {value!r} in both curves, got none. Compare tables of the same "
            "samples."
        )
    return differences, pd.DataFrame(joined[[*by]]), pairs


def _signs(
    n: int, n_resamples: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "assignment sample"], bool]:
    if n <= _MOST_EXACT:
        numbers = np.arange(2**n)[:, None] >> np.arange(n)
        return 1.0 - 2.0 * (numbers & 1), True
    drawn = rng.integers(0, 2, (n_resamples + 1, n)) * 2.0 - 1.0
    drawn[0] = 1.0  # the observed one
    return drawn, False
