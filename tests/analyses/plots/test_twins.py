"""What twins have in common is no part of how sure their difference is."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.plots.statistics import contrast
from analyses.plots.twins import paired
from hooked_omni.errors import ResultsError

N = 60
TWINS = {f"p{i}+sound": f"p{i}" for i in range(N)}


def twins_of(seed: int, common: float) -> tuple[pd.Series, pd.Series]:
    """Numbers of factual and counterfactual clips, 0.3 apart, of which the picture makes a part."""
    rng = np.random.default_rng(seed)
    picture, noise = rng.normal(size=N), rng.normal(size=(2, N))
    factual, other = common * picture + np.sqrt(1 - common**2) * noise
    return pd.Series(factual + 0.3, [*TWINS.values()]), pd.Series(other, [*TWINS])


def differ(factual: pd.Series, other: pd.Series) -> dict[str, Any]:
    return contrast([factual, other], lambda f, c: f - c)


def width(point: dict[str, Any]) -> float:
    return point["high"] - point["low"]


def test_a_paired_band_is_narrower_by_what_twins_have_in_common():
    for common in (0.0, 0.6, 0.9):
        ratios = []
        for seed in range(12):
            factual, other = twins_of(seed, common)
            apart, together = differ(factual, other), differ(factual, paired(other, TWINS))
            assert together["mean"] == pytest.approx(apart["mean"])
            assert (together["n"], together["missing"]) == (N, 0)
            ratios.append(width(together) / width(apart))
        expected = np.sqrt(1 - common**2)  # of the spread of a difference, correlated and not
        assert np.mean(ratios) == pytest.approx(expected, abs=0.06)


def test_a_paired_band_covers_the_truth():
    bands = [differ(f, paired(c, TWINS)) for f, c in (twins_of(seed, 0.9) for seed in range(60))]
    assert 0.87 <= np.mean([band["low"] < 0.3 < band["high"] for band in bands]) <= 0.99


def test_the_order_of_samples_and_clips_without_a_twin_change_no_pair():
    factual, other = twins_of(0, 0.9)
    shuffled = paired(other.sample(frac=1, random_state=1), TWINS)
    assert shuffled[factual.index].tolist() == other.tolist()
    alone = pd.concat([other, pd.Series({"no twin": 0.0})])
    assert paired(alone, TWINS).index[-1] == "no twin"
    assert paired(other, {}).index.tolist() == [*TWINS]
    assert paired(factual, TWINS).equals(factual)
    assert other.index.tolist() == [*TWINS]  # nothing is changed in place


def test_a_table_is_paired_as_a_series_is():
    rows = [dict(sample=s, question=q, value=1.0) for s in TWINS for q in ("see", "hear")]
    table = pd.DataFrame(rows)
    table.attrs = {"twins": TWINS}
    named = paired(table, table.attrs["twins"])
    assert named["sample"].tolist() == [TWINS[sample] for sample in table["sample"]]
    assert named.drop(columns="sample").equals(table.drop(columns="sample"))


@pytest.mark.parametrize("sample", ["p3", "p3+another"])
def test_two_samples_of_one_name_are_refused(sample: str):
    _, other = twins_of(0, 0.9)
    twins = {**TWINS, "p3+another": "p3"}
    both = pd.concat([other, pd.Series({sample: 1.0})])
    message = (
        rf"one sample of each pair of twins, got \['p3\+sound', '{sample.replace('+', '.')}'\]"
    )
    with pytest.raises(ResultsError, match=message):
        paired(both, twins)
    with pytest.raises(ResultsError, match=message):
        paired(pd.DataFrame({"sample": both.index}), twins)
