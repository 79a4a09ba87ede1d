"""Divergence and rank are what float64 makes of Hugging Face's logits, and planted origins show."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from analyses.cases import KEYS, Case
from analyses.distribution_shift import Config, headline, plot, retagged, run
from analyses.distribution_shift.divergence import compare, places
from analyses.distribution_shift.figure import token_bands
from analyses.distribution_shift.sound_words import token_events
from analyses.distribution_shift.table import COLUMNS, SHIFTS, shift_of
from analyses.plots.statistics import in_words
from analyses.study import inside
from analyses.study.evidence import Evidence
from analyses.study.judging import with_events
from analyses.text.events import Events
from analyses.text.vocabulary import SharedVocabulary, shared_vocabulary
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt
from hooked_omni.errors import ResultsError
from hooked_omni.inputs.media import MediaSettings
from tests.support.clips import write_clip
from tests.support.hugging_face import hf_forced
from tests.support.planted import asked, planted

Clips = dict[tuple[str, str], dict[str, Any]]
CONFIG = Config(max_new_tokens=6)


@pytest.fixture(scope="module")
def sees() -> HookedOmni:
    """A base that names what it sees."""
    return planted(None, 5, family="vl")


@pytest.fixture(scope="module")
def model() -> HookedOmni:
    """A model that names what it sees, but for sounds that are louder."""
    return planted()


def _cases(omni: HookedOmni, base: HookedOmni) -> tuple[list[Case], dict[str, EmbeddedPrompt]]:
    kinds = {True: "factual", False: "counterfactual"}
    pairs = [("dog", "dog"), ("train", "train"), ("dog", "bus"), ("train", "dog")]
    cases = [Case(asked(omni, h, s), f"{h}-{s}", kinds[h == s]) for h, s in pairs]
    silent = [asked(base, None, seen, "video") for _, seen in pairs]
    return cases, {case.id: prompt for case, prompt in zip(cases, silent, strict=True)}


def _planted(omni: HookedOmni, base: HookedOmni) -> pd.DataFrame:
    cases, prompts = _cases(omni, base)
    return run(omni, cases, base=base, base_prompts=prompts)


@pytest.fixture(scope="module")
def hearing(sees: HookedOmni) -> pd.DataFrame:
    """A model that names what it hears, against the base."""
    return _planted(planted(gains=(3.0, 1.0)), sees)


def test_divergences_are_hugging_faces(omni: HookedOmni, vl: HookedOmni, clips: Clips) -> None:
    inputs, silent = clips["omni", "audio in video"], clips["vl", "video"]
    prompt, shown = omni.embed_inputs(**inputs), vl.embed_inputs(**silent)
    table = run(omni, [prompt], CONFIG, base=vl, base_prompts={"0/hear": shown})
    kept = dict(output_logits=True, return_dict_in_generate=True)
    with torch.no_grad():
        out = omni.hf.generate(**inputs, max_new_tokens=6, do_sample=False, **kept)
    tokens = out.sequences[0, inputs["input_ids"].shape[1] :]
    assert table["token_id"].tolist() == tokens.tolist()
    own, base = hf_forced(omni, inputs, prompt, tokens), hf_forced(vl, silent, shown, tokens)
    # What it chose from, step by step, is the same to rounding.
    torch.testing.assert_close(own, torch.cat(out.logits), atol=1e-5, rtol=0)
    # The two vocabularies are one.
    p, q = (logits.double().log_softmax(-1) for logits in (base, own))
    own_logprob, base_logprob = (logprobs.gather(1, tokens[:, None]) for logprobs in (q, p))
    expected = {
        "kl_base_model": (p.exp() * (p - q)).sum(-1),
        "kl_model_base": (q.exp() * (q - p)).sum(-1),
        "logprob": own_logprob[:, 0],
        "base_logprob": base_logprob[:, 0],
    }
    for column, value in expected.items():
        assert table[column].tolist() == pytest.approx(value.tolist(), abs=1e-6, rel=1e-6)
    ranks = 1 + (p > base_logprob).sum(-1)
    assert table["base_rank"].tolist() == ranks.tolist()
    assert table["shift"].tolist() == [shift_of(rank) for rank in ranks.tolist()]
    assert not np.any(table[["left_out", "base_left_out"]])


def test_only_shared_tokens_are_compared_and_the_rest_is_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    own, base = torch.randn(20, 6, generator=generator), torch.randn(20, 5, generator=generator)
    shared = SharedVocabulary(torch.tensor([0, 2, 5]), torch.tensor([4, 1, 0]))
    chosen = torch.randint(0, 3, (20,), generator=generator)
    found = compare(own, base, shared, chosen)
    q = own[:, [0, 2, 5]].double().log_softmax(-1)
    p = base[:, [4, 1, 0]].double().log_softmax(-1)
    for column, pair in (("kl_base_model", (q, p)), ("kl_model_base", (p, q))):
        by_hand = torch.nn.functional.kl_div(*pair, reduction="none", log_target=True).sum(-1)
        torch.testing.assert_close(found[column], by_hand)
    torch.testing.assert_close(found["logprob"], q.gather(1, chosen[:, None])[:, 0])
    outside = own.double().softmax(-1)[:, [1, 3, 4]].sum(-1)
    torch.testing.assert_close(found["left_out"], outside)
    torch.testing.assert_close(found["base_left_out"], base.double().softmax(-1)[:, [2, 3]].sum(-1))


def test_classes_of_the_paper() -> None:
    classes = ["unshifted", "marginal", "marginal", "shifted"]
    assert [shift_of(rank) for rank in (1, 2, 3, 4)] == classes
    assert set(classes) == set(SHIFTS)


def test_a_model_that_names_what_it_sees_is_its_base(model: HookedOmni, sees: HookedOmni) -> None:
    table = _planted(model, sees)
    assert set(table["shift"]) == {"unshifted"}
    deaf = _planted(planted(None, 5), sees)
    assert np.max(deaf[["kl_base_model", "kl_model_base"]]) < 1e-9


def test_a_model_that_names_what_it_hears_leaves_its_base(hearing: pd.DataFrame) -> None:
    assert set(hearing["token_text"]) == {"A", " dog", " train", "."}
    named = hearing[hearing["events"].str.len() > 0]
    assert sorted(named["sample"]) == sorted(set(hearing["sample"]))
    moved: Any = named.query("kind == 'counterfactual'")
    others = hearing.drop(moved.index)
    assert set(others["shift"]) == {"unshifted"}
    assert min(moved["base_rank"]) > 1
    for column in ("kl_base_model", "kl_model_base"):
        assert min(moved[column]) > 10 * max(others[column])


def test_the_base_gets_the_same_words_and_the_same_frames_without_sound(
    omni: HookedOmni, vl: HookedOmni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, given, embed = write_clip(tmp_path / "clip.mp4", seconds=2.0), [], vl.embed
    monkeypatch.setattr(vl, "embed", lambda prompt: given.append(embed(prompt)) or given[-1])
    monkeypatch.setattr(omni.towers, "media", MediaSettings(fps=4.0))  # the base's own is another
    prompt = Prompt("Describe what you hear.", video=clip, rope="paper-scripts")
    table = run(omni, [Case(prompt, "clip")], CONFIG, base=vl)
    assert len(table) and not table.attrs["skipped"]
    (silent,), own = given, omni.embed(prompt)
    assert "audio" not in silent.spans
    words = [t.tokens[0, t.spans["question"]].tolist() for t in (own, silent)]
    assert words[0] == words[1]
    assert len(own.spans["video"]) == len(silent.spans["video"])
    assert own.spans.seconds["video"].tolist() == silent.spans.seconds["video"].tolist()
    system = [vl.model.tokenizer.decode(t.tokens[0, t.spans["system"]]) for t in (own, silent)]
    assert "Qwen Team" in system[0] and system[1] == "You are a helpful assistant."


def test_an_embedded_case_needs_a_base_prompt(model: HookedOmni, sees: HookedOmni) -> None:
    with pytest.raises(ResultsError, match=r"expected base_prompts with '0/hear', .* got \[\]"):
        run(model, [asked(model)], base=sees)


DOG, BUS = ["video", "clips/dog.mp4", "siren.wav"], ["video", "bus.mp4", None]
WORDS, SOUND = ["text", "What?", None], ["audio", "siren.wav", None]


@pytest.mark.parametrize(
    ("ours", "theirs", "got"),
    [
        (dict(video="clips/dog.mp4"), dict(video="bus.mp4"), "'video', 'dog.mp4')], got one with"),
        (dict(text="What sounds?"), dict(text="What is seen?"), "'text', 'What sounds?'), ("),
        (dict(items=[DOG, WORDS]), dict(items=[BUS, WORDS]), "'video', 'dog.mp4'), "),
        (dict(items=[DOG, WORDS]), dict(items=[WORDS, DOG]), "'video', 'dog.mp4'), "),
        (dict(items=[DOG, DOG, WORDS]), dict(items=[DOG, WORDS]), "'video', 'dog.mp4'), "),
        (dict(items=[WORDS], turns=[["user", [DOG]]]), dict(items=[WORDS]), "'dog.mp4'), "),
        (dict(items=[SOUND, WORDS, DOG]), dict(text="What?", video="dog.mp4"), ""),
        (dict(items=[SOUND, DOG, WORDS]), {}, ""),
        (dict(video="/there/a.mp4", text="x"), dict(video="here/a.mp4", text="x"), ""),
        (dict(video="a.mp4"), {}, ""),  # made by hand
    ],
)
def test_a_base_prompt_of_another_clip_is_refused(
    model: HookedOmni, sees: HookedOmni, ours: Any, theirs: Any, got: str
) -> None:
    prompts = asked(model), asked(sees, None, "bus", "video")
    own, shown = (
        replace(prompt, facts={**prompt.facts, "prompt": facts})
        for prompt, facts in zip(prompts, (ours, theirs), strict=True)
    )
    given: Any = dict(base=sees, base_prompts={"a/hear": shown})
    if not got:
        assert len(run(model, [Case(own, "a")], CONFIG, **given))
        return
    with pytest.raises(ResultsError, match="prompt of 'a/hear' for the base with ") as refused:
        run(model, [Case(own, "a")], CONFIG, **given)
    assert got in str(refused.value)


def test_samples_that_cannot_be_compared_are_skipped(model: HookedOmni, sees: HookedOmni) -> None:
    silent, both = asked(sees, None, "bus", "video"), asked(model)
    clips = dict(mute=asked(model, kind="video"), blind=asked(model, kind="audio"))
    cases = [Case(one, name) for name, one in {**clips, "whole": both, "loud": both}.items()]
    prompts = {case.id: silent for case in cases} | {"loud/hear": both}
    table = run(model, cases, base=sees, base_prompts=prompts)
    assert set(table["sample"]) == {"whole"}
    skipped = table.attrs["skipped"]
    assert "got no audio" in skipped["mute/hear"] and "got no video" in skipped["blind/hear"]
    assert "for the base with video or image and without audio" in skipped["loud/hear"]


def test_a_model_without_an_answer(model: HookedOmni, sees: HookedOmni, monkeypatch: Any) -> None:
    cfg = model.model.cfg
    monkeypatch.setattr(cfg, "eos_tokens", tuple(range(cfg.d_vocab)))
    table = _planted(model, sees)
    assert table.empty and len(table.attrs["skipped"]) == 4
    assert "the model ends at once" in table.attrs["skipped"]["dog-dog/hear"]


def _bytes(order: int = 1, without: str = "", special: tuple[str, ...] = ()) -> Any:
    symbols = [s for s in [*bytes_to_unicode().values()][::order] if s != without]
    vocab = {symbol: i for i, symbol in enumerate([*symbols, "<|endoftext|>"])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[])
    tokenizer.add_tokens([*special], special_tokens=True)
    return tokenizer


def test_the_same_words_under_other_numbers_are_paired_by_their_text(
    omni: HookedOmni, vl: HookedOmni, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omni.model, "tokenizer", _bytes(special=("<|AUDIO|>", "<|im_end|>")))
    monkeypatch.setattr(vl.model, "tokenizer", _bytes(-1, special=("<|im_end|>", "<|box|>")))
    shared = shared_vocabulary(omni.model, vl.model)
    names = omni.model.tokenizer.convert_ids_to_tokens(shared.first.tolist())
    assert names == vl.model.tokenizer.convert_ids_to_tokens(shared.second.tolist())
    assert len(names) == 256 + 2  # "<|endoftext|>" and "<|im_end|>"
    assert shared.first.tolist() == sorted(shared.first.tolist()) != shared.second.tolist()
    assert places(shared.first, torch.tensor([0, 257, 258])).tolist() == [0, -1, 257]


class _Renumbered:
    """A tokenizer that counts its tokens from the end."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.added_tokens_decoder = tokenizer, tokenizer.added_tokens_decoder

    def __len__(self) -> int:
        return len(self.tokenizer)

    def get_vocab(self) -> dict[str, int]:
        return {piece: len(self) - 1 - i for piece, i in self.tokenizer.get_vocab().items()}


def test_a_base_of_other_token_ids_is_the_same(sees: HookedOmni, hearing: pd.DataFrame) -> None:
    base = planted(None, 5, family="vl")
    base.model.tokenizer = _Renumbered(base.model.tokenizer)
    for weight in (base.model.embed.weight, base.model.unembed.weight):
        weight.data.copy_(weight.data.flip(0))
    model = planted(gains=(3.0, 1.0))
    cases, prompts = _cases(model, sees)
    table = run(model, cases, base=base, base_prompts=prompts)
    pd.testing.assert_frame_equal(table, hearing)


def test_other_words_are_refused_and_the_first_is_named(
    model: HookedOmni, omni: HookedOmni, vl: HookedOmni, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omni.model, "tokenizer", _bytes())
    monkeypatch.setattr(vl.model, "tokenizer", _bytes(without="C"))
    number = omni.model.tokenizer.convert_tokens_to_ids("C")
    message = rf"got 'C', token {number} of the model's 256, in no place of the base's 255"
    with pytest.raises(ResultsError, match=message):
        shared_vocabulary(omni.model, vl.model)
    with pytest.raises(ResultsError, match=rf"got 'C', token {number} of the base's 256"):
        shared_vocabulary(vl.model, omni.model)
    monkeypatch.undo()
    # It has " dog", added, and no special token.
    with pytest.raises(ResultsError, match="got ' dog', token 266 of the model's"):
        run(model, [asked(model)], base=vl)


def test_an_answer_that_the_base_cannot_spell_is_skipped(sees: HookedOmni) -> None:
    omni = planted()
    tokenizer: Any = omni.model.tokenizer
    tokenizer.add_tokens(["<|dog|>"], special_tokens=True)
    omni.hf.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    new, old = (tokenizer.convert_tokens_to_ids(t) for t in ("<|dog|>", " dog"))
    omni.hf.lm_head.weight.data[new] = 2 * omni.hf.lm_head.weight.data[old]
    omni = HookedOmni.from_hf(omni.hf, omni.processor)
    prompts = {"0/hear": asked(sees, None, "dog", "video")}
    table = run(omni, [asked(omni, "dog", "dog")], base=sees, base_prompts=prompts)
    assert "in tokens of both models, got '<|dog|>'" in table.attrs["skipped"]["0/hear"]


def test_a_token_names_an_event_if_its_word_does() -> None:
    pieces = ["A", " d", "og", " bar", "ks", ",", " ", "", "狗", "."]
    named = token_events(pieces, Events.every())
    assert named == [(), *[("dog",)] * 4, (), (), *[("dog",)] * 2, ()]


def test_rows_are_documented(hearing: pd.DataFrame) -> None:
    assert tuple(hearing.columns) == (*KEYS, *COLUMNS)
    for column in COLUMNS:
        assert f"`{column}`" in (run.__doc__ or "")
    assert set(hearing["answer"]) == {"A dog.", "A train."}
    assert "".join(hearing.query("sample == 'dog-dog'")["token_text"]) == "A dog."
    assert hearing["step"].tolist() == [0, 1, 2] * 4  # the end token is not compared


def test_a_figure_of_shares_beside_the_papers(hearing: pd.DataFrame) -> None:
    published = hearing.copy()
    published.attrs |= {"model": "Qwen/Qwen2.5-Omni-3B", "base": "Qwen/Qwen2.5-VL-3B-Instruct"}
    every, events, divergence = plot(published).axes
    titles = [axes.get_title() for axes in (every, events)]
    assert titles == ["all tokens", "words that name sound events"]
    heights = [bar.get_height() for bar in events.patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert heights[:3] == [100.0, 0.0, 0.0] and heights[3] == 0.0
    assert heights[-3:] == pytest.approx([66.06, 19.3, 14.63])
    assert sum(heights[3:6]) == pytest.approx(100)
    assert sum(heights[6:9]) == pytest.approx(100)
    ticks = [label.get_text().replace("\n", " ") for label in events.get_xticklabels()]
    own = ["factual, hear n = 2", "counterfactual, hear n = 2", "all, hear n = 4"]
    assert ticks == [*own, "published"]
    assert len(divergence.patches) == 4
    assert len(plot(hearing).axes[2].patches) == 3  # of another model, nothing is published


def test_both_ends_of_every_band_stand_apart(hearing: pd.DataFrame) -> None:
    figure, bands = plot(hearing), token_bands(hearing).query("over == 'tokens'")
    for axes, tokens in zip(figure.axes[:2], ("all", "events"), strict=True):
        ends = {tuple(np.asarray(line.get_data(), float).T.flat) for line in axes.get_lines()}
        places = [x for x, *_ in ends]
        assert len(set(places)) == len(places) == 9  # no band on another
        of_classes: Any = bands[(bands["tokens"] == tokens) & bands["measure"].isin(SHIFTS)]
        expected = sorted(zip(of_classes["low"], of_classes["high"], strict=True))
        assert sorted((low, high) for _, low, _, high in ends) == expected
        low, high = axes.get_ylim()
        assert all(low <= end <= high for band in expected for end in band)
        assert all(line.get_marker() == "_" for line in axes.get_lines())


def test_a_quantity_has_one_band_on_a_page(hearing: pd.DataFrame) -> None:
    parts = [hearing.assign(sample=hearing["sample"] + str(i)) for i in range(6)]
    rng = np.random.default_rng(0)
    table = pd.concat(parts, ignore_index=True)
    table["kl_base_model"] *= rng.random(len(table))
    rows: Any = token_bands(table).query("kind == 'all' and over == 'tokens'").set_index("measure")
    turned = table.sort_values("sample", ascending=False, kind="stable")
    evidence = Evidence({"distribution_shift": turned}, table)
    (of_claim,) = inside.divergence(evidence).effects
    assert dict(of_claim.point) == {
        name: rows.query("tokens == 'all'").loc["kl_base_model", name] for name in of_claim.point
    }
    said = [line for line in headline(table) if line.startswith("all, hear: KL")]
    assert in_words(of_claim.point, "nats", 3) in said[0]
    assert of_claim.point["low"] < of_claim.point["mean"] < of_claim.point["high"]
    *_, share = inside.unshifted(evidence).effects
    assert in_words(share.point) + " unshifted" in said[0]


def test_sentences_with_numbers(hearing: pd.DataFrame) -> None:
    published = hearing.copy()
    published.attrs |= {"model": "Qwen/Qwen2.5-Omni-3B", "base": "Qwen/Qwen2.5-VL-3B-Instruct"}
    factual, counterfactual, whole, theirs = headline(published)
    assert "50.0 % [0.0, 100.0], n = 4 unshifted" in whole
    assert "100.0 % [100.0, 100.0], n = 2 unshifted" in factual
    assert "0.0 % [0.0, 0.0], n = 2 unshifted" in counterfactual
    assert "KL(base || model) is" in counterfactual and "66.06 % unshifted" in theirs


def test_answers_without_sounds_are_missing_not_zero(hearing: pd.DataFrame) -> None:
    nothing = hearing.assign(events=[()] * len(hearing))
    unnamed = pd.concat(
        [nothing.query("sample == 'dog-dog'"), hearing.query("sample != 'dog-dog'")]
    )
    assert "n = 1, 1 missing unshifted" in headline(unnamed)[0]
    assert headline(nothing)[0].endswith("over all tokens; no answer names a sound event.")
    plot(nothing)


def test_own_words_name_events(model: HookedOmni, sees: HookedOmni) -> None:
    case = Case(asked(model, "chef", "chef"), "0")
    config = replace(CONFIG, own={"cook": ["chef"]})
    silent = {"0/hear": asked(sees, None, "chef", "video")}
    table = run(model, [case], config, base=sees, base_prompts=silent)
    assert table["events"].tolist() == [(), ("cook",), ()]


def test_events_of_a_judge_replace_those_of_the_table() -> None:
    answer = ["a", " dog", " bark", "s", " loudly", " at", " a", " car"]
    known = dict(kind="factual", question="hear", token_text=answer, events=[("car",)] * 8)
    table = pd.concat([pd.DataFrame({"sample": sample, **known}) for sample in ("one", "two")])
    made = retagged(table, {("one", "factual", "hear"): ["barks", "Loudly"]})
    one, two = (made[made["sample"] == sample]["events"].tolist() for sample in ("one", "two"))
    assert one == [(), (), *[("barks",)] * 2, ("loudly",), (), (), ()]
    assert two == [()] * len(answer)  # nobody judged it
    none = retagged(table, {("two", "factual", "hear"): []})
    assert set(none["events"]) == {()} and len(none) == len(table)
    assert made.attrs["unmatched"] == none.attrs["unmatched"] == {}
    lost = {
        ("one", "factual", "hear"): ["barks", "808", "truck"],
        ("two", "factual", "hear"): ["x"],
    }
    expected = {"one/hear": ["808", "truck"], "two/hear": ["x"]}
    assert retagged(table, lost).attrs["unmatched"] == expected


@pytest.mark.parametrize(
    ("words", "share"),
    [
        (["barks"], 1 / 3),
        (["dog"], 1 / 3),
        (["Fire", "engine"], 1 / 3),  # one phrase, an ambulance's; neither a fire nor an engine
        (["engine"], 1 / 3),
        (["barks", "siren"], 2 / 3),
        (["loudly", "lawn"], 0.0),
        ([], 0.0),
        (None, float("nan")),
    ],
)
def test_marked_words_alone_name_what_is_heard(words: list[str] | None, share: float) -> None:
    text = "On a lawn a dog barks loudly; it rains. A fire engine drives by, a siren is heard."
    heard = Events.of(["A dog barks while sirens wail in the rain"]).names
    answer = dict(sample="s", kind="factual", question="hear", caption=text, events=("train",))
    answer |= dict(heard=heard, seen=(), heard_found=0.9, seen_found=0.9)
    known = dict(sample="s", kind="factual", question="hear", condition="captions", what="events")
    status = dict(status="missing" if words is None else "judged", words=tuple(words or ()))
    captions = pd.DataFrame([answer, answer | dict(question="see")])
    made: Any = with_events({"captions": captions}, pd.DataFrame([known | status]), {})["captions"]
    assert made["heard_found"].tolist() == pytest.approx([share, 0.9], nan_ok=True)
    assert np.isnan(made["seen_found"][0]) and made["events"][1] == ("train",)
    assert len({*made["events"][0]} & {*heard}) == (0 if words is None else round(3 * share))
