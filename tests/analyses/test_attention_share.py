"""The table of attention shares says what Hugging Face's attentions say."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analyses import attention_share
from analyses.attention_share import Config
from analyses.attention_share.sinks import SinkWatch, outlying
from analyses.attention_share.table import COLUMNS
from analyses.cases import Case
from analyses.text.pieces import pieces, words
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, Spans, knockout, names
from hooked_omni.decoder.attention import CausalContext
from hooked_omni.decoding.prefill import prefill
from hooked_omni.decoding.score import forced_logits
from hooked_omni.errors import ResultsError
from hooked_omni.hooks.interventions import SpanHook, SpanPositions
from hooked_omni.inputs.image import Image
from tests.support.models import eager, sound
from tests.support.planted import HEARD_HEAD, SEEN_HEAD, asked, planted

Tables = dict[tuple[bool, bool], pd.DataFrame]
CONFIG, EACH = Config(max_new_tokens=6), Config(max_new_tokens=6, heads=True, tokens=True)
OF_A_CLIP = tuple(segment for segment in CONFIG.segments if segment != "image")


@pytest.fixture(scope="module")
def known() -> HookedOmni:
    """Head 1 of layer 2 copies from audio, head 2 of layer 5 from video."""
    return planted(heard_at=2, seen_at=5)


@pytest.fixture(scope="module")
def both(known: HookedOmni) -> EmbeddedPrompt:
    return asked(known, heard="dog", seen="bus")


@pytest.fixture(scope="module")
def tables(known: HookedOmni, both: EmbeddedPrompt) -> Tables:
    """Of the planted model, by whether heads and tokens are apart."""
    return {
        (heads, tokens): attention_share.run(known, [both], Config(heads=heads, tokens=tokens))
        for heads, tokens in itertools.product((False, True), repeat=2)
    }


def column(table: pd.DataFrame, name: str, **where: Any) -> list[float]:
    """A column of the rows with these values, in the table's order."""
    chosen = np.ones(len(table), dtype=bool)
    for key, value in where.items():
        chosen &= (table[key] == value).to_numpy(dtype=bool, na_value=False)
    return table[name][chosen].tolist()


def test_shares_are_hugging_faces(omni: HookedOmni, prompt: EmbeddedPrompt, clips: Any) -> None:
    table, each_ = (attention_share.run(omni, [prompt], config) for config in (CONFIG, EACH))
    kept = dict(output_attentions=True, return_dict_in_generate=True)
    with eager(omni) as hf:
        out = hf.generate(
            **clips["omni", "audio in video"], max_new_tokens=6, do_sample=False, **kept
        )
    # Of each generated position, `[layer, head, key]`.
    steps = [torch.stack([layer[0, :, -1] for layer in step]) for step in out.attentions[1:]]

    def paid_to(segment: str) -> list[Tensor]:
        generated = range(prompt.n_pos, prompt.n_pos + len(steps))
        keys = prompt.spans[segment] if segment in prompt.spans else torch.tensor(generated)
        return [step[..., keys[keys < step.shape[-1]]].sum(-1) for step in steps]

    assert table["n_queries"].unique().tolist() == [len(steps)]
    three = sum(sum(paid_to(segment)) for segment in ("audio", "video", "text"))
    for segment in OF_A_CLIP:
        by_hand = paid_to(segment)
        expected = torch.stack(by_hand).mean((0, 2))
        assert column(table, "share", segment=segment) == pytest.approx(expected.tolist(), abs=1e-6)
        percent = 100 * sum(by_hand).mean(1) / three.mean(1)  # pyright: ignore
        if segment != "generated":
            found = column(table, "percent", segment=segment)
            assert found == pytest.approx(percent.tolist(), abs=1e-4)
        n_keys = [
            len(prompt.spans[segment]) if segment in prompt.spans else i + 1
            for i in range(len(steps))
        ]
        each = zip(by_hand, steps, n_keys, strict=True)
        per_key = torch.stack([paid * step.shape[-1] / n for paid, step, n in each]).mean((0, 2))
        found = column(table, "per_key", segment=segment)
        assert found == pytest.approx(per_key.tolist(), abs=1e-4)
        # By step, layer and head, as the rows are.
        expected = torch.stack(by_hand).flatten().tolist()
        assert column(each_, "share", segment=segment) == pytest.approx(expected, abs=1e-6)
    assert each_["n_queries"].unique().tolist() == [1]


def test_segments_share_out_everything(tables: Tables) -> None:
    table = tables[True, True]
    by = ["layer", "head", "step"]
    wide = table.pivot_table(values="share", index=by, columns="segment")
    parts = wide[["question", "system", "markup"]].sum(axis=1)
    np.testing.assert_allclose(wide["text"], parts, atol=1e-6)
    everything = wide[["audio", "video", "text", "generated"]].sum(axis=1)
    np.testing.assert_allclose(everything, 1, atol=1e-6)
    percent = table.pivot_table(values="percent", index=by, columns="segment")
    np.testing.assert_allclose(percent[["audio", "video", "text"]].sum(axis=1), 100, atol=1e-4)
    assert "generated" not in percent


def test_means_are_means_of_each(tables: Tables) -> None:
    mean, each = tables[False, False], tables[True, True]
    whole = attention_share.percents(mean)["percent"]
    for table in tables.values():
        parts = attention_share.percents(table)["percent"]
        assert parts.tolist() == pytest.approx(whole.tolist())
    for name in ("share", "per_key"):
        by = ["segment", "layer"]
        found, by_hand = (t.pivot_table(values=name, index=by).to_numpy() for t in (mean, each))
        np.testing.assert_allclose(found, by_hand)


@pytest.mark.parametrize("sinks", ["kept", "apart"])
def test_shares_are_the_decode_steps(omni: HookedOmni, prompt: EmbeddedPrompt, sinks: Any) -> None:
    """One pass over the answer sees what its steps saw when it was made."""
    table = attention_share.run(omni, [prompt], replace(EACH, sinks=sinks))
    watch = SinkWatch(omni.model, prompt)
    hooks = watch.hooks() if sinks == "apart" else []
    steps: list[list[Tensor]] = [[] for _ in range(omni.model.cfg.n_layers)]  # each [head, key]

    def keep(pattern: Tensor, _index: Tensor, hook: Any) -> None:
        steps[names.layer_of(hook.name) or 0].append(pattern[0, :, -1])

    look = SpanHook(SpanPositions(prompt.spans, "generated"), keep)
    hooks += [(names.pattern(layer), look) for layer in range(len(steps))]
    made = omni.model.generate(prompt, max_new_tokens=6, fwd_hooks=hooks)
    assert set(table["answer"]) == {made.text}
    for segment in OF_A_CLIP:
        inside = prompt.spans.mask(segment, range(prompt.n_pos + 6))
        each = [[row[:, inside[: row.shape[1]]].sum(-1) for row in layer] for layer in steps]
        shares = torch.stack([torch.stack(layer) for layer in each], 1)
        if sinks == "apart" and segment in prompt.spans:
            inside = torch.isin(watch.sinks(), prompt.spans[segment])
            shares = shares - watch.paid()[..., inside].sum(-1)
        found = column(table, "share", segment=segment)
        expected = shares.flatten().double().numpy()  # by token, layer and head, as the rows are
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    if sinks == "apart":
        paid = watch.paid().sum(-1).flatten().double().numpy()
        np.testing.assert_allclose(column(table, "share", segment="sink"), paid, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sinks", ["kept", "apart"])
def test_no_pattern_of_the_prompt_is_ever_made(
    omni: HookedOmni, prompt: EmbeddedPrompt, monkeypatch: pytest.MonkeyPatch, sinks: Any
) -> None:
    windows: dict[str, list[range]] = {"_eager": [], "attend": []}
    for name, seen in windows.items():
        compute = getattr(CausalContext, name)

        def watched(self: Any, *args: Any, seen: Any = seen, compute: Any = compute) -> Any:
            seen.append(self.window)
            return compute(self, *args)

        monkeypatch.setattr(CausalContext, name, watched)
    attention_share.run(omni, [prompt], replace(EACH, sinks=sinks))
    n_layers = omni.model.cfg.n_layers
    assert windows["_eager"] == [range(prompt.n_pos, prompt.n_pos + 5)] * n_layers
    assert windows["attend"].count(range(prompt.n_pos)) == n_layers


def test_the_heads_that_look_are_found_and_no_others(tables: Tables) -> None:
    table = tables[True, False].set_index(["layer", "head"])
    looking = [(2, HEARD_HEAD), (5, SEEN_HEAD)]
    for segment, at in zip(("audio", "video"), looking, strict=True):
        one: Any = table[table["segment"] == segment]
        assert float(one["share"][at]) == pytest.approx(1.0, abs=1e-3)
        others = one["per_key"].drop(index=looking)
        np.testing.assert_allclose(others, 1.0, atol=1e-3)


def test_nothing_is_found_in_the_twin_without() -> None:
    twin = planted(heard_at=None, seen_at=None)
    table = attention_share.run(twin, [asked(twin, heard="dog", seen="bus")])
    np.testing.assert_allclose(table["per_key"].to_numpy(), 1.0, atol=1e-3)


def test_what_does_a_word_attend_to(tables: Tables) -> None:
    """The position that predicts "bus" is the one before it: its token is "A"."""
    table = tables[False, True]
    assert set(table["answer"]) == {"A bus."}
    first = table[(table["layer"] == 0) & (table["segment"] == "audio")]
    assert first["step"].tolist() == [0, 1, 2]
    assert first["token_text"].tolist() == ["A", " bus", "."]
    assert first["next_word"].tolist() == ["bus", ".", "<|im_end|>"]


def test_words_of_pieces(known: HookedOmni) -> None:
    said = ["A", " sir", "en", " wails", "-", "ish", ",", " don", "'t", "<|im_end|>"]
    whole = ["A", "siren", "siren", *["wails-ish"] * 3, ",", "don't", "don't", "<|im_end|>"]
    assert words(said) == whole
    tokens = known.model.tokenizer.encode("né 汪")
    assert "".join(pieces(known.model.tokenizer, tokens)) == "né 汪"
    assert len(pieces(known.model.tokenizer, tokens)) == len(tokens)


@pytest.fixture
def cut(known: HookedOmni, both: EmbeddedPrompt) -> Iterator[EmbeddedPrompt]:
    """What the planted heads look at is cut, so that they rest on the sinks."""
    hooks = [*knockout("G !-> A @ 2")(both.spans), *knockout("G !-> V @ 5")(both.spans)]
    with known.model.hooks(hooks):
        yield both


def test_sinks_are_found_and_nothing_else(known: HookedOmni, cut: EmbeddedPrompt) -> None:
    watch = SinkWatch(known.model, cut)
    known.model.generate(cut, fwd_hooks=watch.hooks())
    start = known.model.tokenizer.encode("<|im_start|>")
    assert watch.sinks().tolist() == (cut.tokens[0] == start[0]).nonzero()[:, 0].tolist()


def test_a_forced_answer_has_the_same_sinks(omni: HookedOmni, prompt: EmbeddedPrompt) -> None:
    ready = prefill(omni.model, prompt)
    made, forced = SinkWatch(omni.model, prompt), SinkWatch(omni.model, ready)
    answer = omni.model.generate(prompt, max_new_tokens=6, fwd_hooks=made.hooks())
    forced_logits(omni.model, ready, answer.tokens, forced.hooks())
    assert torch.equal(made.norms, forced.norms)
    assert made.candidates.tolist() == forced.candidates.tolist()
    assert made.sinks().tolist() == forced.sinks().tolist()
    torch.testing.assert_close(forced.received, made.received, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(forced.paid(), made.paid(), rtol=0, atol=1e-6)


def test_norm_or_attention_alone_makes_no_sink(known: HookedOmni, both: EmbeddedPrompt) -> None:
    watch = SinkWatch(known.model, both)
    known.model.generate(both, fwd_hooks=watch.hooks())
    assert len(watch.candidates) == 3  # their norm stands out, but nothing rests on them
    assert not len(watch.sinks())

    def stare(pattern: Tensor, hook: Any) -> Tensor | None:
        if hook.window.start < both.n_pos:
            return None
        return torch.eye(pattern.shape[-1])[5].expand_as(pattern)  # at key 5 alone

    late = [(f"blocks.{layer}.attn.hook_pattern", stare) for layer in (6, 7)]
    watch = SinkWatch(known.model, both)
    known.model.generate(both, fwd_hooks=[*late, *watch.hooks()])
    assert float(watch.received[5]) > 10 * float(watch.received.median())
    assert 5 not in watch.sinks().tolist()


def test_sinks_leave_every_segment(known: HookedOmni, cut: EmbeddedPrompt) -> None:
    configs = (Config(heads=True, tokens=True, sinks=s) for s in ("kept", "apart"))
    kept, apart = (attention_share.run(known, [cut], config) for config in configs)
    by = ["layer", "head", "step"]
    before, after = (t.pivot(index=by, columns="segment", values="share") for t in (kept, apart))
    np.testing.assert_allclose(after["text"] + after["sink"], before["text"], atol=1e-6)
    np.testing.assert_allclose(after["audio"], before["audio"])
    rests = column(apart, "share", segment="sink", layer=2, head=HEARD_HEAD)
    assert rests == pytest.approx([1.0] * 3, abs=1e-3)
    assert set(column(apart, "n_keys", segment="sink")) == {3}
    n_markup = len(cut.spans["markup"])
    assert set(column(apart, "n_keys", segment="markup")) == {n_markup - 3}
    assert np.isnan(column(apart, "percent", segment="sink")).all()


def test_outliers_are_among_their_own_kind() -> None:
    spans = Spans({"audio": torch.arange(10), "video": torch.arange(10, 20)}, 30)
    values = torch.ones(30) + torch.linspace(0, 0.1, 30)
    values[20:] *= 50  # text differs from audio and video, and is no outlier for that
    assert not outlying(values, spans).any()
    values[3] = 2.5
    values[25] = 1000.0
    assert outlying(values, spans).nonzero()[:, 0].tolist() == [3, 25]


def test_an_answer_of_one_token(omni: HookedOmni, prompt: EmbeddedPrompt, monkeypatch: Any) -> None:
    first = int(omni.model.generate(prompt, max_new_tokens=1).tokens[0])
    monkeypatch.setattr(omni.model.cfg, "eos_tokens", (first,))
    table = attention_share.run(omni, [Case(prompt, "short")], CONFIG)
    assert table.empty and tuple(table.columns)[3:] == COLUMNS
    assert table.attrs["n_cases"] == 1
    assert "expected an answer of two tokens or more" in table.attrs["skipped"]["short/hear"]


def test_what_could_measure_nothing_is_refused(omni: HookedOmni) -> None:
    with pytest.raises(ResultsError, match="expected at least one prompt, got none"):
        attention_share.run(omni, [], CONFIG)
    with pytest.raises(ResultsError, match="expected at least 2 new tokens, got 1"):
        Config(max_new_tokens=1)
    with pytest.raises(ResultsError, match="segments other than 'sink'"):
        Config(segments=("audio", "sink"))


def test_a_figure_of_percentages(known: HookedOmni) -> None:
    kinds = {"dog": "factual", "train": "counterfactual", "chef": "factual"}
    cases = [Case(asked(known, heard, "bus"), heard, kind) for heard, kind in kinds.items()]
    table = attention_share.run(known, cases)
    panels = attention_share.plot(table).axes
    own = ["factual, question 'hear'\nn = 2", "counterfactual, question 'hear'\nn = 1"]
    assert [axes.get_title() for axes in panels] == [*own, "all, question 'hear'\nn = 3"]
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in panels[0].get_lines()}
    assert set(lines) == {"audio", "video", "query text"}
    assert np.stack(list(lines.values())).sum(0).tolist() == pytest.approx([100.0] * 8)
    assert int(lines["audio"].argmax()) == 2
    assert int(lines["video"].argmax()) == 5


def test_a_clip_without_audio_rows(omni: HookedOmni, clips: Any, prompt: EmbeddedPrompt) -> None:
    deaf = Case(omni.embed_inputs(**clips["omni", "video"]), "deaf")
    table = attention_share.run(omni, [deaf, Case(prompt, "whole")], CONFIG)
    own = table[table["sample"] == "deaf"]
    assert set(own["segment"]) == set(OF_A_CLIP) - {"audio"}
    figure = attention_share.plot(table)
    assert figure.get_suptitle() == "1 samples without all of audio, video, text left out"
    assert figure.axes[0].get_title().endswith("\nn = 1")


def test_an_image_is_part_of_the_hundred_percent(omni: HookedOmni) -> None:
    side = omni.media.size_factor
    picture = Image(torch.rand(3, 2 * side, 2 * side) * 255, ())
    prompt = Prompt(items=[("image", "a.png"), ("audio", "b.wav"), ("text", "Do they fit?")])
    embedded = omni.embed_media(prompt, (picture, sound(1.0)))
    table: Any = attention_share.run(omni, [Case(embedded, "fit")], CONFIG)
    parts = table[table["segment"].isin(("audio", "image", "text"))]
    assert set(table["segment"]) >= {"audio", "image", "text"} and (parts["percent"] > 0).all()
    assert parts.groupby("layer")["percent"].sum().tolist() == pytest.approx([100] * 4)
    assert set(parts.query("segment == 'image'")["n_keys"]) == {len(embedded.spans["image"])}
    assert {t.get_text() for t in attention_share.plot(table).legends[0].texts} >= {"image"}


def test_a_hundred_percent_needs_all_three(tables: Tables) -> None:
    table = tables[False, False]
    with pytest.raises(ResultsError, match=r"rows for any of \('audio', .*'text'\), got none"):
        attention_share.plot(table.query("segment == 'generated'"))
    with pytest.raises(ResultsError, match=r"got \['audio'\]: their 100 % is not known"):
        attention_share.headline(table.query("segment == 'audio'"))


@pytest.mark.parametrize(
    ("model", "question"),
    [("Qwen/Qwen2.5-Omni-3B", "both"), ("x", "both"), ("qwen/qwen2.5-omni-3b", "see")],
)
def test_published_points_stand_under_their_model_question_and_pool(
    model: str, question: str
) -> None:
    rows = [
        dict(sample=kind, kind=kind, question=question, layer=layer, segment=s, share=0.3)
        for kind in ("factual", "counterfactual")
        for layer in range(36)
        for s in ("audio", "video", "text")
    ]
    whole = pd.DataFrame(rows).assign(percent=100 / 3, head=None, step=None)
    whole.attrs = {"model": model}
    counts, figure = {}, attention_share.plot(whole)
    for axes in figure.axes:
        points = [c for c in axes.collections if type(c).__name__ == "PathCollection"]
        kind = axes.get_title().split(",")[0]
        counts[kind] = sum(len(np.asarray(c.get_offsets())) for c in points)
    fits = model != "x" and question == "both"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    theirs = [f"published, Qwen2.5-Omni-3B: {name}" for name in ("audio", "video")]
    assert texts == ["audio", "video", "query text", *theirs * fits]
    assert counts == {"factual": 0, "counterfactual": 0, "all": 7 * fits}


def test_the_headline_names_each_peak(tables: Tables) -> None:
    said = attention_share.headline(tables[False, False])
    assert said[0].startswith("factual, hear: audio gets most of its attention in layer 2, 64.2 %")
    assert said[1].startswith("factual, hear: video gets most of its attention in layer 5, 34.6 %")
    assert all("n = 1" in sentence for sentence in said)
