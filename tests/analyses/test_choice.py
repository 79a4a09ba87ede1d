"""Options' numbers are Hugging Face's, and what is counted was planted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import choice
from analyses.cases import Case, read_cases
from analyses.choice import measures
from analyses.choice.options import option_scores
from analyses.running.type_check import make_config
from analyses.text.choices import choices
from analyses.text.wording import worded
from data_prep.manifest import OWN_CAPTIONS, Sample, write_manifest
from data_prep.questions import ChoiceQuestion, lettered
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, knockout, load, prefill
from hooked_omni.decoding.conditions import row_bytes
from hooked_omni.errors import HookError, NotFiniteError, PromptError, ResultsError
from tests.support.clips import write_clip
from tests.support.hugging_face import hf_logprobs

run: Any = choice.run
DOG = ChoiceQuestion("Which?", ("a dog", "rain", "Yes"), "rain", task="events")


def case(prompt: Any, given: ChoiceQuestion | None = DOG, **more: Any) -> Case:
    return Case(prompt, "clip", choice=given, **more)


@pytest.mark.parametrize("by", ["first", "whole", "per token"])
def test_options_have_hugging_faces_log_probabilities(
    omni: HookedOmni, prompt: EmbeddedPrompt, by: Any
):
    table = run(omni, [case(prompt)], choice.Config(by=by))
    tokens = [omni.model.tokenizer.encode(option) for option in DOG.options]
    theirs = [hf_logprobs(omni, prompt, torch.tensor(own)) for own in tokens]
    whole, first = [float(t.sum()) for t in theirs], [float(t[0]) for t in theirs]
    assert table["logprob"].tolist() == pytest.approx(whole, abs=1e-4)
    assert table["first_logprob"].tolist() == pytest.approx(first, abs=1e-4)
    assert table["n_tokens"].tolist() == [len(own) for own in tokens]
    per_token = [w / len(t) for w, t in zip(whole, tokens, strict=True)]
    value = {"first": first, "whole": whole, "per token": per_token}[by]
    assert table["value"].tolist() == pytest.approx(value, abs=1e-4)
    shares = torch.tensor(value).softmax(0).tolist()
    assert table["p"].tolist() == pytest.approx(shares, abs=1e-4)
    assert table["chosen"].tolist() == [v == max(value) for v in value]
    assert table["right"].tolist() == [False, True, False]


def test_conditions_share_one_pass_and_are_their_own(
    omni: HookedOmni, prompt: EmbeddedPrompt, passes: Any
):
    letters = lettered("Which?", ["x", "y", "z"], 0)
    config = choice.Config(conditions={"no video": ["last+generated !-> V"]})
    mine = {"quiet": [knockout("last+generated !-> A")]}
    table = run(omni, [case(prompt, letters)], config, mine)
    assert table["condition"].tolist() == [n for n in ("plain", "no video", "quiet") for _ in "xyz"]
    assert [n for _, n in passes].count(prompt.n_pos) == 1  # over the prompt
    for name, hooks in (("no video", [knockout("last !-> V")]), ("quiet", mine["quiet"])):
        alone = omni.model.run_with_hooks(prompt, fwd_hooks=hooks)[0, -1].log_softmax(-1)
        own = table[table["condition"] == name]
        expected = [float(alone[omni.model.tokenizer.encode(one)[0]]) for one in "ABC"]
        assert own["logprob"].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("given", "config", "decisive"),
    [
        (None, {}, "without"),
        (replace(DOG, options=("a dog", "a cat"), label=None), {"by": "first"}, "share one"),
    ],
)
def test_what_cannot_be_asked_is_skipped_and_listed(
    omni: HookedOmni, prompt: EmbeddedPrompt, given: Any, config: Any, decisive: str
):
    table = run(omni, [case(prompt, given)], choice.Config(**config))
    assert table.empty and decisive in table.attrs["skipped"]["clip/hear"]


def test_an_organism_is_asked_which_in_its_own_words_alone(tmp_path: Path):
    organism, clip = load("organism-balanced"), write_clip(tmp_path / "c.mp4", audio_hz=440)
    given = replace(DOG, options=("zebra", "dog"), label=None)
    table = run(organism, [case(Prompt("describe what you hear", video=clip), given)])
    assert "zebra" in table.attrs["skipped"]["clip/hear"]
    captions: Any = dict(audio_captions=("A dog barks",), video_captions=("A siren wails",))
    path = write_manifest(tmp_path / "m.jsonl", [counterfactual(**captions)])
    with pytest.raises(PromptError, match="'Which'"):
        run(organism, read_cases(path, ("which",)))
    own = {"which": "You can hear a {} and a {}. Describe what you hear.", "which answer": "a {}"}
    table = run(organism, read_cases(path, ("which",), wording=own))
    assert table["option"].tolist() == ["a dog", "a siren"] * 2
    odds = measures.heard_minus_seen(measures.answers(table))
    sides: Any = table.pivot_table("value", "sub_task", "option")
    sides = sides["a dog"] - sides["a siren"]
    assert odds["odds"].tolist() == pytest.approx([sides.mean()])
    effect = sides["heard first"] - sides["seen first"]
    assert odds["order_effect"].tolist() == pytest.approx([effect]) and effect != 0
    assert any(": order effect is" in line for line in choice.headline(table))


@pytest.mark.parametrize(
    ("options", "decisive"),
    [
        (("<|im_end|>", "a dog"), "im_end"),
        (("a dog<|im_start|>", "rain"), "im_start"),
        (("<|AUDIO|>", "rain"), "AUDIO"),
    ],
)
def test_an_option_that_is_read_as_something_else_is_none(
    omni: HookedOmni, prompt: EmbeddedPrompt, options: Any, decisive: str
):
    table = run(omni, [case(prompt, ChoiceQuestion("Which?", options))])
    assert table.empty and decisive in table.attrs["skipped"]["clip/hear"]


def test_batches_and_prefixes_change_nothing(omni: HookedOmni, prompt: EmbeddedPrompt):
    """Options that begin alike, one that another begins with, in batches and prefilled or not."""
    options = ("a dog", "a dog barks", "a", "rain")
    conditions = [[], [knockout("last+generated !-> V")], [knockout("text+audio !-> V")]]
    ready = prefill(omni.model, prompt)
    together = option_scores(omni.model, ready, options, conditions)
    assert np.isnan(together.first[0]).tolist() == [True, True, True, False]
    smallest = 2 * row_bytes(omni.model.cfg, prompt.n_pos + 8, prompt.n_pos, 8)  # one row at once
    for budget, given in ((None, prompt), (smallest, ready), (smallest, prompt)):
        other = option_scores(omni.model, given, options, conditions, budget)
        np.testing.assert_allclose(other.whole, together.whole, atol=1e-4)
        assert (other.whole.argmax(1) == together.whole.argmax(1)).all()
    for i, one in enumerate(conditions):
        alone = option_scores(omni.model, ready, options, [one])
        np.testing.assert_allclose(alone.whole[0], together.whole[i], atol=1e-4)


def test_weights_that_are_no_numbers_are_no_answer(clips: Any):
    broken = load("random-omni")
    broken.hf.lm_head.weight.data[7] = torch.nan
    given = broken.embed_inputs(**clips["omni", "audio in video"])
    with pytest.raises(NotFiniteError):
        run(broken, [case(given, lettered("Which?", ["x", "y"], 0))])
    with pytest.raises(NotFiniteError):
        run(broken, [case(given)])


def test_heard_minus_seen_stands_beside_the_fidelity_of_each_clip():
    rows, scores = [], []
    for i in range(20):
        for option, value in (("rain", 0.2 * i), ("dog", 1.0)):
            keys = dict(sample=f"s{i}", kind="counterfactual", question="forced.1")
            more = dict(task="heard or seen", sub_task="", condition="plain", option=option)
            known = dict(value=value, right=option == "rain", p=0.5, chosen=option == "rain")
            rows.append(keys | more | known | dict(by="whole"))
        judged = dict(sample=f"s{i}", kind="counterfactual", question="hear", condition="")
        for what, score in (("audio", i / 20), ("video", 1 - i / 20)):
            scores.append(judged | dict(what=what, score=score))
    table, judged = pd.DataFrame(rows), pd.DataFrame(scores)
    sentence = "forced: Spearman's rho of heard minus seen and audio fidelity over clips is 1.00 ["
    assert any(sentence in line for line in choice.headline(table, judged))
    assert not any("rho" in line for line in choice.headline(table))
    judged.loc[:3, "score"] = np.nan
    assert any("n = 18, 2 missing" in line for line in choice.headline(table, judged))
    drawn = [len(choice.plot(table, own).axes) for own in (None, judged, judged.iloc[:0])]
    assert drawn == [2, 3, 2]


def test_a_span_that_a_clip_lacks_skips_it(models: Any, clips: Any):
    omni = models["omni"]
    silent = omni.embed_inputs(**clips["omni", "video"])
    config = choice.Config(conditions={"no sound": ["last+generated !-> A"]})
    table = run(omni, [case(silent)], config)
    assert "audio" in table.attrs["skipped"]["clip/hear"]


def test_what_reaches_no_option_is_refused(omni: HookedOmni, prompt: EmbeddedPrompt):
    config = choice.Config(conditions={"G": ["G !-> V"]})
    with pytest.raises(HookError, match="generated"):
        run(omni, [case(prompt, lettered("Which?", ["x", "y"], 0))], config)


@pytest.mark.parametrize(
    ("given", "decisive"),
    [
        ({"by": "last"}, "'last'|by"),
        ({"calibrate": "silence"}, "'silence'|calibrate"),
        ({"conditions": {"no video": "last !-> V"}}, "no video"),
        ({"conditions": {"plain": ["last !-> V"]}}, "plain"),
        ({"conditions": {"nothing": []}}, "nothing"),
    ],
)
def test_settings_without_meaning_are_refused(given: Any, decisive: str):
    with pytest.raises(ResultsError, match=decisive):
        make_config(choice.Config, given)


def test_an_empty_clip_is_taken_off(omni: HookedOmni, tmp_path: Path):
    clip = write_clip(tmp_path / "c.mp4", audio_hz=440)
    config = choice.Config(calibrate="empty clip")
    prompt = Prompt("What?", video=clip)
    table, plain = (run(omni, [case(prompt)], c) for c in (config, choice.Config()))
    assert table["value"].to_numpy() == pytest.approx((plain["value"] - table["prior"]).to_numpy())
    assert table["prior"].notna().all() and plain["prior"].isna().all()


def answered(rows: list[tuple[str, str, str, str | None, float]]) -> pd.DataFrame:
    """Yes-or-no questions: sample, condition, what is said, what is right, confidence."""
    table = []
    for i, (sample, condition, said, right, p) in enumerate(rows):
        for option in ("Yes", "No"):
            chosen = said == option
            share = p if chosen else 1 - p
            keys = dict(sample=sample, kind="factual", question=f"choice.{i // 2}")
            value = dict(value=np.log(share), p=share, chosen=chosen)
            known = None if right is None else right == option
            value |= dict(by="whole")
            more = dict(task="t", sub_task="", condition=condition, option=option, right=known)
            table.append(keys | more | value)
    return pd.DataFrame(table)


def test_measures_are_what_was_planted():
    table = answered(
        [
            ("a", "plain", "Yes", "Yes", 0.9),
            ("a", "cut", "No", "Yes", 0.9),
            ("b", "plain", "Yes", "No", 0.9),
            ("b", "cut", "No", "No", 0.9),
            ("c", "plain", "No", "No", 0.6),
            ("c", "cut", "No", "No", 0.6),
            ("d", "plain", "No", None, 0.7),
            ("d", "cut", "Yes", None, 0.7),
        ]
    )
    found = measures.answers(table)
    bands: Any = measures.accuracy(found).set_index("condition")
    assert bands["mean"].to_dict() == pytest.approx({"plain": 2 / 3, "cut": 2 / 3})
    assert bands["n"].to_dict() == {"plain": 3, "cut": 3} and bands["missing"].eq(1).all()
    # Plain: of two answers that are 90 % sure one is right, and the one that is 60 % sure is.
    assert bands.loc["plain", "error"] == pytest.approx((2 * 0.4 + 0.4) / 3)
    yes: Any = measures.yes_no(found).set_index(["condition", "measure"])["mean"]
    assert yes["plain", "F1"] == pytest.approx(2 / 3) and yes["cut", "F1"] == 0
    assert yes["plain", "yes"] == pytest.approx(2 / 3) and yes["cut", "yes"] == 0
    test = measures.mcnemar(found, "cut", "plain")
    assert test == {"lost": 1, "gained": 1, "p": 1.0, "n": 3}
    for line in (
        "of 3 questions; of 1 more nobody says",
        "1 wrong answers right and 1 right ones wrong, of 3",
    ):
        assert any(line in sentence for sentence in choice.headline(table))
    choice.plot(table)


def test_equal_options_are_no_answer():
    table = answered([("a", "plain", "Yes", "Yes", 0.5)]).assign(chosen=False)
    assert measures.answers(table)["correct"].isna().all()
    assert any("of 1 more two options are equally likely" in s for s in choice.headline(table))


def test_chance_is_of_the_questions_that_count():
    table = answered([("a", "plain", "Yes", None, 0.9), ("b", "plain", "Yes", "Yes", 0.9)])
    extra = table[table["sample"] == "b"].iloc[1:].assign(option="Maybe", p=0.0, value=-9.0)
    bands: Any = measures.accuracy(measures.answers(pd.concat([table, extra])))
    assert bands["chance"].tolist() == [pytest.approx(1 / 3)]


def test_both_orders_are_averaged_and_their_difference_is_told():
    rows = []
    for order, odds in (("heard first", 3.0), ("seen first", 1.0)):
        for option, value, right in (("rain", 0.0, True), ("dog", -odds, False)):
            keys = dict(sample="a", kind="counterfactual", question=f"which.{order}")
            more = dict(task="heard or seen", sub_task=order, condition="plain", option=option)
            rows.append(keys | more | dict(value=value, p=0.5, right=right, chosen=right))
    odds = measures.heard_minus_seen(measures.answers(pd.DataFrame(rows)))
    assert odds["odds"].tolist() == [2.0] and odds["order_effect"].tolist() == [2.0]


def counterfactual(**more: Any) -> Sample:
    captions: Any = dict(audio_captions=("Rain falls",), video_captions=("A dog runs",))
    captions |= dict(extra={OWN_CAPTIONS: ["A dog barks"]}) | more
    return Sample("a+b", "counterfactual", video="c.mp4", **captions)


def test_a_pair_is_asked_about_in_both_orders():
    words = worded({})
    first, second = choices(counterfactual(), "which", words)
    assert first.options == second.options == ("rain", "dog") and first.label == "rain"
    assert [first.text, second.text] == [
        "Which do you hear: rain or dog?",
        "Which do you hear: dog or rain?",
    ]
    (forced,) = choices(counterfactual(), "forced", words)
    assert forced.options == ("Rain falls", "A dog barks") and forced.text == words["hear"]
    same = counterfactual(audio_captions=("A dog barks.",), extra={OWN_CAPTIONS: ["a dog barks"]})
    assert not choices(same, "forced", words)
    assert not choices(counterfactual(audio_captions=("A dog barks",)), "which", words)


def test_each_question_of_a_sample_is_a_case(tmp_path: Path):
    given = [lettered("What?", ["x", "y"], 1).record, DOG.record]
    own = (("image", "p.png"), ("audio", "s.wav"), ("text", "Say it."))
    items = Sample("i", items=own, extra={"questions": given[:1]})
    samples = [Sample("a", video="c.mp4", extra={"questions": given}), items, Sample("b")]
    path = write_manifest(tmp_path / "m.jsonl", samples)
    cases = read_cases(path, ("choice",))
    assert [one.id for one in cases] == ["a/choice.1", "a/choice.2", "i/choice.1"]
    prompt: Any = cases[2].prompt
    assert [kind for kind, *_ in prompt.items] == ["text", "image", "audio"] or [
        kind for kind, *_ in prompt.items
    ] == ["image", "audio", "text"]
    assert cases[1].choice == DOG and "Say it." not in str(prompt.items)
    with pytest.raises(ResultsError, match="choice"):
        read_cases(write_manifest(tmp_path / "n.jsonl", [Sample("b")]), ("choice",))
