"""The lens reads what Hugging Face's hidden states say, and finds what was planted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import hooked_omni.decoding.lens
from analyses import logit_lens
from analyses.cases import KEYS, Case
from analyses.logit_lens import Config, headline, plot, run
from analyses.logit_lens.recall import ANY_LAYER, recall
from analyses.text.vocabulary import first_tokens, text_of
from benchmarks.sweep import peak_bytes
from hooked_omni import HookedOmni, Spans, load
from hooked_omni.decoding.lens import LENSES, read_lens
from hooked_omni.decoding.prefill import prefill
from hooked_omni.errors import PromptError, ResultsError, SpanError
from hooked_omni.hf.capture import find_decoder
from hooked_omni.organisms.random_weights import random_omni
from tests.support.models import watched
from tests.support.planted import asked, planted

Clips = dict[tuple[str, str], dict[str, Any]]
TOLD_AT = 3


@pytest.fixture(scope="module")
def teller() -> HookedOmni:
    return planted(told_at=TOLD_AT)


@pytest.fixture(scope="module")
def table(teller: HookedOmni) -> pd.DataFrame:
    return run(teller, list(_cases(teller)))


def _cases(omni: HookedOmni) -> Iterator[Case]:
    for kind, heard, seen in (
        *[("factual", "dog", "dog"), ("factual", "train", "train")],
        *[("counterfactual", "dog", "bus"), ("counterfactual", "train", "dog")],
    ):
        yield Case(
            asked(omni, heard, seen),
            f"{heard}-{seen}",
            kind,
            audio_captions=(f"A {heard} is heard",),
            video_captions=(f"A {seen} is seen",),
        )


# --- the library ------------------------------------------------------------------------------


def _residuals(omni: HookedOmni, inputs: dict[str, Any]) -> list[torch.Tensor]:
    """Hugging Face's hidden states, and what its last block gives before the norm."""
    kept: list[torch.Tensor] = []
    last: Any = find_decoder(omni.hf).layers[-1]  # pyright: ignore[reportIndexIssue]
    handle = last.register_forward_hook(
        lambda _module, _args, out: kept.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        states = omni.hf(**inputs, output_hidden_states=True).hidden_states
    handle.remove()
    return [*states[1:-1], kept[0]]


@pytest.mark.parametrize(("name", "span"), [("omni", "audio"), ("omni", "video"), ("vl", "video")])
def test_lenses_are_hugging_faces_head_on_its_hidden_states(
    models: dict[str, HookedOmni], clips: Clips, name: str, span: str
) -> None:
    omni, inputs = models[name], clips[name, "video" if name == "vl" else "audio in video"]
    prompt, groups = omni.embed_inputs(**inputs), [[65], [7, 200, 31]]
    read = read_lens(omni.model, prompt, span, top_k=4, groups=groups)
    head, norm = omni.hf.get_output_embeddings(), find_decoder(omni.hf).norm
    for layer, state in enumerate(_residuals(omni, inputs)):
        at = state[0, prompt.spans[span]]
        for kind in LENSES:
            expected = head(norm(at) if kind == "norm" else at).double().log_softmax(-1)  # pyright: ignore[reportCallIssue]
            best, tokens = expected.topk(4)
            torch.testing.assert_close(read[kind].tokens[layer], tokens)
            own = read[kind].logprobs[layer].double()
            torch.testing.assert_close(own, best, atol=1e-6, rtol=1e-6)
            for i, group in enumerate(groups):
                value, index = expected[:, group].max(-1)
                own = read[kind].group_logprobs[layer, :, i].double()
                torch.testing.assert_close(own, value, atol=1e-6, rtol=1e-6)
                assert read[kind].group_tokens[layer, :, i].tolist() == [group[j] for j in index]
                ranks = 1 + (expected > value[:, None]).sum(-1)
                assert torch.equal(read[kind].group_ranks[layer, :, i], ranks)


def test_a_prefilled_prompt_is_read_without_a_pass_to_the_bit(
    omni: HookedOmni, clips: Clips
) -> None:
    model, prompt = omni.model, omni.embed_inputs(**clips["omni", "audio in video"])
    ready = prefill(model, prompt, lambda name: name.endswith("hook_resid_post"), "audio")
    spans = ("audio", "audio@1.0-2.0s", "video", "audio+last")
    arguments: dict[str, Any] = dict(top_k=3, groups=[[65], [7, 200]])
    passes: list[int] = []
    block: Any = model.blocks[0]
    with watched(block, lambda args: passes.append(args[0].shape[1])):
        ours = [read_lens(model, ready, span, **arguments) for span in spans]
        assert passes == [prompt.n_pos] * 2  # "video" and "audio+last" were not kept
        loud = [("blocks.1.hook_resid_mid", lambda resid, hook: resid * 2)]
        with model.hooks(loud):
            louder, expected = (read_lens(model, p, **arguments) for p in (ready, prompt))
        stranger = load("random-omni").model
        others = [read_lens(stranger, p, **arguments) for p in (ready, prompt)]
    plain = [read_lens(model, prompt, span, **arguments) for span in spans]
    for one, other in [*zip(ours, plain, strict=True), (louder, expected), (others[0], others[1])]:
        for kind in LENSES:
            for name in vars(one[kind]):
                assert torch.equal(getattr(one[kind], name), getattr(other[kind], name))
    assert not torch.equal(louder["norm"].logprobs, plain[0]["norm"].logprobs)


def test_the_last_layer_with_the_norm_is_what_the_model_says(
    omni: HookedOmni, clips: Clips
) -> None:
    prompt = omni.embed_inputs(**clips["omni", "audio in video"])
    read = read_lens(omni.model, prompt, "last", kinds=["norm"])["norm"]
    assert int(read.tokens[-1, 0, 0]) == int(
        omni.model.generate(prompt, max_new_tokens=1).tokens[0]
    )


def test_chunks_bound_the_logits_and_change_nothing(
    omni: HookedOmni, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = omni.embed_inputs(**clips["omni", "audio in video"])
    whole = read_lens(omni.model, prompt, top_k=2, groups=[[65]])
    monkeypatch.setattr(hooked_omni.decoding.lens, "CHUNK_BYTES", 7 * 16 * omni.model.cfg.d_vocab)
    with _rows_unembedded(omni) as rows:
        parts = read_lens(omni.model, prompt, top_k=2, groups=[[65]])
    n_audio = len(prompt.spans["audio"])
    assert max(rows) == 7 and sum(rows) == n_audio * len(LENSES) * omni.model.cfg.n_layers
    for kind in LENSES:
        torch.testing.assert_close(parts[kind].logprobs, whole[kind].logprobs, atol=1e-6, rtol=0)
        assert torch.equal(parts[kind].group_ranks, whole[kind].group_ranks)


@contextmanager
def _rows_unembedded(omni: HookedOmni) -> Iterator[list[int]]:
    rows: list[int] = []
    unembed = omni.model.unembed
    handle = unembed.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[0]))
    try:
        yield rows
    finally:
        handle.remove()


def test_memory_stays_within_a_few_chunks_through_many_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Small results kept between large buffers tear the heap apart: gigabytes at full size."""
    hf, processor = random_omni(n_layers=36)
    hf.resize_token_embeddings(20_000, mean_resizing=False)
    omni = HookedOmni.from_hf(hf, processor)
    tokens = torch.arange(300)[None] % 256
    prompt = omni.embed_inputs(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    prompt = replace(prompt, spans=Spans({"audio": torch.arange(20, 270)}, 300))
    monkeypatch.setattr(hooked_omni.decoding.lens, "CHUNK_BYTES", 2**25)
    extra = peak_bytes(lambda: read_lens(omni.model, prompt, top_k=5, groups=[[65], [66, 67]]))
    assert extra < 4 * 2**25


def test_at_a_real_vocabulary_a_chunk_is_an_eighth_of_a_gigabyte() -> None:
    a_row = hooked_omni.decoding.lens._BYTES_A_LOGIT * 152_064
    rows = hooked_omni.decoding.lens.CHUNK_BYTES // a_row
    assert rows >= 32 and rows * a_row <= 2**27


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kinds=["tuned"]), r"expected lenses among \('norm', 'raw'\)"),
        (dict(kinds=[]), "expected lenses among"),
        (dict(top_k=0), "a top_k from 1 to"),
        (dict(groups=[[1], []]), "got an empty group"),
        (dict(groups=[[99_999]]), r"got \[99999\]"),
    ],
)
def test_what_cannot_be_read(
    omni: HookedOmni, clips: Clips, as_installed: None, arguments: dict[str, Any], message: str
) -> None:
    prompt = omni.embed_inputs(**clips["omni", "audio"])
    with pytest.raises(PromptError, match=message):
        read_lens(omni.model, prompt, **arguments)
    with pytest.raises(SpanError):
        read_lens(omni.model, prompt, "video")


# --- tokens -----------------------------------------------------------------------------------


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


# --- planted answers --------------------------------------------------------------------------


def test_what_is_told_is_found_from_its_layer_on(table: pd.DataFrame) -> None:
    found = recall(table)
    by_layer = found.groupby("layer")["recall"].agg(["min", "max"])
    for layer, expected in [(layer, 100.0 * (layer >= TOLD_AT)) for layer in range(8)]:
        assert by_layer.loc[layer].tolist() == [expected, expected]
    assert by_layer.loc[ANY_LAYER].tolist() == [100.0, 100.0]
    assert set(recall(table, "chance")["recall"]) == {0.0}
    seen = recall(table, "seen").query("layer == 7")
    assert dict(zip(seen["kind"], seen["recall"], strict=True)) == {
        "factual": 100.0,
        "counterfactual": 0.0,
    }


def test_nothing_is_found_where_nothing_is_told() -> None:
    omni = planted(told_at=None)
    found = run(omni, list(_cases(omni)))
    assert set(recall(found)["recall"]) == {0.0}
    assert set(found.query("measure == 'top'")["event"]) == {""}


def test_words_rise_in_the_layer_where_they_are_told(table: pd.DataFrame) -> None:
    words = table.query("measure == 'word' and lens == 'norm' and word == 'dog'")
    assert set(words["text"]) == {" dog"} and set(words["whole"]) == {True}
    before, after = words.query("layer < @TOLD_AT"), words.query("layer >= @TOLD_AT")
    assert set(after["rank"]) == {1} and min(before["rank"]) > 1
    assert min(after["logprob"]) > max(before["logprob"]) + 1


def test_each_second_says_what_is_heard_in_it() -> None:
    """A head that mixes what is heard so far: silence stays silent, what comes later is not."""
    omni = planted(told_at=TOLD_AT)
    prompt = asked(omni, "dog", "bus", heard_when="audio@2.0-3.0s")
    case = Case(prompt, "late", audio_captions=("A dog barks",))
    top = run(omni, [case], Config(lenses=("norm",))).query("measure == 'top'")
    named = top[top["event"] == "dog"]
    assert set(named["layer"]) == set(range(TOLD_AT, 8))
    assert min(named["second"]) >= 2.0
    seconds = prompt.spans.seconds["audio"].tolist()
    at_layer = top.query("layer == 0")
    assert at_layer["second"].tolist() == pytest.approx(seconds)
    assert at_layer["position"].tolist() == prompt.spans["audio"].tolist()


# --- the table --------------------------------------------------------------------------------


def test_rows_are_documented(table: pd.DataFrame, teller: HookedOmni) -> None:
    assert tuple(table.columns) == (*KEYS, *logit_lens._COLUMNS)
    for column in logit_lens._COLUMNS:
        assert f"`{column}`" in (run.__doc__ or "")
    n_audio = len(asked(teller).spans["audio"])
    top = table.query("measure == 'top'")
    assert len(top) == 4 * 2 * 8 * n_audio
    assert top["rank"].tolist() == top["place"].tolist()
    assert set(table["heard"]) == {"dog", "train"}
    assert set(table.query("sample == 'dog-bus'")["seen"]) == {"bus"}


def test_own_words_are_asked_for_everywhere_on_request(teller: HookedOmni) -> None:
    prompt = asked(teller, "dog", "bus", heard_when="audio@1.0-2.0s")  # positions differ
    config = Config(lenses=("raw",), top_k=3, words=("dog", "siren"), words_everywhere=True)
    found = run(teller, [prompt], config)
    n_audio = len(prompt.spans["audio"])
    words = found.query("measure == 'word'")
    assert len(words) == 2 * 8 * n_audio and set(words["event"]) == {""}
    assert set(words.query("word == 'siren'")["whole"]) == {False}
    best = run(teller, [prompt], replace(config, words_everywhere=False))
    highest: Any = words.groupby(["layer", "word"])["logprob"].max()
    for row in best.query("measure == 'word'").to_dict("records"):
        assert row["logprob"] == pytest.approx(highest[row["layer"], row["word"]])
    places = found.query("measure == 'top' and layer == 5 and position == position.min()")
    assert places["place"].tolist() == [1, 2, 3]
    assert places["logprob"].is_monotonic_decreasing


def test_a_users_words_name_events(teller: HookedOmni) -> None:
    case = Case(asked(teller, "chef", None), "kitchen", audio_captions=("A chef shouts",))
    own = {"cook": ["chef"]}
    assert set(run(teller, [case])["heard"]) == {"shout"}
    with_own = recall(run(teller, [case], Config(lenses=("norm",), own=own)))
    assert with_own.query("layer == 7")["recall"].tolist() == [50.0]


def test_clips_without_sound_are_skipped_and_listed(teller: HookedOmni) -> None:
    cases = [Case(asked(teller, kind="video"), "mute"), Case(asked(teller), "loud")]
    found = run(teller, cases)
    assert set(found["sample"]) == {"loud"}
    assert "got no audio" in found.attrs["skipped"]["mute/hear"]
    assert found.attrs["n_cases"] == 2


def test_video_positions_may_be_read_too(teller: HookedOmni) -> None:
    prompt = asked(teller)
    found = run(teller, [prompt], Config(span="video", lenses=("norm",)))
    assert found.query("layer == 0")["position"].tolist() == prompt.spans["video"].tolist()


def test_captions_without_sounds_are_missing_not_zero(teller: HookedOmni) -> None:
    cases = [
        Case(asked(teller), "named", audio_captions=("A dog barks",)),
        Case(asked(teller), "unnamed", audio_captions=("Bad quality",)),
    ]
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


# --- figure and sentences ---------------------------------------------------------------------


def test_a_row_of_panels_for_each_lens(table: pd.DataFrame) -> None:
    figure = plot(table)
    recalls, words, heat = (figure.axes[i] for i in range(3))
    assert recalls.get_title() == "lens: norm"
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in recalls.get_lines()}
    assert lines["factual, hear (n = 2)"].tolist() == [0.0] * 3 + [100.0] * 5
    assert lines["counterfactual, hear, by chance (n = 2)"].tolist() == [0.0] * 8
    assert len(words.get_lines()) == 2
    assert "(n = 4)" in heat.get_title()
    drawn = np.asarray(heat.collections[0].get_array()).reshape(8, -1)
    assert (drawn[:TOLD_AT] == 0).all() and (drawn[TOLD_AT:] == 100).all()


def test_the_published_number_stands_under_a_model_of_36_layers(table: pd.DataFrame) -> None:
    layers = [table.query("layer == 7").assign(layer=layer) for layer in range(36)]
    notes = [text.get_text() for text in plot(pd.concat(layers)).axes[0].texts]
    assert notes == ["published, all layers, judged: 61.4 %"]
    assert not plot(table).axes[0].texts


def test_sentences_with_numbers(table: pd.DataFrame) -> None:
    lines = headline(table)
    assert len(lines) == 5
    assert lines[0].startswith("factual, hear, lens norm: 100.0 % [100.0, 100.0], n = 2 of the")
    assert "events of other clips: 0.0 %" in lines[0] and "in the best one, 3," in lines[0]
    assert "61.4 %" in lines[-1]
