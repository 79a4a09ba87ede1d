"""Answers are the model's own, what they name is counted right, and scores join the right rows."""

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from analyses import captions, fidelity, knockout
from analyses.cases import Case
from analyses.plots import figures
from analyses.study.judging import UNTOUCHED, conditions
from hooked_omni import HookedOmni, HookedTransformer, load
from hooked_omni.decoding.generate import Generation

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
    *answers, note = captions.headline(table)
    assert answers == [
        f"s{n}, hear: {' '.join(text.split())}" for n, text in enumerate(table["caption"])
    ]
    assert note.startswith("No reference captions name a sound event")


def test_no_tokenizer_no_caption(omni: HookedOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omni.model, "tokenizer", None)
    table = captions.run(omni, cases(omni, ("A dog barks.",)), captions.Config(max_new_tokens=2))
    assert table[["caption", "heard_found", "seen_found"]].isna().to_numpy().all()


def test_what_is_named_is_counted(omni: HookedOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("a dog barks", "a dog and a siren", "nothing at all")
    answers = (Generation(torch.tensor([1, 2]), text) for text in texts)
    monkeypatch.setattr(HookedTransformer, "generate", lambda *_, **__: next(answers))
    table = captions.run(omni, cases(omni, ("A dog barks while a siren wails.",)))
    assert table["heard_found"].tolist() == [0.5, 1.0, 0.0]
    first = "factual, hear: audio fidelity is 50.0 % [0.0, 100.0], n = 3."
    assert captions.headline(table)[0] == first
    captions.plot(table).savefig("/dev/null", format="png")


def row(**more: Any) -> dict[str, Any]:
    known = dict(sample="s", kind="factual", question="hear", condition="", what="audio")
    return {**known, "judge": "planted", "score": 1.0, **more}


def test_scores_join_the_condition_they_are_of() -> None:
    cut: dict[str, Any] = dict(sample="s", kind="factual", question="hear", query="generated")
    cut |= dict(first_layer=None, last_layer=None)
    window = dict(first_layer=0, last_layer=2)
    rows = [{**cut, "key": "none"}, *({**cut, **window, "key": key} for key in ("video", "audio"))]
    table = pd.DataFrame(rows).astype(dict.fromkeys(window, "Int64"))
    table = table.assign(condition=conditions(table))
    no_video, no_audio = "generated !-> video @ 0-2", "generated !-> audio @ 0-2"
    assert table["condition"].tolist() == [UNTOUCHED, no_video, no_audio]
    scores = [
        row(score=0.1),
        row(condition=no_audio, score=0.3),
        row(condition=no_video, score=0.2, kind="counterfactual"),
        row(condition=UNTOUCHED, score=0.4),
        row(condition=UNTOUCHED, score=0.5, what="video"),
    ]
    joined = fidelity.joined(table, pd.DataFrame(scores))
    assert joined["audio_fidelity"].fillna(-1).tolist() == [0.4, -1, 0.3]
    assert joined["video_fidelity"].fillna(-1).tolist() == [0.5, -1, -1]


def test_missing_scores_are_counted_and_not_averaged() -> None:
    scores = pd.DataFrame(
        [row(sample=f"s{i}", score=score) for i, score in enumerate((1.0, 0.5, None))]
        + [row(sample="s0", condition="generated !-> video @ 0-2", score=0.0)]
    ).astype({"score": float})
    first = "factual, hear: audio fidelity is 75.0 % [50.0, 100.0], n = 2, 1 missing"
    assert fidelity.headline(scores) == [f"{first}."]
    scores.attrs["model"] = "Qwen/Qwen2.5-Omni-3B"
    assert fidelity.headline(scores) == [f"{first} (published, Qwen2.5-Omni-3B: 53.0 %)."]


def test_a_band_is_the_same_in_every_figure() -> None:
    """Of the same samples, whatever else a table holds, and in whatever order."""
    rng, known = np.random.default_rng(0), []
    for kind in ("silence", "counterfactual", "factual"):
        names = rng.permutation(30)
        values = dict(zip(names, rng.random(30), strict=True))
        known += [row(sample=f"{kind}{i}", kind=kind, score=values[i]) for i in names]
    scores = pd.DataFrame(known)
    cut: Any = dict(key="none", query="generated", center=None, n_layers=8, video_fidelity=None)
    table = scores.sort_values("score").rename(columns={"score": "audio_fidelity"})
    logprobs = dict.fromkeys(("heard_logprob", "seen_logprob", "caption_logprob"), np.nan)
    found = knockout.headline(table.assign(**cut, **logprobs, n_scored=1))
    for line, other in zip(fidelity.headline(scores), found, strict=True):
        assert line.partition("fidelity is ")[2] == other.partition("fidelity: ")[2]


def test_no_color_stands_for_two_things() -> None:
    assert len(set(figures.COLORS.values())) == len(figures.COLORS)
    scores = pd.DataFrame([row(sample=str(i), score=i % 2) for i in range(4)])
    figure = fidelity.plot(scores)
    (bar,) = figure.axes[0].patches
    assert to_hex(bar.get_facecolor()) == figures.COLORS["audio"].lower()
    assert figure.get_figwidth() == figures.WIDTH
    file = io.BytesIO()
    figure.savefig(file, format="pdf")
    assert b"/Type3" not in file.getvalue() and b"/CIDFontType2" in file.getvalue()


def test_factual_clips_come_first() -> None:
    rows = [row(kind=kind) for kind in ("silence", "counterfactual", "factual")]
    rows = [{**one, "sample": one["kind"]} for one in rows]
    kinds = [line.partition(",")[0] for line in fidelity.headline(pd.DataFrame(rows))]
    assert kinds == ["factual", "counterfactual", "all", "silence"]
