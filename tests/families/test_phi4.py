"""Phi-4-multimodal: pictures and sound, windows that cut keys, LongRoPE, fused projections."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hooked_omni import HookedOmni, Prompt, knockout, load, names, prove, scale_attention
from hooked_omni.decoding.prefill import prefill
from hooked_omni.errors import CheckpointError, HookError, PromptError
from hooked_omni.organisms.random_phi import random_phi4
from hooked_omni.transformer import HookedTransformer
from tests.support.checkpoints import edited, in_one_file
from tests.support.hugging_face import hf_caption
from tests.support.models import (
    frames,
    left_padded,
    processed,
    save_checkpoint,
    sound,
    uneven_gains,
)
from tests.support.runs import bits_equal, close, opened, unstopped

pytestmark = pytest.mark.usefixtures("numbers_alone")
WORDS = "Describe what you hear in this clip, and when it starts."


def phi4(**options: Any) -> HookedOmni:
    omni = HookedOmni.from_hf(*random_phi4(**options))
    uneven_gains(omni.hf)
    return omni


def asked(omni: HookedOmni, words: str = WORDS, audio: Any = None, video: Any = None) -> Any:
    prompt = Prompt(
        words,
        audio=None if audio is None else "sound",
        video=None if video is None else "clip",
        use_audio_in_video=False,
        system="Be brief.",
    )
    read = tuple(one for one in (video, audio) if one is not None)
    return omni.family.prepare(omni.processor, prompt, read)


def captioned(omni: HookedOmni, prompt: Any, hooks: Any) -> Tensor:
    logits = omni.model.generate(prompt, unstopped(8), hooks).logits
    assert logits is not None
    return logits


@pytest.mark.parametrize("heard", [False, True])
def test_pictures_are_hugging_faces(models, heard):
    omni = models["phi4"]
    clip = replace(frames(2), frames=frames(2).frames[..., :28, :])  # wide: few tokens
    inputs = asked(omni, video=clip, audio=sound(1.0) if heard else None)
    prompt = omni.embed_inputs(**inputs)
    bits_equal(omni.model(prompt), omni.hf(**inputs).logits)
    first, second = (prompt.spans[f"frame {i}"] for i in (0, 1))
    assert prompt.spans["video"].tolist() == [*first.tolist(), *second.tolist()]
    assert len(first) == len(second) >= 290
    if heard:
        assert len(prompt.spans["audio"]) == 13
        alone = omni.embed_inputs(**asked(omni, audio=sound(1.0)))
        at = (one.embeds[0, one.spans["audio"]] for one in (prompt, alone))
        assert not torch.allclose(*at)  # projected otherwise beside a picture
        start, end = prompt.spans["audio"][[0, -1]].tolist()
        assert prompt.spans["audio@0-0.08s"].tolist() == [start]
        assert prompt.spans["audio@0.95-1.0s"].tolist() == [end]


def test_the_words_of_each_turn(models):
    omni = models["phi4"]
    prompt = omni.embed_inputs(**asked(omni, audio=sound(1.0)))
    said = {
        name: omni.processor.tokenizer.decode(prompt.tokens[0, prompt.spans[name]])
        for name in ("question", "system", "markup")
    }
    marks = "<|system|><|end|><|user|><|end|><|assistant|>"
    assert said == {"question": WORDS, "system": "Be brief.", "markup": marks}


@pytest.mark.parametrize(
    ("window", "padding"), [(2, 0), (7, 0), (7, 4), (30, 0), (101, 4), (4096, 0), (None, 4)]
)
def test_any_window_is_hugging_faces(window, padding):
    omni = phi4(window=window)
    inputs = asked(omni, audio=sound(2.0))
    prompt = omni.embed_inputs(**(left_padded(omni, inputs, padding) if padding else inputs))
    report = prove(omni, prompt)
    assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0
    if not padding:
        tokens, theirs = hf_caption(omni, inputs)
        ours = omni.model.generate(prompt, unstopped(8))
        assert ours.tokens.tolist() == tokens
        close(ours.logits, theirs)


def test_a_window_that_cuts_is_seen_in_scores_and_pattern(models):
    omni = models["phi4"]
    prompt = omni.embed_inputs(**asked(omni, audio=sound(2.0)))
    n, window = prompt.n_pos, omni.model.cfg.windows[0]
    assert n > window + 20
    seen: list[tuple[str, Tensor]] = []

    def keep(tensor: Tensor, hook: Any) -> None:
        seen.append((hook.name, tensor))

    at = [names.attn_scores(2), names.pattern(2)]
    omni.model.generate(prompt, max_new_tokens=3, fwd_hooks=[(name, keep) for name in at])
    assert [tuple(t.shape[2:]) for _, t in seen] == [
        *[(n, n)] * 2,
        *[(1, n + 1)] * 2,
        *[(1, n + 2)] * 2,
    ]
    for name, tensor in seen:
        query = torch.arange(tensor.shape[3])[-tensor.shape[2] :, None]
        key = torch.arange(tensor.shape[3])
        read = (key <= query) & (key > query - window)
        none = torch.finfo(tensor.dtype).min if name.endswith("scores") else 0.0
        assert bool((tensor[..., ~read] <= none).all())
        assert bool((tensor[..., read] > none).all())


def test_what_is_outside_every_window_has_no_pair_to_cut():
    omni = phi4(window=16)
    model, prompt = omni.model, omni.embed_inputs(**asked(omni, audio=sound(2.0)))
    for rule in ("G !-> Q", "last !-> Q", "generated !-> system @ 1-2"):
        with pytest.raises(HookError, match=r"nothing to reading '.*' among the last 16"):
            model.generate(prompt, max_new_tokens=4, fwd_hooks=[knockout(rule)])
        with pytest.raises(HookError, match=r"nothing to reading '.*' among the last 16"):
            model.generate_many(prompt, [[], [knockout(rule)]], max_new_tokens=4)
    with pytest.raises(HookError, match="among the last 16"):
        scale = scale_attention(query="generated", key="question", factor=2.0)
        model.generate(prompt, max_new_tokens=4, fwd_hooks=[scale])
    near, plain = (captioned(omni, prompt, c) for c in ([knockout("G !-> A")], []))
    assert not torch.allclose(near[1:], plain[1:], atol=1e-4)
    with pytest.raises(HookError, match="expected every query to keep a key"):
        every = knockout(query="generated", key="generated+audio+markup")
        model.generate(prompt, max_new_tokens=4, fwd_hooks=[every])


def test_an_edit_opens_no_window():
    omni = phi4(window=16)
    model, prompt = omni.model, omni.embed_inputs(**asked(omni, audio=sound(2.0)))
    clean = model.run_with_hooks(prompt, fwd_hooks=opened(model))

    def raise_first(scores: Tensor, hook: Any) -> None:
        scores[..., 20:, :2] = 100.0

    edit = [(names.attn_scores(1), raise_first), *opened(model)]
    assert torch.equal(model.run_with_hooks(prompt, fwd_hooks=edit), clean)

    def read_first(pattern: Tensor, hook: Any) -> None:
        pattern[..., 20:, 0] = 0.5

    with pytest.raises(HookError, match="nor from before a layer's window"):
        model.run_with_hooks(prompt, fwd_hooks=[(names.pattern(1), read_first)])


@pytest.mark.parametrize("window", [7, 40, None])
def test_rows_of_a_sweep_see_the_window(window):
    omni = phi4(window=window)
    model, prompt = omni.model, omni.embed_inputs(**asked(omni, audio=sound(2.0)))
    conditions = [
        [],
        [knockout(query="generated", key="markup", layers=[1, 2])],
        [knockout(query="generated+last", key="audio", layers=[3])],
        [scale_attention(query="generated", key="markup", factor=3.0, layers=[0])],
    ]
    many = model.generate_many(prompt, conditions, unstopped(8))
    for condition, swept in zip(conditions, many, strict=True):
        alone = model.generate(prompt, unstopped(8), condition)
        assert swept.tokens.tolist() == alone.tokens.tolist()
        close(swept.logits, alone.logits, 1e-4)
    scores = model.score(prompt, many[0].tokens, conditions)
    logprobs = captioned(omni, prompt, []).log_softmax(-1).gather(1, many[0].tokens[:, None])[:, 0]
    close(scores[0], logprobs, 1e-4)


def test_long_prompts_turn_by_other_frequencies():
    """All positions of a prompt turn by one set: no caption goes from one to the other."""
    short, long = phi4(longest_short=4096), phi4(longest_short=64)
    inputs = asked(long, audio=sound(2.0))
    ours, other = (omni.embed_inputs(**inputs) for omni in (long, short))
    bits_equal(ours.embeds, other.embeds)
    assert ours.n_pos > 64
    report = prove(long, ours)
    assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0
    assert not torch.allclose(long.model(ours), short.model(other), atol=1e-2)
    words = asked(long, "What?")
    few = long.embed_inputs(**words)
    bits_equal(long.model(few), long.hf(**words).logits)
    left = 64 - few.n_pos
    assert len(long.model.generate(few, unstopped(left + 1)).tokens) == left + 1
    with pytest.raises(PromptError, match=r"expected at most 64 positions, got 65: .* all of them"):
        long.model.generate(few, unstopped(left + 2))


def test_padding_takes_no_position_of_a_prompt_that_turns_by_the_first_frequencies():
    """By ids, as Hugging Face decides, not by how many positions there are."""
    omni = phi4(longest_short=64)
    words = asked(omni, "What?")
    plain = omni.embed_inputs(**words)
    inputs = left_padded(omni, words, 64 - plain.n_pos + 4)
    ids = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)  # as `generate` counts
    padded = replace(omni.embed_inputs(**inputs), position_ids=ids.expand(3, 1, -1).clone())
    assert plain.n_pos < 64 < padded.n_pos
    ours = omni.model(padded)[:, -plain.n_pos :]
    bits_equal(ours, omni.hf(**inputs, position_ids=ids).logits[:, -plain.n_pos :])
    close(ours, omni.model(plain), 1e-5)
    left = 64 - plain.n_pos
    tokens = omni.model.generate(padded, unstopped(left + 1)).tokens
    assert tokens.tolist() == omni.model.generate(plain, unstopped(left + 1)).tokens.tolist()
    with pytest.raises(PromptError, match="expected at most 64 positions, got 65"):
        omni.model.generate(padded, unstopped(left + 2))


def test_no_keys_are_taken_from_a_prompt_that_turned_otherwise():
    omni = phi4(longest_short=90, window=None)
    few, more = (
        omni.embed_inputs(**asked(omni, WORDS + " And where?" * extra)) for extra in (0, 3)
    )
    assert few.n_pos <= 90 < more.n_pos
    taken = prefill(omni.model, more, like=prefill(omni.model, few))
    ours, plain = (omni.model.generate(p, unstopped(4)).logits for p in (taken, more))
    close(ours, plain)


def test_fused_weights_are_views(models):
    model, hf = models["phi4"].model, models["phi4"].hf
    x = torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0))
    block, theirs = model.blocks[1], hf.model.layers[1]
    rows = theirs.self_attn.qkv_proj(x).split([64, 32, 32], dim=-1)
    for letter, part in zip("QKV", rows, strict=True):
        weight = getattr(block.attn, f"W_{letter}")
        ours = torch.einsum("bpm,hmd->bphd", x, weight) + getattr(block.attn, f"b_{letter}")
        torch.testing.assert_close(ours.flatten(2), part)
        stored = theirs.self_attn.qkv_proj.weight.untyped_storage()
        assert weight.untyped_storage().data_ptr() == stored.data_ptr()
    gate, up = theirs.mlp.gate_up_proj(x).chunk(2, dim=-1)
    torch.testing.assert_close(x @ block.mlp.W_gate, gate)
    torch.testing.assert_close(x @ block.mlp.W_in, up)
    assert model.QK.shape == (4, 4, 64, 64) and model.W_gate.shape == (4, 64, 128)


def test_adapters_beside_the_weights_are_refused(folders, tmp_path):
    hf, processor = random_phi4()
    hf.model.layers[2].self_attn.qkv_proj.lora_A = nn.Linear(64, 2, bias=False)
    with pytest.raises(CheckpointError, match=r"expected adapters merged .* merge_and_unload"):
        HookedOmni.from_hf(hf, processor)
    folder = in_one_file(folders["phi4"], tmp_path / "adapters")
    key = "model.layers.0.self_attn.qkv_proj.lora_A.speech.weight"
    edited(folder, lambda tensors: tensors.update({key: torch.ones(2, 64)}))
    for decoder_only, message in (
        (False, f"1 unexpected_keys .*{key}"),
        (True, f"left over .*{key}"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load(folder, decoder_only=decoder_only)


@pytest.mark.parametrize("decoder_only", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "expected hidden_act 'silu' .*, got 'gelu' and 48"),
        ({"sliding_window": 1}, "expected .* a sliding_window of 2 or more, .* got 'silu' and 1"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "that Phi4MultimodalConfig"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "that Phi4MultimodalConfig"),
        ({"num_hidden_layers": "four"}, "that Phi4MultimodalConfig"),
    ],
)
def test_what_is_not_computed_is_refused_before_weights_are_read(
    tmp_path, changes, message, decoder_only
):
    folder = save_checkpoint(*random_phi4(), tmp_path)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        load(folder, decoder_only=decoder_only)


def test_plain_rotary_positions_without_a_window():
    hf, processor = random_phi4(window=None)
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    hf.config.rope_parameters = rope
    other = type(hf)(hf.config).eval().requires_grad_(False)
    other.load_state_dict(hf.state_dict())
    omni = HookedOmni.from_hf(other, processor)
    prompt = omni.embed_inputs(**processed(omni, "audio"))
    assert omni.model.cfg.rope_limit is None and omni.model.cfg.windows == ()
    report = prove(omni, prompt, decode_steps=4)
    assert report.prefill == report.decode == report.decode_opened == 0


def test_sound_and_pictures_without_their_tokens_are_refused(models, clips):
    omni, whole = models["phi4"], clips["phi4", "audio"]
    for left_out in ("audio_input_features", "audio_embed_sizes"):
        inputs = {name: value for name, value in whole.items() if name != left_out}
        with pytest.raises(PromptError, match="expected 0 audio tokens for this sound"):
            omni.embed_inputs(**inputs)
    words = {name: whole[name] for name in ("input_ids", "attention_mask")}
    image = omni.hf.config.vision_config.image_token_id
    words["input_ids"] = torch.where(words["input_ids"] > 260, image, words["input_ids"])
    with pytest.raises(PromptError, match="and no pictures"):
        omni.embed_inputs(**words)


def test_only_a_decoder_is_a_hooked_transformer(models):
    """The towers lie inside the decoder's module of Hugging Face, and are no part of ours."""
    own = {name for name, _ in models["phi4"].model.named_parameters()}
    assert not any("embed_tokens_extend" in name for name in own)
    assert isinstance(models["phi4"].model, HookedTransformer)
