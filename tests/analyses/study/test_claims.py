"""The paper's claims against tables in which the answer is planted: with the bias, and without."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.plots.statistics import contrast
from analyses.study.claims import CLAIMS, Finding, check
from analyses.study.judging import ANSWER, conditions, of_other_clips
from analyses.study.report import checklist
from benchmarks.claims import SCENARIOS, Scenario, rates

N, LAYERS = 20, 12
KINDS = ("factual", "counterfactual")
THINGS = ("dog", "siren", "bell", "drum")


def case(i: int, kind: str, question: str) -> dict[str, Any]:
    return dict(sample=f"{kind} {i}", kind=kind, question=question)


def tables(biased: bool) -> dict[str, pd.DataFrame]:
    """A model that trusts its eyes in three of four counterfactual clips, or in none."""
    names = [biased and i % 4 > 0 for i in range(N)]  # of the seen thing, where they differ
    captions, knockouts, lens, shift, shares = [], [], [], [], []
    for kind in KINDS:
        for i in range(N):
            wrong = kind == "counterfactual" and names[i]
            seen, heard = THINGS[i % 4], THINGS[(i + 1) % 4]
            found = dict(heard_found=float(not wrong), seen_found=float(wrong))
            found |= dict(events=(seen if wrong else heard,), seen=(seen,), heard=(heard,))
            captions.append({**case(i, kind, "hear"), **found})
            captions.append({**case(i, kind, "see"), **found, "events": (seen,)})
            for question in ("see", "hear"):
                knockouts += list(cuts(case(i, kind, question)))
            for layer in range(LAYERS):
                place = dict(span="audio", lens="raw", layer=layer, position=7)
                known, sound = {**case(i, kind, "hear"), **place}, ("dog", "siren")[i % 2]
                events = (sound,) if layer == 8 else ()
                row = dict(measure="top", token_text="a", events=events, heard=(sound,), seen=())
                lens.append({**known, **row})
                audio = 30.0 if layer == 0 else 5.0
                for segment, percent in (("audio", audio), ("video", 20.0), ("text", 80 - audio)):
                    row = dict(layer=layer, segment=segment, percent=percent, share=percent / 100)
                    row |= dict(per_key=percent / 10, head=None, step=None)
                    shares.append({**case(i, kind, "both"), **row})
            for events in (("dog",), ()):
                rank = 1 if wrong or not events or kind == "factual" else 9
                row = dict(events=events, base_rank=rank, kl_base_model=0.5, token_text=" dog")
                row["shift"] = "unshifted" if rank == 1 else "shifted"
                shift.append({**case(i, kind, "hear"), **row})
    made = dict(captions=captions, knockout=knockouts, logit_lens=lens)
    made |= dict(distribution_shift=shift, attention_share=shares)
    frames = {name: pd.DataFrame(rows) for name, rows in made.items()}
    layers = dict.fromkeys(("center", "first_layer", "last_layer"), "Int64")
    return frames | {"knockout": frames["knockout"].astype(layers)}


def cuts(known: dict[str, Any]) -> Any:
    known = {**known, "query": "generated", "n_layers": LAYERS}
    yield {**known, "key": "none"}
    for key in ("video", "audio"):
        for first in range(LAYERS - 2):
            window = dict(first_layer=first, last_layer=first + 2, center=first + 1)
            yield {**known, **window, "key": key}


def scores(biased: bool, made: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Cut off from the video in layers 8 to 10, the biased model names what is heard."""
    rows = []
    of_captions: list[Any] = made["captions"].assign(condition="").to_dict("records")
    cut = made["knockout"].assign(condition=conditions(made["knockout"]))
    for row in [*of_captions, *cut.to_dict("records")]:
        wrong = biased and row["kind"] == "counterfactual" and int(row["sample"].split()[1]) % 4 > 0
        late = row["key"] if row.get("first_layer") == 8 else ""
        hears = late == "video" or (not wrong and late != "audio")
        what = "video" if row["question"] == "see" else "audio"
        right = hears if what == "audio" else late != "video"
        known = {name: row[name] for name in ("sample", "kind", "question", "condition")}
        rows.append({**known, "what": what, "score": float(right), "judge": "planted"})
    return pd.DataFrame(rows)


def biased() -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    made = tables(True)
    return made, scores(True, made)


def checked(made: dict[str, pd.DataFrame], given: pd.DataFrame) -> dict[str, Finding]:
    return {one.claim.name: one for one in check(made, given)}


def found(biased: bool, without: str = "") -> dict[str, Finding]:
    made = tables(biased)
    given = {name: table for name, table in made.items() if name != without}
    return checked(given, scores(biased, made))


def test_every_claim_of_the_bias_tells_the_two_models_apart() -> None:
    biased, balanced = found(True), found(False)
    for claim in CLAIMS:
        if claim.of_bias:
            assert biased[claim.name].verdict == "agrees", biased[claim.name].ours
            assert balanced[claim.name].verdict == "differs", balanced[claim.name].ours


def test_the_numbers_are_the_planted_ones() -> None:
    one = {name: found.ours for name, found in found(True).items()}
    falls = "100.0 % -> 25.0 %; falls by 75.0 points ["
    assert one["audio collapses"].startswith(falls)
    assert one["audio collapses"].endswith("claimed over 5: agrees")
    assert "audio falls by more: 75.0 points [" in one["video holds"]
    assert one["the picture is named"].startswith("seen 75.0 %, heard 25.0 % of the events")
    assert one["heard, not said"].startswith(
        "100.0 % can be read (by words, lens raw), 25.0 % is said; by chance 50.0 %; read - said 75"
    )
    assert one["late video suppresses"].startswith("25.0 % -> 100.0 % in layers 8 to 10; gains")
    assert one["audio is needed"].startswith("25.0 % -> 0.0 % in layers 8 to 10; loses")
    assert one["video carries seeing"].startswith("100.0 % -> 0.0 % in layers 8 to 10")
    assert one["as the base would"].startswith("75.0 %; counterfactual: of 20 words")
    assert "all: of 40 words (mean over answers 87.5 %) 87.5 % [" in one["as the base would"]
    assert one["the base's rank"].startswith("1; counterfactual: median of 20 words 1.0 [")
    assert one["close to the base"].startswith("0.500 nats; mean over tokens 0.500 nats [0.500")
    assert one["audio is read early"].startswith("30.0 % in layers 0 to 0, 5.0 % after")
    assert one["video is read late"].startswith("video 20.0 %, audio 5.0 %; video - audio 15.0")


@pytest.mark.parametrize(
    ("table", "claim"),
    [
        ("captions", "the picture is named"),
        ("logit_lens", "heard, not said"),
        ("knockout", "late video suppresses"),
        ("distribution_shift", "as the base would"),
        ("attention_share", "audio is read early"),
        ("attention_share", "video is read late"),
    ],
)
def test_what_was_not_measured_is_not_testable(table: str, claim: str) -> None:
    one = found(True, without=table)[claim]
    assert one.verdict == "not testable here"
    assert re.search(r": 0 (factual and 0 )?counterfactual samples for question", one.ours)


def test_scores_that_are_missing_are_not_zeros() -> None:
    made = tables(True)
    given = scores(True, made)
    first = given["sample"].isin([f"counterfactual {i}" for i in range(5)])
    given.loc[first & (given["what"] == "audio"), "score"] = np.nan
    ours = checked(made, given)
    # Of counterfactual 5 to 19, numbers 8, 12 and 16 are right.
    assert ours["audio collapses"].ours.startswith("100.0 % -> 20.0 %;")
    assert "n = 15, 5 missing" in ours["audio collapses"].ours
    assert "n = 15, 5 missing" in ours["late video suppresses"].ours
    assert ours["late video suppresses"].ours.startswith("20.0 % -> 100.0 %")
    given.loc[given["kind"] == "counterfactual", "score"] = np.nan
    ours = checked(made, given)
    assert ours["audio collapses"].verdict == "not testable here"
    assert ours["late video suppresses"].verdict == "not testable here"


def test_a_drop_below_the_smallest_of_interest_differs() -> None:
    made, given = biased()
    wrong = (given["what"] == "audio") & (given["score"] == 0)
    given.loc[wrong, "score"] = 0.97
    one = checked(made, given)["audio collapses"]
    assert one.verdict == "differs" and "falls by 2.2 points" in one.ours


def test_a_band_on_both_sides_is_undecided() -> None:
    made, given = biased()
    own: Any = (given["what"] == "audio") & (given["condition"] == "")
    given.loc[own, "score"] = np.arange(own.sum()) % 2  # half of everything, by chance
    ours = checked(made, given)
    assert ours["audio collapses"].verdict == "undecided"
    assert ours["video holds"].verdict == "undecided"


def recalled(condition: str, question: str, score: float) -> pd.DataFrame:
    rows = [case(i, "counterfactual", question) for i in range(N)]
    return pd.DataFrame(rows).assign(condition=condition, what="recall", score=score)


def judged(read: float, said: float, chance: float, question: str = "hear") -> list[pd.DataFrame]:
    scores = {"raw": read, ANSWER: said, of_other_clips("raw"): chance}
    return [recalled(condition, question, score) for condition, score in scores.items()]


def test_the_judges_recall_is_preferred_to_words_and_compared_with_recall() -> None:
    made, given = biased()
    one = checked(made, pd.concat([given, *judged(0.6, 0.3, 0.1)]))["heard, not said"]
    assert one.ours.startswith(
        "60.0 % can be read (judged, lens raw), 30.0 % is said; by chance 10"
    )
    assert one.verdict == "agrees"
    # A fidelity that fell for what the answer made up is no recall that fell.
    same = checked(made, pd.concat([given, *judged(0.6, 0.6, 0.1)]))["heard, not said"]
    assert same.verdict == "differs"


def test_a_contrast_is_of_means_and_its_band_of_their_spread() -> None:
    rng = np.random.default_rng(0)
    first, second = pd.Series(rng.normal(3, 1, 400)), pd.Series(rng.normal(1, 2, 100))
    point = contrast([first, second], lambda a, b: a - b)
    assert point["mean"] == pytest.approx(first.mean() - second.mean(), abs=1e-12)
    error = np.sqrt(first.var() / 400 + second.var() / 100)
    assert point["high"] - point["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert (point["n"], point["missing"]) == (100, 0)
    gone = contrast([first, pd.Series([1.0, np.nan])], lambda a, b: a - b)
    assert (gone["n"], gone["missing"]) == (1, 1) and np.isnan(gone["low"])
    assert np.isnan(contrast([first, pd.Series([np.nan])], lambda a, b: a - b)["mean"])


def test_one_lucky_answer_is_no_collapse() -> None:
    made, given = biased()
    given.loc[given["what"] == "audio", "score"] = 0.0
    given.loc[given["sample"] == "factual 0", "score"] = 1.0
    ours = checked(made, given)["audio collapses"]
    assert ours.verdict == "undecided" and ours.ours.startswith("5.0 % -> 0.0 %")
    given.loc[given["sample"] == "factual 0", "score"] = 0.0
    ours = checked(made, given)
    assert ours["audio collapses"].verdict == "differs"
    assert ours["audio is needed"].verdict == "not testable here"  # nothing can fall from 0 %


def test_a_window_of_few_samples_decides_nothing() -> None:
    made, given = biased()
    late = given["condition"] == "generated !-> video @ 9-11"
    given.loc[late, "score"] = np.nan
    given.loc[late & (given["sample"] == "counterfactual 1"), "score"] = 1.0
    ours = checked(made, given)["late video suppresses"]
    assert ours.verdict == "agrees" and "in layers 8 to 10" in ours.ours


def test_other_questions_and_other_spans_are_not_read_for_hearing() -> None:
    made, given = biased()
    both = pd.concat([given, *judged(0.1, 0.5, 0.0), *judged(1.0, 0.0, 0.0, "see")])
    ours = checked(made, both)["heard, not said"]
    assert ours.verdict == "differs" and ours.ours.startswith("10.0 % can be read")
    made["logit_lens"]["span"] = "video"
    ours = checked(made, given)["heard, not said"]
    assert ours.verdict == "not testable here" and "not at audio" in ours.ours


def test_what_any_clip_would_show_is_not_heard() -> None:
    made, given = biased()
    lens = made["logit_lens"]
    lens["events"] = lens["events"].map(lambda own: own and ("dog", "siren"))  # whatever is played
    ours = checked(made, given)["heard, not said"]
    assert ours.verdict == "differs" and "by chance 100.0 %" in ours.ours


def test_cells_of_the_checklist_stay_cells() -> None:
    for line in checklist(list(found(True).values())):
        assert line.replace("\\|", "").count("|") == 7


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: f"{one.claim}: {one.truth}")
def test_claims_decide_what_is_planted(scenario: Scenario) -> None:
    """Nine in ten of the paper's studies agree, and one in twenty without the effect: in small."""
    found = rates(scenario, n_studies=1, n=250, seed=1)
    assert found["agrees"] == int(scenario.agrees), found


def test_published_numbers_are_of_one_model_question_and_pool() -> None:
    made, given = biased()
    for name, base in (("Qwen/Qwen2.5-Omni-3B", "Qwen/Qwen2.5-VL-3B-Instruct"), ("x/Other-3B", "")):
        for table in made.values():
            table.attrs |= {"model": name, "base": base}
        sizes = {n: one.size for n, one in checked(made, given).items() if one.size != "-"}
        if base:
            assert sizes["audio collapses"] == "published 29.8: outside our band"
            assert sizes["late video suppresses"].startswith("published 13.6")
            assert set(sizes) >= {"as the base would", "close to the base"}
            assert "heard, not said" not in sizes  # words are compared with no judged recall
            judges = checked(made, pd.concat([given, *judged(0.6, 0.3, 0.1)]))["heard, not said"]
            assert judges.size == "published 61.4: outside our band"
        else:
            assert not sizes


def test_half_of_the_set_is_not_the_whole() -> None:
    made, given = biased()
    shares: Any = made["attention_share"]
    made["attention_share"] = shares[shares["kind"] == "counterfactual"]
    one = checked(made, given)["audio is read early"]
    assert one.verdict == "not testable here" and "0 factual and 20 counterfactual" in one.ours
