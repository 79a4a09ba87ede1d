"""Answers are the model's own, what they name is counted right, and scores join the right rows."""

from typing import Any

import pandas as pd
import pytest
import torch

from analyses import captions, fidelity
from analyses.cases import Case
from analyses.study.judging import UNTOUCHED, conditions
from hooked_omni import HookedOmni, load
from hooked_omni.errors import ResultsError

N_NEW = 8


@pytest.fixture(scope="module")
def omni() -> HookedOmni:
    return load("random-omni")


def cases(omni: HookedOmni, heard: tuple[str, ...] = ()) -> list[Case]:
    prompts = [omni.model.as_prompt(torch.arange(2, 40 + n)[None]) for n in range(3)]
    return [Case(p, f"s{n}", question="hear", audio_captions=heard) for n, p in enumerate(prompts)]


def test_captions_are_the_models_own(omni: HookedOmni) -> None:
    asked = cases(omni)
    table = captions.run(omni, asked, captions.Config(max_new_tokens=N_NEW))
    for case, row in zip(asked, table.to_dict("records"), strict=True):
        prompt: Any = case.prompt
        answer = omni.model.generate(prompt, max_new_tokens=N_NEW)
        assert (row["sample"], row["caption"]) == (case.sample, answer.text)
        assert row["n_tokens"] == len(answer.tokens) <= N_NEW
        assert row["ended"] == (int(answer.tokens[-1]) in omni.model.cfg.eos_tokens)
    assert table[["heard_found", "seen_found"]].isna().to_numpy().all()


def test_without_a_tokenizer_nothing_is_known_of_the_answer(
    omni: HookedOmni, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = cases(omni, ("A dog barks.",))
    monkeypatch.setattr(omni.model, "tokenizer", None)
    table = captions.run(omni, asked, captions.Config(max_new_tokens=2))
    assert table[["caption", "heard_found", "seen_found"]].isna().to_numpy().all()


def test_what_is_named_is_counted(omni: HookedOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    from hooked_omni import HookedTransformer
    from hooked_omni.decoding.generate import Generation

    said = iter(["a dog barks", "a dog and a siren", "nothing at all"])

    def says(*_: Any) -> Generation:
        return Generation(torch.tensor([1, 2]), next(said))

    monkeypatch.setattr(HookedTransformer, "generate", says)
    table = captions.run(omni, cases(omni, ("A dog barks while a siren wails.",)))
    assert table["heard_found"].tolist() == [0.5, 1.0, 0.0]
    assert captions.headline(table)[0] == (
        "factual, hear: audio fidelity is 50.0 % [0.0, 100.0], n = 3."
    )
    captions.plot(table).savefig("/dev/null", format="png")


def test_answers_that_nothing_is_known_of_have_no_headline(omni: HookedOmni) -> None:
    table = captions.run(omni, cases(omni), captions.Config(max_new_tokens=2))
    with pytest.raises(ResultsError, match="expected scores of answers, got none"):
        captions.headline(table)


def row(**more: Any) -> dict[str, Any]:
    known = dict(sample="s", kind="factual", question="hear", condition="", what="audio")
    return {**known, "judge": "planted", "score": 1.0, **more}


def test_scores_join_the_condition_they_are_of() -> None:
    cut: dict[str, Any] = dict(sample="s", kind="factual", question="hear", query="generated")
    cut |= dict(first_layer=None, last_layer=None)
    table = pd.DataFrame(
        [
            {**cut, "key": "none"},
            {**cut, "key": "video", "first_layer": 0, "last_layer": 2},
            {**cut, "key": "audio", "first_layer": 0, "last_layer": 2},
        ]
    ).astype({"first_layer": "Int64", "last_layer": "Int64"})
    table = table.assign(condition=conditions(table))
    assert table["condition"].tolist() == [
        UNTOUCHED, "generated !-> video @ 0-2", "generated !-> audio @ 0-2",
    ]  # fmt: skip
    scores = pd.DataFrame(
        [
            row(score=0.1),
            row(condition="generated !-> audio @ 0-2", score=0.3),
            row(condition="generated !-> video @ 0-2", score=0.2, kind="counterfactual"),
            row(condition=UNTOUCHED, score=0.4),
            row(condition=UNTOUCHED, score=0.5, what="video"),
        ]
    )
    joined = fidelity.joined(table, scores)
    assert joined["audio_fidelity"].fillna(-1).tolist() == [0.4, -1, 0.3]
    assert joined["video_fidelity"].fillna(-1).tolist() == [0.5, -1, -1]


def test_missing_scores_are_counted_and_not_averaged() -> None:
    scores = pd.DataFrame(
        [row(sample=f"s{i}", score=score) for i, score in enumerate((1.0, 0.5, None))]
        + [row(sample="s0", condition="generated !-> video @ 0-2", score=0.0)]
    ).astype({"score": float})
    assert fidelity.headline(scores)[0].startswith(
        "factual, hear: audio fidelity is 75.0 % [50.0, 100.0], n = 2, 1 missing."
    )


def test_factual_clips_come_first() -> None:
    rows = [row(kind=kind) for kind in ("silence", "counterfactual", "factual")]
    kinds = [line.partition(",")[0] for line in fidelity.headline(pd.DataFrame(rows))[:3]]
    assert kinds == ["factual", "counterfactual", "silence"]
