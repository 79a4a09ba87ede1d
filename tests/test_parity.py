"""The hooked decoder's logits are Hugging Face's, to the bit, at prefill and at decode steps."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, load
from hooked_omni.errors import PromptError, SpanError
from hooked_omni.hf.capture import find_decoder
from hooked_omni.organisms import SHIPPED
from tests.support.hugging_face import hf_caption
from tests.support.models import (
    CLIP_OF,
    COUNTING,
    KINDS,
    eager,
    in_dtype,
    left_padded,
    one_expert_after_the_other,
    processed,
    save_checkpoint,
)
from tests.support.runs import bits_equal, close, opened, unstopped

MAKE: dict[str, Any] = {name: SHIPPED[f"random-{name}"] for name in CLIP_OF}
CLIP = "audio in video"
STEPS = 16
PADDING = 5
KIND_NAMES = [f"{name}-{kind}" for name, kind in KINDS]
every_kind = pytest.mark.parametrize(("name", "kind"), KINDS, ids=KIND_NAMES)
both = pytest.mark.parametrize("name", ["omni", "vl"])
every = pytest.mark.parametrize("name", list(CLIP_OF))
every_attention = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
every_clip = pytest.mark.parametrize(("name", "kind"), CLIP_OF.items(), ids=list(CLIP_OF))


def hf_generates(omni: HookedOmni, inputs: dict[str, Any]) -> tuple[list[int], Tensor, Any]:
    """Hugging Face's greedy tokens and logits, and the rotary positions its decoder was given."""
    seen: list[Tensor] = []

    def keep(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        positions = kwargs["position_ids"]  # two axes in a model of one dimension
        seen.append(positions[-3:].expand(3, *positions.shape[-2:]).clone())

    handle = find_decoder(omni.hf).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        return *hf_caption(omni, inputs, STEPS + 1), seen
    finally:
        handle.remove()


def require_same_steps(omni: HookedOmni, inputs: dict[str, Any], hooks: list[Any]) -> Tensor:
    """Tokens that are Hugging Face's, chosen from its logits at its positions."""
    prompt = omni.embed_inputs(**inputs)
    tokens, theirs, seen = hf_generates(omni, inputs)
    ours = omni.model.generate(prompt, unstopped(STEPS + 1), hooks)
    assert ours.logits is not None and ours.tokens.tolist() == tokens
    assert len(ours.tokens) == len(theirs) == len(seen) == STEPS + 1
    # Hugging Face's prefill unembeds as many rows as it likes, which may round otherwise.
    close(ours.logits[0], theirs[0])
    bits_equal(ours.logits[1:], theirs[1:])
    bits_equal(prompt.position_ids, seen[0])
    steps = range(prompt.n_pos, prompt.n_pos + STEPS)
    bits_equal(prompt.position_ids_at(steps), torch.cat(seen[1:], dim=2))
    return ours.tokens


@contextmanager
def attention(omni: HookedOmni, implementation: str) -> Iterator[list[Any]]:
    """Kernels as loaded, or eager attention in Hugging Face and hooks that open ours."""
    assert omni.hf.config.get_text_config()._attn_implementation == "sdpa"
    with eager(omni) if implementation == "eager" else nullcontext():
        yield opened(omni.model) if implementation == "eager" else []


@every_kind
@every_attention
def test_prefill_is_hugging_faces(models, clips, name, kind, implementation):
    omni, inputs = models[name], clips[name, kind]
    with attention(omni, implementation) as hooks:
        prompt, theirs = omni.embed_inputs(**inputs), omni.hf(**inputs).logits
    bits_equal(omni.model.run_with_hooks(prompt, fwd_hooks=hooks), theirs)


@every_kind
@every_attention
def test_decode_steps_are_hugging_faces(models, clips, name, kind, implementation):
    # A decode step has one query; a kernel hook at the prefill would hide a difference.
    with attention(models[name], implementation) as hooks:
        require_same_steps(models[name], clips[name, kind], hooks)


def test_positions_after_the_prompt_go_on_from_its_last(prompt):
    """A clip takes fewer positions than tokens: a decoder that counts tokens would be noticed."""
    n = prompt.n_pos
    assert int(prompt.position_ids.max()) < n - 1
    whole = prompt.position_ids_at(range(n + 3))
    assert int(whole[0, 0, n]) == int(prompt.position_ids[:, :, -1].max()) + 1
    bits_equal(whole[:, :, :n], prompt.position_ids)
    bits_equal(whole[:, :, n - 2 :], prompt.position_ids_at(range(n - 2, n + 3)))
    bits_equal(whole[:, :, n:], prompt.position_ids_at(range(n, n + 3)))


def test_sound_inside_a_video_shares_its_time(prompt):
    time, height, width = prompt.position_ids[:, 0]
    audio, video = prompt.spans["audio"], prompt.spans["video"]
    assert time[audio[0]] == time[video[0]]
    assert torch.equal(time[audio], height[audio]) and torch.equal(time[audio], width[audio])
    assert sorted(set((time[video] - time[video[0]]).tolist())) == [0, 25, 50]
    # Two seconds of picture come before the first two seconds of sound, then the third second.
    order = torch.cat([audio, video]).sort().values
    kinds = "".join("A" if p in set(audio.tolist()) else "V" for p in order.tolist())
    assert kinds == "V" * 12 + "A" * 50 + "V" * 6 + "A" * 25


def test_the_papers_scripts_get_flat_positions(omni, prompt, clips):
    flat = {**clips["omni", CLIP], "use_audio_in_video": False}
    ours = omni.embed_inputs(**flat)
    time, height, width = ours.position_ids[:, 0]
    assert torch.equal(time, height) and torch.equal(time, width)
    # One step of the video grid spans a height and a width only where its place is known.
    block = time[ours.spans["audio"].min() - 1 : ours.spans["audio"].max() + 1]
    assert torch.equal(block.diff(), torch.ones_like(block.diff()))
    assert not torch.equal(ours.position_ids, prompt.position_ids)
    bits_equal(omni.model(ours), omni.hf(**flat).logits)


@every_clip
@every_attention
def test_padding_in_front_changes_no_real_row(models, clips, name, kind, implementation):
    omni = models[name]
    padded = left_padded(omni, clips[name, kind], PADDING)
    with attention(omni, implementation) as hooks:
        prompt, theirs = omni.embed_inputs(**padded), omni.hf(**padded).logits
    ours = omni.model.run_with_hooks(prompt, fwd_hooks=hooks)
    assert prompt.spans["padding"].tolist() == list(range(PADDING))
    bits_equal(ours[:, PADDING:], theirs[:, PADDING:])
    alone = omni.model(omni.embed_inputs(**clips[name, kind]))
    close(ours[:, PADDING:], alone, 5e-5)


# With positions of one dimension, `forward` counts padding and `generate` does not.
@pytest.mark.parametrize(
    ("name", "kind"), [(n, k) for n, k in CLIP_OF.items() if n not in COUNTING]
)
@every_attention
def test_decode_steps_after_padding(models, clips, name, kind, implementation):
    omni = models[name]
    with attention(omni, implementation) as hooks:
        tokens = require_same_steps(omni, left_padded(omni, clips[name, kind], PADDING), hooks)
    alone = omni.embed_inputs(**clips[name, kind])
    assert torch.equal(omni.model.generate(alone, unstopped(STEPS + 1)).tokens, tokens)


def batched(omni: HookedOmni, short: dict[str, Any], kind: str) -> tuple[dict[str, Any], int]:
    """Two questions about one clip in a batch, and how far the shorter is padded."""
    long = processed(omni, kind, "What now, and what after that?")
    width = long["input_ids"].shape[1] - short["input_ids"].shape[1]
    rows = (left_padded(omni, short, width), long)
    batch = {
        key: torch.cat([row[key] for row in rows]) if isinstance(value, Tensor) else value
        for key, value in long.items()
    }
    return batch, width


@pytest.mark.parametrize(("name", "kind"), [*((n, "text") for n in CLIP_OF), ("omni", CLIP)])
def test_a_batch_runs_forward_and_nothing_else(models, clips, name, kind):
    omni, short = models[name], clips[name, kind]
    batch, width = batched(omni, short, kind)
    prompt = omni.embed_inputs(**batch)
    ours, theirs = omni.model(prompt), omni.hf(**batch).logits
    bits_equal(ours[0, width:], theirs[0, width:])
    bits_equal(ours[1], theirs[1])
    close(ours[:1, width:], omni.model(omni.embed_inputs(**short)), 5e-5)
    with pytest.raises(SpanError, match="expected one prompt to look up 'audio' in, got a batch"):
        prompt.spans["audio"]
    with pytest.raises(PromptError, match="expected one prompt, got a batch of 2"):
        omni.model.generate(prompt)


@every_clip
def test_bfloat16_equals_eager(folders, clips, name, kind):
    half = load(folders[name], dtype="bfloat16", attn_implementation="eager")
    if half.model.cfg.experts is not None:
        one_expert_after_the_other(half.hf)
    assert half.model.cfg.dtype == torch.bfloat16
    assert half.model.cfg.attn_implementation == "eager"
    inputs = in_dtype(half, clips[name, kind])
    prompt, logits = half.embed_inputs(**clips[name, kind]), half.hf(**inputs).logits
    assert logits.dtype == torch.bfloat16
    bits_equal(half.model(prompt), logits)
    bits_equal(half.model.run_with_hooks(prompt, fwd_hooks=opened(half.model)), logits)
    tokens, theirs, _ = hf_generates(half, inputs)
    ours = half.model.generate(prompt, unstopped(STEPS + 1))
    assert ours.logits is not None and ours.tokens.tolist() == tokens
    # `generate` keeps its logits in float32, whatever they were chosen from.
    bits_equal(ours.logits[1:].float(), theirs[1:])


@pytest.mark.parametrize("dtype", ["float32", None])
@every_clip
def test_a_saved_checkpoint_loads_from_its_folder(folders, models, clips, name, kind, dtype):
    loaded = load(folders[name], dtype=dtype)
    if loaded.model.cfg.experts is not None:
        one_expert_after_the_other(loaded.hf)
    inputs = processed(loaded, kind)
    for given in {"input_ids", "pixel_values_videos", "input_features"} & inputs.keys():
        bits_equal(inputs[given], clips[name, kind][given])
    bits_equal(*(omni.model(omni.embed_inputs(**inputs)) for omni in (loaded, models[name])))
    cfg, theirs = loaded.model.cfg, models[name].model.cfg
    assert cfg.eos_tokens == theirs.eos_tokens != () and cfg.n_layers == theirs.n_layers


@every_clip
def test_casting_a_shipped_model_equals_loading_it_in_that_dtype(tmp_path, clips, name, kind):
    hf, processor = MAKE[name]()
    folder = save_checkpoint(hf, processor, tmp_path)
    options: Any = dict(dtype="bfloat16", attn_implementation="eager")
    cast, loaded = (load(source, **options) for source in (f"random-{name}", folder))
    if cast.model.cfg.experts is not None:
        one_expert_after_the_other(loaded.hf)
    inputs = clips[name, kind]
    theirs = loaded.hf(**in_dtype(loaded, inputs)).logits
    bits_equal(cast.model(cast.embed_inputs(**inputs)), theirs)


@pytest.mark.parametrize("shipped", [f"random-{name}" for name in CLIP_OF])
def test_a_shipped_model_knows_its_name(shipped):
    assert load(shipped).model.cfg.model_name == shipped


@every_clip
@pytest.mark.parametrize("padding", [0, PADDING])
def test_a_bundle_is_the_prompt(models, clips, tmp_path, name, kind, padding):
    omni = models[name]
    prompt = omni.embed_inputs(**left_padded(omni, clips[name, kind], padding))
    loaded = EmbeddedPrompt.load(prompt.save(tmp_path / "prompt.safetensors"))
    bits_equal(omni.model(loaded), omni.model(prompt))
    for field in ("embeds", "position_ids", "tokens"):
        bits_equal(getattr(loaded, field), getattr(prompt, field))
    assert (loaded.mask is None) == (prompt.mask is None) == (padding == 0)
    assert loaded.facts == prompt.facts
    spans, expected = ({k: v.tolist() for k, v in p.spans.items()} for p in (loaded, prompt))
    assert spans == expected
    assert loaded.spans.n_prompt == prompt.spans.n_prompt
    deep = omni.model.cfg.n_deepstack > 0
    assert (loaded.deepstack is not None) == (prompt.deepstack is not None) == deep
    timed = {"video": ["frame 1"], "audio": ["audio@1.0-2.0s"]}
    for span in [s for medium, spans in timed.items() if medium in prompt.spans for s in spans]:
        assert loaded.spans[span].tolist() == prompt.spans[span].tolist()
    bits_equal(*(omni.model.generate(p, unstopped(4)).logits for p in (loaded, prompt)))


@both
def test_weights_are_hugging_faces_own(models, name):
    omni = models[name]
    decoder, model = find_decoder(omni.hf), omni.model
    theirs = {p.data_ptr() for p in decoder.parameters()}
    theirs.add(omni.hf.get_output_embeddings().weight.data_ptr())
    assert {p.data_ptr() for p in model.parameters()} == theirs
    for layer, block in enumerate(model.blocks):
        attn, mlp = block.attn, block.mlp
        hf_layer: Any = decoder.layers[layer]  # pyright: ignore[reportIndexIssue]
        views = [
            *((getattr(attn, f"W_{x}"), f"self_attn.{x.lower()}_proj.weight") for x in "QKVO"),
            *((getattr(attn, f"b_{x}"), f"self_attn.{x.lower()}_proj.bias") for x in "QKV"),
            (mlp.W_gate, "mlp.gate_proj.weight"),
            (mlp.W_in, "mlp.up_proj.weight"),
            (mlp.W_out, "mlp.down_proj.weight"),
            (block.ln1.w, "input_layernorm.weight"),
            (block.ln2.w, "post_attention_layernorm.weight"),
        ]
        for ours, at in views:
            weight = hf_layer.get_parameter(at)
            assert ours.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
    assert model.W_U.data_ptr() == omni.hf.get_output_embeddings().weight.data_ptr()
    assert model.W_E.data_ptr() == omni.hf.get_input_embeddings().weight.data_ptr()


@both
def test_weight_views_compute_what_the_layers_compute(models, name):
    """Which axis is the head's, and which half is whose, shows only in numbers."""
    model = models[name].model
    cfg = model.cfg
    x = torch.randn(1, 3, cfg.d_model, generator=torch.Generator().manual_seed(0))
    block = model.blocks[1]
    attn, mlp = block.attn, block.mlp
    for letter, linear, heads in (
        ("Q", attn.q_proj, cfg.n_heads),
        ("K", attn.k_proj, cfg.n_key_value_heads),
        ("V", attn.v_proj, cfg.n_key_value_heads),
    ):
        weight, bias = getattr(model, f"W_{letter}")[1], getattr(model, f"b_{letter}")[1]
        assert weight.shape == (heads, cfg.d_model, cfg.d_head)
        ours = torch.einsum("bpm,hmd->bphd", x, weight) + bias
        torch.testing.assert_close(ours, linear(x).view(1, 3, heads, cfg.d_head))
    z = torch.randn(1, 3, cfg.n_heads, cfg.d_head, generator=torch.Generator().manual_seed(1))
    out = torch.einsum("bphd,hdm->bpm", z, model.W_O[1])
    torch.testing.assert_close(out, attn.o_proj(z.flatten(2)))
    hidden = torch.nn.functional.silu(x @ model.W_gate[1]) * (x @ model.W_in[1])
    torch.testing.assert_close(hidden @ model.W_out[1] + model.b_out[1], mlp(x))
    torch.testing.assert_close(x @ model.W_U + model.b_U, model.unembed(x))


@every
def test_a_text_prompt_is_its_tokens(models, clips, name):
    omni, inputs = models[name], clips[name, "text"]
    prompt = omni.embed_inputs(**inputs)
    bits_equal(omni.model(inputs["input_ids"]), omni.model(prompt))
    given = (inputs["input_ids"], prompt)
    bits_equal(*(omni.model.generate(p, unstopped(4)).logits for p in given))


def test_the_last_prompts_delta_is_not_reused(omni, prompt, clips):
    """Hugging Face keeps the delta of the last prompt on the model; ours belongs to the prompt."""
    before = omni.model.generate(prompt, unstopped(4)).logits
    omni.model.generate(omni.embed_inputs(**clips["omni", "text"]), max_new_tokens=2)
    bits_equal(omni.model.generate(prompt, unstopped(4)).logits, before)


def test_generation_stops_at_the_end_token(omni, clips, monkeypatch):
    model, prompt = omni.model, omni.embed_inputs(**clips["omni", "audio"])

    def caption(stop: bool) -> list[int]:
        return model.generate(prompt, max_new_tokens=STEPS, stop_at_eos=stop).tokens.tolist()

    free = caption(False)
    monkeypatch.setattr(model.cfg, "eos_tokens", (free[3],))
    assert caption(True) == free[: free.index(free[3]) + 1]
    assert caption(False) == free
