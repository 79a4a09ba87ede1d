"""What only looks like one of the paper's claims does not agree with it, nor end the study."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import knockout
from analyses.fidelity import joined
from analyses.judge.sheet import choose, write_sheet
from analyses.plots.statistics import POOL, in_words
from analyses.study.claims import CLAIMS, Finding, check
from analyses.study.judging import conditions
from benchmarks.claims import MODEL, captions, fidelity, knockouts
from tests.analyses.study.test_claims import biased, checked

Tables = dict[str, Any]  # of data frames, whose selections have no types to check
FIDELITY = ("audio collapses", "video holds")
KNOCKED = ("late video suppresses", "audio is needed", "video carries seeing")
JUDGED = (*FIDELITY, *KNOCKED)
OF_KINDS = {
    "factual": FIDELITY,
    "counterfactual": tuple(
        c.name for c in CLAIMS if not c.name.startswith(("audio is r", "close", "no need"))
    ),
}
"""The claims that need a kind of clips; those about attention and KL need both."""


def verdicts(made: Tables, given: Any) -> dict[str, Finding]:
    found = checked(made, given)
    assert len(found) == len(CLAIMS)
    return found


def test_the_planted_study_agrees_before_it_is_spoiled() -> None:
    found = verdicts(*biased())
    undecided = {"audio is needed", "the judge is fair"}  # of 25 %, twenty clips are too few
    undecided.add("no need of video")  # of a benchmark
    assert {found[name].verdict for name in found.keys() - undecided} == {"agrees"}


def no_score(made: Tables, given: Any) -> Any:
    return made, given.assign(score=np.nan)


def constant(made: Tables, given: Any) -> Any:
    return made, given.assign(score=0.7)


def zeros(made: Tables, given: Any) -> Any:
    return made, given.assign(score=0.0)


def two_judges(made: Tables, given: Any) -> Any:
    return made, pd.concat([given, given.assign(judge="another")])


def nobody_judged(made: Tables, given: Any) -> Any:
    return made, given.iloc[:0]


def other_samples(made: Tables, given: Any) -> Any:
    return made, given.assign(sample="of another study")


@pytest.mark.parametrize(
    "spoil", [no_score, constant, zeros, two_judges, nobody_judged, other_samples]
)
def test_scores_that_say_nothing(spoil: Callable[[Tables, Any], Any]) -> None:
    found = verdicts(*spoil(*biased()))
    assert not {"agrees", "undecided"} & {found[name].verdict for name in JUDGED}
    assert all(found[name].ours for name in JUDGED)


def test_kinds_that_are_swapped_or_shuffled() -> None:
    made, given = biased()
    swapped = given.assign(kind=np.where(given["kind"] == POOL[0], POOL[1], POOL[0]))
    plain = swapped["condition"] == ""
    found = verdicts(made, pd.concat([swapped[plain], given[~plain]]))
    assert found["audio collapses"].verdict == "differs"
    names = given["sample"].unique()
    first = [*names[np.random.default_rng(1).permutation(len(names)) < 20]]
    kinds = np.where(given["sample"].isin(first), *POOL)
    found = verdicts(made, given.assign(kind=kinds).query("condition == ''"))
    assert found["audio collapses"].verdict == "undecided"


def test_a_clip_that_is_there_twice() -> None:
    made, given = biased()
    twice = {name: pd.concat([table, table]) for name, table in made.items()}
    found = verdicts(twice, given)
    assert found["the picture is named"].verdict == "not testable here"
    assert "one number for each sample, got several" in found["the picture is named"].ours
    for name in ("heard, not said", *KNOCKED):
        assert found[name].verdict == "not testable here", found[name].ours


@pytest.mark.parametrize("n", [1, 2, 11])
def test_a_few_clips_decide_nothing(n: int) -> None:
    made, given = biased()
    few = [f"{kind} {i}" for kind in POOL for i in range(n)]
    cut = {name: table[table["sample"].isin(few)] for name, table in made.items()}
    found = verdicts(cut, given[given["sample"].isin(few)])
    assert {one.verdict for one in found.values()} == {"not testable here"}
    assert f"{n} factual samples for question hear, 12 needed" in found["audio collapses"].ours


@pytest.mark.parametrize("gone", POOL)
def test_a_kind_that_is_missing_is_named_and_costs_only_what_needs_it(gone: str) -> None:
    made, given = biased()
    cut = {name: table[table["kind"] != gone] for name, table in made.items()}
    found = verdicts(cut, given[given["kind"] != gone])
    for name, one in found.items():
        both = name.startswith(("audio is read", "video is read", "close"))
        if both or name in OF_KINDS[gone]:
            assert one.verdict == "not testable here", one.ours
        apart = name in ("the judge is fair", "no need of video")  # need more than these tables
        if not apart and one.verdict == "not testable here":
            assert f"0 {gone}" in one.ours, one.ours
    if gone == "factual":
        assert found["as the base would"].verdict == found["the base's rank"].verdict == "agrees"
        assert "all:" not in found["as the base would"].ours
        assert [found[name].verdict for name in KNOCKED] == ["agrees", "undecided", "agrees"]


def test_a_handful_of_one_kind_is_not_the_whole_set() -> None:
    made, given = biased()
    few = [f"factual {i}" for i in range(3)]
    cut = {n: t[(t["kind"] != "factual") | t["sample"].isin(few)] for n, t in made.items()}
    found = verdicts(cut, given)
    for name in ("close to the base", "audio is read early", "video is read late"):
        assert "3 factual and 20 counterfactual samples" in found[name].ours
    assert "all:" not in found["the base's rank"].ours


def of(name: str, made: Tables, given: Any) -> Finding:
    for table in made.values():
        table.attrs |= MODEL
    return check(made, given, claims=[c for c in CLAIMS if c.name == name])[0]


def test_a_judge_that_fails_where_it_would_have_said_otherwise() -> None:
    made, given = fidelity(audio=(0.5, 0.5))(np.random.default_rng(0), 100)
    good = (given["kind"] == "counterfactual") & (given["score"] > 0.2)
    one = of("audio collapses", made, given.assign(score=given["score"].where(~good)))
    assert one.verdict == "not testable here" and "of 100 samples with numbers, half" in one.ours
    made, given = knockouts("video", "hear", 0.2, lambda center: 0.0)(np.random.default_rng(0), 100)
    late = given["condition"] == "generated !-> video @ 26-34"
    assert sum(late) == 100
    lost = late & (given["score"] < 0.4)
    one = of("late video suppresses", made, given.assign(score=given["score"].where(~lost)))
    assert one.verdict != "agrees" and "layers 26 to 34" not in one.ours


def test_audio_that_rises_by_less_than_video_does_not_hold() -> None:
    rising = fidelity(audio=(0.23, 0.33), video=(0.2, 0.6))(np.random.default_rng(0), 250)
    one = of("video holds", *rising)
    assert one.verdict == "differs" and "audio falls by more: 2" in one.ours


@pytest.mark.parametrize("move", [0.03, -0.03])
def test_a_small_effect_of_very_many_clips(move: float) -> None:
    made, given = fidelity(audio=(0.5, 0.5 - move))(np.random.default_rng(0), 3000)
    assert of("audio collapses", made, given).verdict == "differs"


def test_a_gain_in_early_layers_alone() -> None:
    gains = knockouts("video", "hear", 0.2, lambda center: 0.4 * (center < 16))
    one = of("late video suppresses", *gains(np.random.default_rng(0), 100))
    assert one.verdict != "agrees"


@pytest.mark.parametrize(("name", "key", "question"), [(n, k, q) for n, k, q in zip(
    KNOCKED, ("video", "audio", "video"), ("hear", "hear", "see"), strict=True
)])  # fmt: skip
def test_the_opposite_of_a_knockout(name: str, key: str, question: str) -> None:
    sign = -1 if name == "late video suppresses" else 1
    moved = knockouts(key, question, 0.4, lambda center: sign * 0.2 * (center > 16))
    assert of(name, *moved(np.random.default_rng(0), 100)).verdict == "differs"


def test_a_knockout_has_one_band_on_a_page() -> None:
    moved = knockouts("video", "hear", 0.23, lambda center: 0.2 * (center == 30))
    made, given = moved(np.random.default_rng(0), 60)
    given.loc[given.sample(frac=0.1, random_state=0).index, "score"] = np.nan  # missing ones, too
    ours = of("late video suppresses", made, given)
    assert ours.observed is not None
    (effect,) = ours.observed.effects
    table = joined(made["knockout"].assign(condition=conditions(made["knockout"])), given)
    empty = dict.fromkeys(("heard_logprob", "seen_logprob", "caption_logprob"), np.nan)
    lines = knockout.headline(table.assign(**empty, n_scored=1))
    (line,) = [line for line in lines if "moves what is named" in line]
    assert "layers 26 to 34" in line and "layers 26 to 34" in ours.ours
    assert in_words(effect.point, "points", 2) in line
    assert in_words(effect.point, "points", 1) in ours.ours


def test_answers_that_are_empty_or_the_same() -> None:
    made, given = captions(0.6, 0.2)(np.random.default_rng(0), 100)
    empty = [()] * len(made["captions"])
    silent = {"captions": made["captions"].assign(events=empty, heard_found=0.0, seen_found=0.0)}
    assert of("the picture is named", silent, given).verdict == "differs"
    everything = [tuple(f"event {i}" for i in range(40))] * len(empty)
    loud = {"captions": made["captions"].assign(events=everything)}
    assert of("the picture is named", loud, given).verdict == "differs"


def test_captions_of_other_clips() -> None:
    made, given = captions(0.6, 0.2, read=0.6)(np.random.default_rng(0), 200)
    assert of("the picture is named", made, given).verdict == "agrees"
    named = made["captions"]["events"].sample(frac=1, random_state=1).to_numpy()
    moved = {**made, "captions": made["captions"].assign(events=named)}
    assert of("the picture is named", moved, given).verdict != "agrees"
    read = made["logit_lens"]["events"].sample(frac=1, random_state=1).to_numpy()
    moved = {**made, "logit_lens": made["logit_lens"].assign(events=read)}
    assert of("heard, not said", moved, given).verdict != "agrees"


@pytest.mark.parametrize(
    "facts",
    [
        dict(model="Qwen/Qwen2.5-Omni-7B"),
        dict(model="Qwen/Qwen3-Omni-30B-A3B"),
        dict(base="Qwen/Qwen3-VL-4B"),
        dict(judge={"name": "lexical", "judge": "lexical"}),
    ],
)
def test_published_numbers_of_something_else(facts: dict[str, Any]) -> None:
    made, given = biased()
    for table in made.values():
        table.attrs |= MODEL | facts
    given.attrs = {"judge": facts.get("judge", {"name": "j", "model": "j"})}
    sizes = {name: one.size for name, one in verdicts(made, given).items()}
    for_base = ("as the base would", "the base's rank", "close to the base")
    for name in for_base if "base" in facts else JUDGED if "judge" in facts else sizes:
        assert sizes[name] == "-"
    # Words are compared with no judged recall.
    assert sizes["heard, not said"] == "-"


def test_ratings_of_something_else_or_of_one_value(tmp_path: Path) -> None:
    _, plain = fidelity(audio=(0.5, 0.2), video=(0.6, 0.5))(np.random.default_rng(0), 20)
    plain = plain.assign(text="a dog", reason="so", status="judged", judge="planted")
    plain["references"] = [["a dog"]] * len(plain)
    sheet = tmp_path / "sheet.csv"
    write_sheet(choose(plain, 40), sheet, tmp_path / "sheet.html")

    def fair(scores: Any, *ratings: Path) -> Finding:
        fairness = [claim for claim in CLAIMS if claim.name == "the judge is fair"]
        return check({}, scores, ratings, fairness)[0]

    anna, rows = tmp_path / "anna.csv", pd.read_csv(sheet, dtype=str)
    rows.assign(rating="0.5").to_csv(anna, index=False)
    same = fair(plain, anna)
    assert same.verdict == "not testable here" and "numbers that do not vary" in same.ours
    gone = fair(plain, tmp_path / "otto.csv")
    assert gone.verdict == "not testable here" and "got no file at" in gone.ours
    other = fair(plain[plain["sample"] != "factual 3"], anna)
    assert other.verdict == "not testable here"
    assert "ratings of captions in these scores" in other.ours and "row " in other.ours
