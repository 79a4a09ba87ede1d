"""Bands cover what they claim, tests raise as few false alarms as they claim, nothing is hidden."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.plots import curves, statistics
from analyses.plots.curves import holm
from analyses.plots.figures import counted
from analyses.plots.statistics import in_words, pooled
from hooked_omni.errors import ResultsError

mean_band: Any = statistics.mean_band  # columns of a frame have no types to check
paired_permutation: Any = curves.paired_permutation
simultaneous_bands: Any = curves.simultaneous_bands


def curve(values: np.ndarray, **columns: str) -> pd.DataFrame:
    """A tidy table of `[sample, layer]`."""
    each = np.ndenumerate(values)
    rows = [dict(sample=f"s{s}", layer=layer, share=value) for (s, layer), value in each]
    return pd.DataFrame(rows).assign(**columns)


def draws(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_a_band_covers_the_truth_as_often_as_it_says():
    inside = 0
    for seed in range(200):
        band = mean_band(curve(draws(seed, 40, 1)), "share", ["layer"], n_resamples=500, rng=seed)
        inside += bool(band["low"][0] < 0 < band["high"][0])
    assert 0.89 <= inside / 200 <= 0.98


def test_means_are_means_and_a_wider_level_is_wider():
    values = draws(0, 30, 4)
    band = mean_band(curve(values), "share", ["layer"])
    np.testing.assert_allclose(band["mean"], values.mean(0))
    assert band["layer"].tolist() == [0, 1, 2, 3]
    wide = mean_band(curve(values), "share", ["layer"], level=0.99)
    assert (wide["low"] < band["low"]).all() and (wide["high"] > band["high"]).all()
    spread = (band["high"] - band["low"]) / 2
    np.testing.assert_allclose(spread, 1.96 * values.std(0) / np.sqrt(30), rtol=0.2)


def test_every_point_sees_the_same_resampled_samples():
    """What samples have in common moves all points together: equal numbers, equal bands."""
    values = draws(1, 25, 1)
    band = mean_band(curve(np.hstack([values, values, 2 * values])), "share", ["layer"])
    assert band["low"][0] == band["low"][1]
    assert band["high"][2] == pytest.approx(2 * band["high"][0])


def test_a_seed_is_a_band():
    table = curve(draws(2, 10, 3))
    rngs = (7, 7, np.random.default_rng(8))
    first, again, other = (mean_band(table, "share", ["layer"], rng=rng) for rng in rngs)
    pd.testing.assert_frame_equal(first, again)
    assert not np.allclose(other["low"], first["low"])


def test_what_is_missing_is_counted_and_never_zero():
    values = np.full((6, 3), 5.0)
    values[:2, 1] = values[:, 2] = np.nan
    table = curve(values)
    table = table[~((table["sample"] == "s2") & (table["layer"] == 1))]  # no row at all
    band = mean_band(table, "share", ["layer"])
    assert band["mean"].tolist()[:2] == [5.0, 5.0]
    assert band.loc[2, ["mean", "low", "high"]].isna().all()
    assert band["n"].tolist() == [6, 3, 0] and band["missing"].tolist() == [0, 3, 6]
    assert counted(band[:2]) == "n = 3 to 6, up to 3 missing"


def test_one_sample_has_no_band():
    band = mean_band(curve(np.ones((1, 2))), "share", ["layer"])
    assert band["mean"].tolist() == [1.0, 1.0]
    assert band[["low", "high"]].isna().to_numpy().all()
    assert in_words(band.iloc[0].to_dict()) == "1.0 %, n = 1"


def test_samples_of_another_kind_are_not_missing():
    factual = curve(np.ones((4, 2)), kind="factual")
    other = curve(np.zeros((3, 2)), kind="counterfactual")
    other["sample"] = "c" + other["sample"]
    band = mean_band(pd.concat([factual, other]), "share", ["kind", "layer"])
    assert band["n"].tolist() == [4, 4, 3, 3]
    assert band["missing"].tolist() == [0] * 4


def test_several_rows_of_one_sample_at_one_point_and_no_rows_are_refused():
    twice = pd.concat([curve(np.ones((2, 2)))] * 2)
    with pytest.raises(ResultsError, match=r"one row per sample and .'layer'., got several"):
        mean_band(twice, "share", ["layer"])
    with pytest.raises(ResultsError, match="expected rows, got none"):
        mean_band(twice.iloc[:0], "share", ["layer"])


def test_numbers_that_may_be_missing_are_read():
    table = curve(np.ones((3, 1))).astype({"share": "Float64"})
    table.loc[0, "share"] = pd.NA
    assert mean_band(table, "share", ["layer"])["n"].tolist() == [2]


def brute_force(differences: np.ndarray) -> float:
    """Two-sided p of one point, over every assignment of signs."""
    flips = itertools.product([1, -1], repeat=len(differences))
    means = [abs(np.mean(np.array(signs) * differences)) for signs in flips]
    return float(np.mean(np.array(means) >= means[0] - 1e-12))


@pytest.mark.parametrize("n", [3, 6, 10])
def test_few_samples_are_tested_exactly(n: int):
    first, second = draws(n, n, 3), draws(n + 100, n, 3)
    found = paired_permutation(curve(first), curve(second), "share", ["layer"], correction="none")
    expected = [brute_force(d) for d in (first - second).T]
    np.testing.assert_allclose(found["p"], expected)
    assert found.attrs == dict(correction="none", exact=True, assignments=2**n)


def test_many_samples_are_tested_at_random_and_agree_with_the_exact_test():
    first, second = draws(3, 14, 2) + 0.5, draws(4, 14, 2)
    found = paired_permutation(curve(first), curve(second), "share", ["layer"])
    assert found.attrs["exact"] is False
    expected = [brute_force(d) for d in (first - second).T]
    np.testing.assert_allclose(found["p"], expected, atol=0.02)


def false_alarms(noise: list[np.ndarray], correction: str) -> float:
    """The share of tables without a difference in which one is found."""
    nothing = curve(np.zeros((10, 12)))
    tests = (paired_permutation(curve(n), nothing, "share", ["layer"], correction) for n in noise)
    return float(np.mean([(found["p_corrected"] <= 0.05).any() for found in tests]))


@pytest.mark.parametrize("correction", ["max", "holm"])
def test_false_alarms_are_as_rare_as_stated(correction: str):
    # Layers of a sample go together.
    noise = [draws(seed, 10, 12) + draws(seed + 1000, 10, 1) for seed in range(100)]
    assert false_alarms(noise, correction) <= 0.09


def test_without_correction_they_are_not():
    assert false_alarms([draws(seed, 10, 12) for seed in range(30)], "none") > 0.2


def test_a_planted_difference_is_found_where_it_is_and_only_there():
    noise = draws(5, 100, 36)
    shifted = noise + draws(6, 100, 36)
    shifted[:, 20:24] += 1.0
    found = paired_permutation(curve(shifted), curve(noise), "share", ["layer"])
    assert (found["p_corrected"][20:24] < 0.001).all()
    assert (found["p_corrected"].drop(index=[20, 21, 22, 23]) > 0.05).all()
    assert found["difference"][20:24].to_numpy() == pytest.approx(1.0, abs=0.4)
    assert found["p"].min() > 0


def test_pairing_is_by_sample_whatever_the_order():
    first, second = curve(draws(7, 9, 2)), curve(draws(8, 9, 2))
    shuffled = second.sample(frac=1, random_state=0)
    found = paired_permutation(first, shuffled, "share", ["layer"])
    same = paired_permutation(first, second, "share", ["layer"])
    pd.testing.assert_frame_equal(found.sort_values("layer"), same.sort_values("layer"))


def test_missing_pairs_are_counted():
    first, second = draws(9, 8, 2), draws(10, 8, 2)
    first[0, 0] = np.nan
    found = paired_permutation(curve(first), curve(second[:6]), "share", ["layer"])
    assert found["n"].tolist() == [5, 6]
    assert found["missing"].tolist() == [3, 2]
    assert found["difference"][0] == pytest.approx((first[1:6, 0] - second[1:6, 0]).mean())


def test_equal_curves_do_not_differ():
    table = curve(draws(11, 20, 3))
    assert paired_permutation(table, table, "share", ["layer"])["p_corrected"].tolist() == [1.0] * 3


def test_curves_of_other_samples_are_refused():
    other = curve(np.ones((3, 2))).assign(sample="elsewhere")
    other["sample"] += other.index.astype(str)
    with pytest.raises(ResultsError, match=r"got none\. Compare tables of the same samples"):
        paired_permutation(curve(np.ones((3, 2))), other, "share", ["layer"])


@pytest.mark.usefixtures("as_installed")
def test_an_unknown_correction_is_refused():
    table = curve(np.ones((3, 2)))
    with pytest.raises(ResultsError, match="expected correction 'max', 'holm' or 'none'"):
        paired_permutation(table, table, "share", ["layer"], "bonferroni")


def test_holm():
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]


def test_simultaneous_bands_miss_anywhere_as_rarely_as_they_say():
    nothing, misses = curve(np.zeros((60, 8))), 0
    for seed in range(200):
        noise = draws(seed, 60, 8) * np.arange(1, 9) + draws(seed + 1000, 60, 1)
        bands = simultaneous_bands(curve(noise), nothing, "share", ["layer"])
        misses += bool(((bands["low"] > 0) | (bands["high"] < 0)).any())
    assert 2 <= misses <= 20  # 10 are expected


def test_simultaneous_bands_are_of_pairs():
    shared = draws(0, 40, 3)
    first, second = curve(shared + 1), curve(shared)
    bands = simultaneous_bands(first, second[second["sample"] != "s0"], "share", ["layer"])
    assert bands["mean"].tolist() == pytest.approx([1.0] * 3)
    np.testing.assert_allclose(bands["high"] - bands["low"], 0, atol=1e-12)
    assert set(bands["n"]) == {39} and set(bands["missing"]) == {1}


def test_the_pool_is_both_kinds_together():
    table = pd.concat([curve(draws(k, 2, 1), kind=kind) for k, kind in enumerate("abc")])
    assert pooled(table.assign(kind="factual"))["kind"].unique().tolist() == ["factual"]
    named = table.replace({"kind": {"a": "factual", "b": "counterfactual", "c": "silence"}})
    named.attrs = {"model": "m"}
    whole = pooled(named)
    assert whole["kind"].value_counts().to_dict() == dict(
        factual=2, counterfactual=2, silence=2, all=4
    )
    assert whole.attrs == {"model": "m"}
