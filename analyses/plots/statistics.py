"""How sure is a mean?

Every band and every test resamples whole samples, the same ones at every point of every curve, so
that what a sample has in common with itself, or twins with each other, is kept. A number that is
missing is counted and stated, never averaged as zero and never dropped in silence.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from hooked_omni.errors import ResultsError

Values = Float[np.ndarray, "sample point"]
Pairs = Int[np.ndarray, " sample"]

POOL = ("factual", "counterfactual")
"""The kinds of clips that are the paper's whole set, "all"."""

_STRATA = ("kind", "question")
_NO_TWINS: Mapping[str, str] = {}
_LEVEL, N_RESAMPLES = 0.95, 2000


def mean_band(
    table: pd.DataFrame,
    value: str,
    by: Sequence[str],
    level: float = _LEVEL,
    n_resamples: int = N_RESAMPLES,
    rng: np.random.Generator | int = 0,
) -> pd.DataFrame:
    """Mean over samples at each point, with a bootstrap confidence band.

    ```python
    mean_band(table, "share", by=["segment", "layer"])
    ```

    Args:
        table: Tidy rows with a column `sample`.
        value: The column to average.
        by: The columns that make a point of a curve. Without "kind" or "question" among them, the
            table must have one row per sample and point all the same.
        level: Of the band: percentiles of the means of resampled samples.
        n_resamples: How often samples are drawn, with replacement.
        rng: A generator, or a seed, with which a band is the same whatever else the table holds.

    Returns:
        One row per point: the columns of `by`, then `mean`, `low`, `high`, `n` (samples with a
        number) and `missing` (samples of the same kind and question without one). The band is NaN
        for fewer than two samples. Twins, by `table.attrs["twins"]`, are drawn together. Several
        rows of a sample at one point are a `ResultsError`.
    """
    rows, twins = [], table.attrs.get("twins", {})
    for part in _strata(table, by):
        values, points, pairs = by_sample(part, value, by, twins)
        mean, n = mean_of(values)
        means = resampled(values, pairs, n_resamples, rng)
        low, high = _percentiles(means, n, level)
        band = dict(mean=mean, low=low, high=high, n=n, missing=len(values) - n)
        rows.append(points.assign(**band))
    return pd.concat(rows, ignore_index=True)


def contrast(
    groups: Sequence[pd.Series], of: Callable[..., Any], twins: Mapping[str, str] = _NO_TWINS
) -> dict[str, Any]:
    """A number that is computed from the means of several groups, with a bootstrap band.

    ```python
    contrast([factual, counterfactual], lambda f, c: f / 2 - c)  # above 0: falls by more than half
    ```

    Args:
        groups: One number for each sample, which the index names; drawn once for all groups.
        of: From the groups' means to the number; arrays in, array out.
        twins: The twin of each sample that has one, which is drawn with it.

    Returns:
        A point as `mean_band` has it; `n` is the smallest group's. The band is NaN for fewer than
        two, and where the number is not defined for some draw; all is NaN without numbers. Two
        numbers of a sample in one group are a `ResultsError`.
    """
    if twice := [sample for own in groups for sample in own.index[own.index.duplicated()]]:
        raise ResultsError(
            f"expected one number for each sample, got several for {twice[0]!r}. Choose rows of "
            "one question and condition."
        )
    table = pd.concat(list(groups), axis=1).sort_index()
    values = table.to_numpy(float)
    mean, n = mean_of(values)
    point = dict(mean=np.nan, low=np.nan, high=np.nan, n=int(n.min()))
    point["missing"] = sum(map(len, groups)) - int(n.sum())
    if point["n"] > 0:
        point["mean"] = float(of(*mean))
    if point["n"] > 1:
        pairs = pairs_of(table.index, twins)
        means = resampled(values, pairs, N_RESAMPLES, 0)
        tail = 50 * (1 - _LEVEL)
        point["low"], point["high"] = np.percentile(of(*means.T), [tail, 100 - tail]).tolist()
    return point


def in_words(point: Mapping[str, Any] | pd.Series, unit: str = "%", digits: int = 1) -> str:
    """A point of `mean_band` as text, with its band, n, and what is missing.

    Example:
        >>> in_words({"mean": 43.21, "low": 40.0, "high": 46.6, "n": 100, "missing": 2})
        '43.2 % [40.0, 46.6], n = 100, 2 missing'
    """
    numbers: dict[Any, Any] = dict(point)
    mean, low, high = (f"{numbers[name]:.{digits}f}" for name in ("mean", "low", "high"))
    band = f" [{low}, {high}]" if np.isfinite(numbers["low"]) else ""
    n, n_missing = int(numbers["n"]), int(numbers["missing"])
    missing = f", {n_missing} missing" if n_missing else ""
    return f"{mean}{' ' + unit if unit else ''}{band}, n = {n}{missing}"


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The table, and its factual and counterfactual rows once more as the kind "all".

    As it is if it has only one of the two: half of the paper's set is not the whole.
    """
    both: Any = table[table["kind"].isin(POOL)]
    if both["kind"].nunique() < len(POOL):
        return table
    whole = pd.concat([table, both.assign(kind="all")], ignore_index=True)
    whole.attrs = table.attrs
    return whole


def require_rows(table: pd.DataFrame) -> None:
    """Refuse a table without rows, as a `ResultsError`."""
    if table.empty:
        raise ResultsError("expected rows, got none. Look at `table.attrs['skipped']`.")


def _strata(table: pd.DataFrame, by: Sequence[str]) -> list[pd.DataFrame]:
    """Parts in which a sample without a row is a missing one, not one of another kind."""
    require_rows(table)
    strata = [name for name in _STRATA if name in by]
    return [part for _, part in table.groupby(strata, sort=False)] if strata else [table]


def mean_of(values: Values) -> tuple[Float[np.ndarray, " point"], Int[np.ndarray, " point"]]:
    """Mean over the samples with a number at each point, NaN without one, and how many they are."""
    known = np.isfinite(values)
    n = known.sum(0)
    return np.divide(np.where(known, values, 0.0).sum(0), n, out=_nan(len(n)), where=n > 0), n


def pairs_of(samples: Iterable[Any], twins: Mapping[str, str]) -> Pairs:
    """Which samples are drawn together, by number: a clip and its twin, of the same picture."""
    return np.unique([twins.get(sample, sample) for sample in samples], return_inverse=True)[1]


def summed(values: Values, pairs: Pairs) -> Float[np.ndarray, "pair point"]:
    """Sums over what is drawn together."""
    sums = np.zeros((pairs.max() + 1, values.shape[1]))
    np.add.at(sums, pairs, values)
    return sums


def resampled(
    values: Values, pairs: Pairs, n_resamples: int, rng: np.random.Generator | int
) -> Float[np.ndarray, "resample point"]:
    """Means over pairs drawn with replacement, the same ones at every point."""
    known = np.isfinite(values)
    numbers, n = summed(np.where(known, values, 0.0), pairs), summed(1.0 * known, pairs)
    drawn = (seeded_draws if isinstance(rng, int) else _draws)(len(n), n_resamples, rng)
    sums, counts = drawn @ numbers, drawn @ n
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _draws(n: int, n_resamples: int, rng: Any) -> Float[np.ndarray, "resample pair"]:
    """How often each is drawn, which is all that a mean needs of a draw."""
    return 1.0 * np.random.default_rng(rng).multinomial(n, np.full(n, 1 / n), n_resamples)


seeded_draws = lru_cache(maxsize=4)(_draws)  # the same for all curves of a page


def by_sample(
    table: pd.DataFrame, value: str, by: Sequence[str], twins: Mapping[str, str]
) -> tuple[Values, pd.DataFrame, Pairs]:
    """Numbers by sample and point, NaN where there is none; the points; and pairs of samples."""
    samples, names = pd.factorize(table["sample"], sort=True)
    points = table.groupby(list(by), sort=False, dropna=False)
    where = points.ngroup().to_numpy()
    twice = pd.MultiIndex.from_arrays([samples, where]).duplicated()
    if twice.any():
        row = table.loc[twice].iloc[0]
        raise ResultsError(
            f"expected one row per sample and {list(by)}, got several for {row['sample']!r} at "
            f"{row[list(by)].to_dict()}. Add what tells them apart to `by`, or choose rows first."
        )
    values = np.full((len(names), int(where.max()) + 1), np.nan)
    values[samples, where] = table[value].astype("Float64").to_numpy(float, na_value=np.nan)
    first = np.unique(where, return_index=True)[1]
    return values, table.iloc[first][[*by]].reset_index(drop=True), pairs_of(names, twins)


def _percentiles(means: Values, n: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = _nan(len(n)), _nan(len(n))
    enough: Bool[np.ndarray, " point"] = n > 1
    if enough.any():
        tail = 50 * (1 - level)
        low[enough], high[enough] = np.nanpercentile(means[:, enough], [tail, 100 - tail], axis=0)
    return low, high


def _nan(size: int) -> np.ndarray:
    return np.full(size, np.nan)
