"""The lens finds what was planted, and what is heard in its own second."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.cases import KEYS, Case
from analyses.logit_lens import Config, headline, plot, run
from analyses.logit_lens.recall import ANY_LAYER, recall
from analyses.logit_lens.table import COLUMNS
from analyses.plots import figures
from analyses.text.vocabulary import first_tokens, text_of
from hooked_omni import HookedOmni
from hooked_omni.errors import ResultsError
from tests.support.planted import asked, planted

TOLD_AT = 3


@pytest.fixture(scope="module")
def teller() -> HookedOmni:
    return planted(told_at=TOLD_AT)


@pytest.fixture(scope="module")
def table(teller: HookedOmni) -> pd.DataFrame:
    return run(teller, list(_cases(teller)))


def _cases(omni: HookedOmni) -> Iterator[Case]:
    for heard, seen in (("dog", "dog"), ("train", "train"), ("dog", "bus"), ("train", "dog")):
        kind = "factual" if heard == seen else "counterfactual"
        captions: Any = dict(
            audio_captions=(f"A {heard} is heard",), video_captions=(f"A {seen} is seen",)
        )
        yield Case(asked(omni, heard, seen), f"{heard}-{seen}", kind, **captions)


def test_pieces_of_characters_are_shown_as_bytes(omni: HookedOmni) -> None:
    tokenizer = omni.model.tokenizer
    tokens = tokenizer.encode("狗", add_special_tokens=False)
    assert "".join(text_of(tokenizer, t) for t in tokens) == "<0xE7><0x8B><0x97>"
    assert text_of(tokenizer, tokenizer.encode(" ")[0]) == " "
    assert text_of(tokenizer, tokenizer.convert_tokens_to_ids("<|im_end|>")) == "<|im_end|>"
    assert text_of(tokenizer, 10_000) == "<no token 10000>"


def test_a_word_is_known_by_its_first_token(teller: HookedOmni) -> None:
    tokenizer = teller.model.tokenizer
    space_dog, letter = tokenizer.encode(" dog")[0], tokenizer.encode("s")[0]
    assert first_tokens(tokenizer, "dog") == {space_dog: True}  # not "d" or "D", its first letters
    siren = first_tokens(tokenizer, "siren")
    assert siren == {letter: False, tokenizer.encode("S")[0]: False}  # " " alone says nothing


def test_what_is_told_is_found_from_its_layer_on(table: pd.DataFrame) -> None:
    found = recall(table)
    by_layer: Any = found.groupby("layer")["recall"].unique()
    for layer in range(8):
        assert by_layer[layer] == [100.0 * (layer >= TOLD_AT)]
    assert by_layer[ANY_LAYER] == [100.0]
    assert set(recall(table, "chance")["recall"]) == {0.0}
    seen = recall(table, "seen").query("layer == 7")
    by_kind = dict(zip(seen["kind"], seen["recall"], strict=True))
    assert by_kind == {"factual": 100.0, "counterfactual": 0.0}


def test_nothing_is_found_where_nothing_is_told() -> None:
    omni = planted(told_at=None)
    found = run(omni, list(_cases(omni)))
    assert set(recall(found)["recall"]) == {0.0}
    assert set(found.query("measure == 'top'")["events"]) == {()}


def test_words_rise_in_the_layer_where_they_are_told(table: pd.DataFrame) -> None:
    words = table.query("measure == 'word' and lens == 'norm' and word == 'dog'")
    assert set(words["token_text"]) == {" dog"} and set(words["whole"]) == {True}
    before, after = words.query("layer < @TOLD_AT"), words.query("layer >= @TOLD_AT")
    assert set(after["rank"]) == {1} and min(before["rank"]) > 1
    assert min(after["logprob"]) > max(before["logprob"]) + 1


def test_each_second_says_what_is_heard_in_it() -> None:
    """A head that mixes what is heard so far: silence stays silent, what comes later is not."""
    omni = planted(told_at=TOLD_AT)
    prompt = asked(omni, "dog", "bus", heard_when="audio@2.0-3.0s")
    case = Case(prompt, "late", audio_captions=("A dog barks",))
    top = run(omni, [case], Config(lenses=("norm",))).query("measure == 'top'")
    named = top[top["events"] == ("dog",)]
    assert set(named["layer"]) == set(range(TOLD_AT, 8))
    assert min(named["second"]) >= 2.0
    seconds = prompt.spans.seconds["audio"].tolist()
    at_layer = top.query("layer == 0")
    assert at_layer["second"].tolist() == pytest.approx(seconds)
    assert at_layer["position"].tolist() == prompt.spans["audio"].tolist()


def test_rows_are_documented(table: pd.DataFrame, teller: HookedOmni) -> None:
    assert tuple(table.columns) == (*KEYS, *COLUMNS)
    for column in COLUMNS:
        assert f"`{column}`" in (run.__doc__ or "")
    n_audio = len(asked(teller).spans["audio"])
    top = table.query("measure == 'top'")
    assert len(top) == 4 * 2 * 8 * n_audio
    assert top["rank"].tolist() == top["k"].tolist()
    assert set(table["heard"]) == {("dog",), ("train",)}
    assert set(table.query("sample == 'dog-bus'")["seen"]) == {("bus",)}


def test_own_words_are_asked_for_everywhere_on_request(teller: HookedOmni) -> None:
    prompt = asked(teller, "dog", "bus", heard_when="audio@1.0-2.0s")  # positions differ
    config = Config(lenses=("raw",), top_k=3, words=("dog", "siren"), words_everywhere=True)
    found = run(teller, [prompt], config)
    n_audio = len(prompt.spans["audio"])
    words = found.query("measure == 'word'")
    assert len(words) == 2 * 8 * n_audio and set(words["events"]) == {()}
    assert set(words.query("word == 'siren'")["whole"]) == {False}
    best = run(teller, [prompt], replace(config, words_everywhere=False))
    highest: Any = words.groupby(["layer", "word"])["logprob"].max()
    for row in best.query("measure == 'word'").to_dict("records"):
        assert row["logprob"] == pytest.approx(highest[row["layer"], row["word"]])
    places = found.query("measure == 'top' and layer == 5 and position == position.min()")
    assert places["k"].tolist() == [1, 2, 3]
    assert places["logprob"].is_monotonic_decreasing


def test_a_users_words_name_events(teller: HookedOmni) -> None:
    case = Case(asked(teller, "chef", None), "kitchen", audio_captions=("A chef shouts",))
    own = {"cook": ["chef"]}
    assert set(run(teller, [case])["heard"]) == {("shout",)}
    with_own = recall(run(teller, [case], Config(lenses=("norm",), own=own)))
    assert with_own.query("layer == 7")["recall"].tolist() == [50.0]


def test_clips_without_sound_are_skipped_and_listed(teller: HookedOmni) -> None:
    found = run(teller, [Case(asked(teller, kind="video"), "mute"), Case(asked(teller), "loud")])
    assert set(found["sample"]) == {"loud"}
    assert "got no audio" in found.attrs["skipped"]["mute/hear"]
    assert found.attrs["n_cases"] == 2


def test_video_positions_may_be_read_too(teller: HookedOmni) -> None:
    prompt = asked(teller)
    found = run(teller, [prompt], Config(span="video", lenses=("norm",)))
    assert found.query("layer == 0")["position"].tolist() == prompt.spans["video"].tolist()


def test_captions_without_sounds_are_missing_not_zero(teller: HookedOmni) -> None:
    captions = dict(named=("A dog barks",), unnamed=("Bad quality",))
    cases = [Case(asked(teller), s, audio_captions=texts) for s, texts in captions.items()]
    found = run(teller, cases, Config(lenses=("norm",)))
    recalls: Any = recall(found).query("layer == 7").set_index("sample")["recall"]
    assert recalls["named"] == 100 and np.isnan(recalls["unnamed"])
    assert "n = 1, 1 missing" in headline(found)[0]
    only = found.query("sample == 'unnamed'")
    assert "no sample has captions that name a sound event" in headline(only)[0]
    plot(only)


def test_words_that_the_model_cannot_say(teller: HookedOmni) -> None:
    with pytest.raises(ResultsError, match=r"expected words that this model has tokens for, .*' '"):
        run(teller, [asked(teller)], Config(words=("dog", " ")))


def test_a_model_without_a_tokenizer(omni: HookedOmni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omni.model, "tokenizer", None)
    with pytest.raises(ResultsError, match="expected a tokenizer for"):
        run(omni, [omni.model.as_prompt(torch.arange(3)[None])])


def test_a_column_of_panels_for_each_lens(table: pd.DataFrame) -> None:
    figure = plot(table)
    n = len(set(table["lens"]))
    recalls, words, heat = (figure.axes[i * n] for i in range(3))
    assert recalls.get_title() == "hear, lens: norm\nn = 2 to 4"
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in recalls.get_lines()}
    assert lines["factual"].tolist() == [0.0] * 3 + [100.0] * 5
    assert lines["counterfactual, by chance"].tolist() == [0.0] * 8
    drawn = words.get_lines()
    assert [line.get_label() for line in drawn] == ["factual", "counterfactual", "all"]
    # Kinds differ in line and marker, not in color.
    looks = ("linestyle", "marker", "markersize")
    assert [len({getattr(x, f"get_{look}")() for x in drawn}) for look in looks] == [3] * 3
    assert {line.get_color() for line in drawn} == {figures.COLORS["audio"]}
    assert heat.get_title() == "n = 4"
    assert figure.axes[-1].get_ylabel() == "positions that name\nwhat is heard, %"
    drawn = np.asarray(heat.collections[0].get_array()).reshape(8, -1)
    assert (drawn[:TOLD_AT] == 0).all() and (drawn[TOLD_AT:] == 100).all()


@pytest.mark.parametrize(("model", "theirs"), [("openbmb/MiniCPM-o-2_6", 75.4), ("other", None)])
def test_the_published_number_stands_under_its_model(
    table: pd.DataFrame, model: str, theirs: float | None
) -> None:
    own = table.copy()
    own.attrs = {**table.attrs, "model": model}
    lines = {str(line.get_label()): line for line in plot(own).axes[0].get_lines()}
    label = "published, MiniCPM-o 2.6,\ncounterfactual, all layers, judged"
    assert (label in lines) == (theirs is not None)
    if theirs is not None:
        assert set(np.asarray(lines[label].get_ydata())) == {theirs}
        assert any(f"2.6: {theirs} %, all layers, judged." in line for line in headline(own))


def test_sentences_with_numbers(table: pd.DataFrame) -> None:
    lines = headline(table)
    assert len(lines) == 6
    assert lines[0].startswith("factual, hear, lens norm: 100.0 % [100.0, 100.0], n = 2 of the")
    assert "events of other clips: 0.0 %" in lines[0] and "in the best one, 3," in lines[0]
