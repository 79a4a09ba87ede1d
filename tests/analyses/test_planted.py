"""The planted models are what they say: real classes in which only the planted heads move words."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import HookedOmni, Prompt, ablate, knockout, names
from hooked_omni.inputs.media import Audio, Video
from tests.support.models import eager, frames, processed, sound
from tests.support.planted import HEARD_HEAD, SEEN_HEAD, WORDS, asked, planted, tune

STEPS = 8


@pytest.fixture(scope="module")
def model() -> HookedOmni:
    return planted(heard_at=2, seen_at=5, told_at=1)


def said(omni: HookedOmni, *rules: str, **clip: Any) -> str | None:
    return omni.model.generate(
        asked(omni, **clip), max_new_tokens=STEPS, fwd_hooks=[knockout(r) for r in rules]
    ).text


def test_what_is_seen_wins_and_hides_what_is_heard(model: HookedOmni) -> None:
    assert said(model, heard="dog", seen="bus") == "A bus."
    assert said(model, "G !-> V @ 5", heard="dog", seen="bus") == "A dog."
    assert said(model, "G !-> V @ 0-4,6-7", heard="dog", seen="bus") == "A bus."
    assert said(model, "G !-> A+V", heard="dog", seen="bus") == "A thing."


@pytest.mark.parametrize("word", WORDS)
def test_every_word_can_be_heard_and_seen(model: HookedOmni, word: str) -> None:
    assert said(model, heard=word, seen=None) == f"A {word}."
    assert said(model, heard=None, seen=word) == f"A {word}."
    assert said(model, heard=word, seen=None, heard_when="audio@1.0-2.0s") == f"A {word}."


def test_gains_decide(model: HookedOmni) -> None:
    assert said(planted(gains=(2.0, 1.0)), heard="dog", seen="bus") == "A dog."


def test_twins_without_a_head() -> None:
    deaf, blind = planted(heard_at=None), planted(seen_at=None)
    assert said(deaf, heard="dog", seen=None) == "A thing."
    assert said(blind, heard=None, seen="bus") == "A thing."
    assert said(blind, heard="dog", seen="bus") == "A dog."


def test_a_word_chosen_at_the_last_prompt_position() -> None:
    early = planted(names_at="last")
    assert said(early, heard="dog", seen="bus") == " bus."
    assert said(early, "G !-> V", heard="dog", seen="bus") == " bus."
    assert said(early, "G+last !-> V", heard="dog", seen="bus") == " dog."


def test_one_that_only_sees() -> None:
    blind_to_sound = planted(heard_at=None, family="vl")
    assert said(blind_to_sound, kind="video", seen="chef") == "A chef."


def test_heads_attend_as_planted() -> None:
    omni = planted(heard_at=2, seen_at=5)
    prompt = asked(omni, heard_when="audio@1.0-2.0s")
    filtered = lambda name: name.endswith("hook_pattern")  # noqa: E731
    _, cache = omni.model.run_with_cache(prompt, names_filter=filtered)
    every = torch.full((prompt.n_pos,), 1 / prompt.n_pos)
    for layer in range(8):
        paid = cache[names.pattern(layer)][0, :, -1]
        for head in range(4):
            expected = every
            if (layer, head) in ((2, HEARD_HEAD), (5, SEEN_HEAD)):
                key = prompt.spans["audio" if layer == 2 else "video"]
                expected = torch.zeros(prompt.n_pos)
                expected[key] = 1 / len(key)
            torch.testing.assert_close(paid[head], expected, rtol=0, atol=1e-4)


def test_only_the_planted_heads_write(model: HookedOmni) -> None:
    prompt = asked(model)
    writes = {(1, 3), (2, HEARD_HEAD), (5, SEEN_HEAD)}
    clean = model.model(prompt)
    for layer in range(8):
        for head in range(4):
            cut = ablate("attn.hook_z", span="prompt", layers=[layer], heads=[head])
            moved = (model.model.run_with_hooks(prompt, fwd_hooks=[cut]) - clean).abs().max()
            assert (float(moved) > 0.1) == ((layer, head) in writes), (layer, head)


def top_words(omni: HookedOmni, prompt: Any, span: str) -> list[str]:
    """What the lens reads at the positions of a span, in each layer."""
    resid = lambda name: name.endswith("hook_resid_post")  # noqa: E731
    _, cache = omni.model.run_with_cache(prompt, names_filter=resid)
    read = []
    for layer in range(omni.model.cfg.n_layers):
        at = omni.model.ln_final(cache[names.resid_post(layer)][0, prompt.spans[span]])
        tokens = omni.model.unembed(at).argmax(-1).unique().tolist()
        read.append("|".join(omni.model.tokenizer.decode([t]) for t in tokens))
    return read


def test_words_are_told_from_one_layer_on_at_audio_positions_alone(model: HookedOmni) -> None:
    prompt = asked(model, heard="dog", seen="bus", kind="video then audio")
    assert [" dog" in word for word in top_words(model, prompt, "audio")] == [False] + [True] * 7
    assert not any(" bus" in w or " dog" in w for w in top_words(model, prompt, "video"))
    untold = planted(told_at=None)
    assert not any(" dog" in w for w in top_words(untold, asked(untold), "audio"))


@pytest.mark.parametrize("family", ["omni", "vl"])
def test_hugging_face_says_the_same(family: Any) -> None:
    omni = planted(family=family)
    inputs = processed(omni, "audio in video" if family == "omni" else "video")
    made = omni.model.generate(
        omni.embed_inputs(**inputs), max_new_tokens=STEPS, return_logits=True
    )
    with eager(omni) as hf:
        out = hf.generate(
            **inputs,
            max_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert out.sequences[0, inputs["input_ids"].shape[1] :].tolist() == made.tokens.tolist()
    torch.testing.assert_close(torch.cat(out.logits), made.logits, rtol=0, atol=3e-5)


def arrays(omni: HookedOmni, audio: Audio, video: Video) -> dict[str, Any]:
    return omni.family.prepare(omni.processor, Prompt("What?", video="a", audio="b"), video, audio)


def test_towers_tuned_to_sounds_and_pictures() -> None:
    omni = planted()
    sounds: dict[str | None, list[Audio]] = {"dog": [sound(seed=2)], "train": [sound(seed=3)]}
    pictures: dict[str | None, list[Video]] = {"bus": [frames(seed=1)], "chef": [frames(seed=7)]}
    quiet = sound(seed=2)
    quiet = Audio(0 * quiet.samples, quiet.sampling_rate, quiet.seconds, ())
    tune(omni, sounds | {None: [quiet]}, pictures)
    for word, clips in pictures.items():
        prompt = omni.embed_inputs(**arrays(omni, sounds["dog"][0], clips[0]))
        assert omni.model.generate(prompt, max_new_tokens=STEPS).text == f"A {word}."
        cut = [knockout("G !-> V @ 5")]
        assert omni.model.generate(prompt, max_new_tokens=STEPS, fwd_hooks=cut).text == "A dog."
    for heard, expected in ((sounds["train"][0], "A train."), (quiet, "A thing.")):
        prompt = omni.embed_inputs(**arrays(omni, heard, pictures["bus"][0]))
        assert (
            omni.model.generate(
                prompt, max_new_tokens=STEPS, fwd_hooks=[knockout("G !-> V @ 5")]
            ).text
            == expected
        )


def test_the_sinks_stand_out(model: HookedOmni) -> None:
    prompt = asked(model)
    norms: Tensor = prompt.embeds[0].norm(dim=-1)
    sinks = model.model.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert bool((norms[prompt.tokens[0] == sinks] > 5 * norms.median()).all())
    assert bool((norms[prompt.tokens[0] != sinks] < 5 * norms.median()).all())
