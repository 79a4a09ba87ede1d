"""What twins have in common is no part of how sure their difference, or their mean, is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import attention_share, distribution_shift, fidelity, knockout, logit_lens
from analyses.plots import statistics
from analyses.plots.curves import paired_permutation, simultaneous_bands
from analyses.plots.statistics import contrast, pooled
from analyses.study.claims import check
from hooked_omni.errors import ResultsError

mean_band: Any = statistics.mean_band
N = 60
TWINS = {f"p{i}+sound": f"p{i}" for i in range(N)}


def twins_of(seed: int, common: float) -> tuple[pd.Series, pd.Series]:
    """Numbers of factual and counterfactual clips, 0.3 apart, of which the picture makes a part."""
    rng = np.random.default_rng(seed)
    picture, noise = rng.normal(size=N), rng.normal(size=(2, N))
    factual, other = common * picture + np.sqrt(1 - common**2) * noise
    return pd.Series(factual + 0.3, [*TWINS.values()]), pd.Series(other, [*TWINS])


def differ(factual: pd.Series, other: pd.Series, twins: dict[str, str] = TWINS) -> dict[str, Any]:
    return contrast([factual, other], lambda f, c: f - c, twins)


def width(point: Any) -> float:
    return point["high"] - point["low"]


def test_a_paired_band_is_narrower_by_what_twins_have_in_common():
    for common in (0.0, 0.6, 0.9):
        ratios = []
        for seed in range(12):
            factual, other = twins_of(seed, common)
            apart, together = differ(factual, other, {}), differ(factual, other)
            assert together["mean"] == pytest.approx(apart["mean"])
            assert (together["n"], together["missing"]) == (N, 0)
            ratios.append(width(together) / width(apart))
        expected = np.sqrt(1 - common**2)  # of the spread of a difference, correlated and not
        assert np.mean(ratios) == pytest.approx(expected, abs=0.06)


def test_a_paired_band_covers_the_truth():
    bands = [differ(*twins_of(seed, 0.9)) for seed in range(60)]
    assert 0.87 <= np.mean([band["low"] < 0.3 < band["high"] for band in bands]) <= 0.99


def test_the_order_of_samples_changes_no_band_and_one_without_a_twin_is_drawn_alone():
    factual, other = twins_of(0, 0.9)
    assert differ(factual, other.sample(frac=1, random_state=1)) == differ(factual, other)
    alone = differ(factual, pd.concat([other, pd.Series({"no twin": 0.0})]))
    assert alone["n"] == N and width(alone) < 1.1 * width(differ(factual, other))
    assert differ(factual, other, {"p1+sound": "a clip that is not there"})["n"] == N
    # Two sounds of one picture are drawn together too, and no error.
    both = pd.concat([other, pd.Series({"p3+another": 0.0})])
    assert differ(factual, both, {**TWINS, "p3+another": "p3"})["n"] == N


def test_two_numbers_of_a_sample_are_refused():
    factual, other = twins_of(0, 0.9)
    with pytest.raises(ResultsError, match=r"one number for each sample, got several for 'p3'\."):
        differ(pd.concat([factual, pd.Series({"p3": 1.0})]), other)


def curves(common: float) -> list[Any]:
    """The same, as tables of two points, of which the second has no difference."""
    parts = []
    kinds = ("factual", "counterfactual")
    for kind, own, sign in zip(kinds, twins_of(0, common), (1, 0), strict=True):
        rows = [
            dict(sample=s, kind=kind, point=point, value=v - 0.3 * sign * point)
            for s, v in own.items()
            for point in (0, 1)
        ]
        parts.append(pd.DataFrame(rows))
        parts[-1].attrs = {"twins": TWINS}
    return parts


def test_twins_are_subtracted_from_each_other_and_their_signs_flip_together():
    first, second = curves(0.9)
    tested: Any = paired_permutation(first, second, "value", by=["point"], n_resamples=2000)
    assert tested["n"].tolist() == [N, N]
    assert tested["p_corrected"][0] < 0.01 < 0.05 < tested["p_corrected"][1]
    bands: Any = simultaneous_bands(first, second, "value", by=["point"])
    assert bands["low"][0] > 0 > bands["low"][1]
    # In the whole set each sample is subtracted from itself, twins at once.
    whole = pd.concat(curves(0.9), ignore_index=True)
    whole.attrs = {"twins": TWINS}
    up = whole["value"] + np.where(whole["kind"] == "factual", 1.0, -1.0)
    moved = whole.assign(value=up)
    bands = simultaneous_bands(moved, whole, "value", by=["point"])
    assert bands["n"].tolist() == [2 * N, 2 * N]
    assert np.allclose(bands[["mean", "low", "high"]], 0)  # +1 and -1, always together
    flipped: Any = paired_permutation(moved, whole, "value", by=["point"])
    assert flipped["p"].min() > 0.05
    moved.attrs, whole.attrs = {}, {}
    bands = simultaneous_bands(moved, whole, "value", by=["point"])
    assert (bands["high"] - bands["low"]).min() > 0.3


# Of each pair one is right and one is wrong: half of the whole set, and of any pairs.
RIGHT = {sample: float(i % 2) for i, (a, b) in enumerate(TWINS.items()) for sample in (a, b)}
RIGHT |= {twin: 1 - RIGHT[twin] for twin in TWINS.values()}


def rows(question: str = "hear", **columns: Any) -> list[dict[str, Any]]:
    """A row for each sample; a column may depend on whether it is right."""
    made = []
    for sample, right in RIGHT.items():
        own = {n: value(right) if callable(value) else value for n, value in columns.items()}
        kind = "counterfactual" if sample in TWINS else "factual"
        made.append(dict(sample=sample, kind=kind, question=question) | own)
    return made


def table(parts: list[list[dict[str, Any]]]) -> pd.DataFrame:
    made = pd.DataFrame([row for part in parts for row in part])
    made.attrs = {"twins": TWINS, "model": "m", "base": "b"}
    return made


def scores(what: str, condition: str) -> list[dict[str, Any]]:
    return rows(condition=condition, what=what, score=lambda right: right, judge="planted")


def of_fidelity() -> list[str]:
    return fidelity.headline(table([scores("audio", "")]))


def attention() -> pd.DataFrame:
    shares: Any = dict(audio=lambda r: 0.2 * r + 0.2, video=0.4, text=lambda r: 0.4 - 0.2 * r)
    parts = []
    for layer in (0, 1, 2):
        for segment, share in shares.items():
            percent = (lambda r, s=share: 100 * s(r)) if callable(share) else 100 * share
            place: Any = dict(layer=layer, segment=segment, head=None, step=None)
            per_key = dict(per_key=percent)
            parts.append(rows("both", share=share, percent=percent, **place, **per_key))
    return table(parts)


def of_attention() -> list[str]:
    return attention_share.headline(attention())


def lens() -> pd.DataFrame:
    named: Any = dict(events=lambda right: ("dog",) * int(right), heard=("dog",), seen=())
    place: Any = dict(span="audio", lens="raw", layer=1, position=0, measure="top", token_text="a")
    return table([rows(**named, **place)])


def of_lens() -> list[str]:
    return logit_lens.headline(lens())


def of_judged_lens() -> list[str]:
    return logit_lens.headline(lens(), table([scores("recall", "raw")]))[-1:]


def of_knockout() -> list[str]:
    found: Any = dict(seen_found=0.0, heard_logprob=0.0, seen_logprob=0.0, caption_logprob=-1.0)
    found |= dict(n_scored=1, query="generated", n_layers=2)
    window: Any = dict(first_layer=1, last_layer=1, center=1)
    gains = rows(key="audio", heard_found=lambda right: right, **found, **window)
    return knockout.headline(table([rows(key="none", heard_found=0.0, **found), gains]))


def shift() -> pd.DataFrame:
    named: Any = dict(token_text=" dog", events=("dog",), kl_base_model=lambda right: right)
    classes: Any = dict(base_rank=lambda right: 9 - 8 * right)
    classes |= dict(shift=lambda right: "unshifted" if right else "shifted")
    return table([rows(**named, **classes)])


def of_shift() -> list[str]:
    return distribution_shift.headline(shift())


@pytest.mark.parametrize(
    ("headline", "words"),
    [
        (of_fidelity, "audio fidelity is 50.0 % [50.0, 50.0], n = 120."),
        (of_attention, "audio gets most of its attention in layer 0, 30.0 % [30.0, 30.0], n = 120"),
        (of_lens, "lens raw: 50.0 % [50.0, 50.0], n = 120 of"),
        (of_judged_lens, "raw: 50.0 % [50.0, 50.0], n = 120 of the sounds, as judged"),
        (of_knockout, "+50.00 points [50.00, 50.00], n = 120 (band and p = 0.0001 for all"),
        (of_shift, "KL(base || model) is 0.500 nats [0.500, 0.500], n = 120 over"),
    ],
)
def test_the_whole_set_draws_twins_together(headline: Callable[[], list[str]], words: str):
    line = [line for line in headline() if line.startswith("all, ")]
    assert any(words in one for one in line), line


def test_claims_about_the_whole_set_draw_twins_together():
    made = {"captions": table([]), "attention_share": attention(), "distribution_shift": shift()}
    found = {one.claim.name: one.ours for one in check(made, table([scores("audio", "")]))}
    assert "early 30.0 % [30.0, 30.0], n = 120" in found["audio is read early"]
    assert "video - audio 10.0 points [10.0, 10.0], n = 120" in found["video is read late"]
    assert "0.500 nats [0.500, 0.500], n = 120" in found["close to the base"]
    assert "all: of 120 words" in found["as the base would"]
    assert "50.0 % [50.0, 50.0], n = 120" in found["as the base would"]
    assert "all: median of 120 words 5.0 [5.0, 5.0], n = 120" in found["the base's rank"]


def test_the_whole_set_without_twins_is_drawn_one_by_one():
    whole: Any = pooled(table([scores("audio", "")]))
    whole.attrs = {}
    band = mean_band(whole, "score", by=["kind"]).set_index("kind").loc["all"]
    assert band["mean"] == 0.5 and width(band) > 0.1
