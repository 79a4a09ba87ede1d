"""Compiled, copied, moved and retyped models give their numbers, or are refused."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import HookedOmni, HookedTransformer, load, names, prove
from hooked_omni.errors import CheckpointError, HookError, ParityError, PromptError
from tests.support.models import CLIP_OF, left_padded, processed
from tests.support.runs import unstopped

TOKENS = torch.arange(2, 14)[None]
AT = names.resid_post(1)


def wipe(tensor: Tensor, hook: Any) -> Tensor:
    return tensor * 0


def both(model: Any) -> list[Tensor]:
    """Logits, logits after an edit, logits again."""
    plain = model(TOKENS)
    edited = model.run_with_hooks(TOKENS, fwd_hooks=[(AT, wipe)])
    assert torch.equal(model(TOKENS), plain) and not torch.equal(edited, plain)
    return [plain, edited]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def fresh() -> HookedOmni:
    return load("random-omni")


def test_a_compiled_model_runs_as_it_is(fresh):
    """A graph would round otherwise, and hooks that come after it might not be in it."""
    graphs: list[Any] = []

    def compiled(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    plain = both(fresh.model)
    whole: Any = torch.compile(fresh.model, backend=compiled)
    assert same(both(whole), plain)
    with fresh.model.hooks([(AT, wipe)]):
        assert torch.equal(whole(TOKENS), plain[1])
    tokens = fresh.model.generate(TOKENS, unstopped(3)).tokens
    assert torch.equal(whole.generate(TOKENS, unstopped(3)).tokens, tokens)
    fresh.model.compile(backend=compiled)
    assert same(both(fresh.model), plain) and graphs == []


def test_copies_have_weights_and_hooks_of_their_own(fresh):
    plain = both(fresh.model)
    pair = copy.deepcopy(fresh)
    assert pair.model.embed.weight is pair.hf.get_input_embeddings().weight
    for other in (pair.model, pickle.loads(pickle.dumps(fresh.model))):
        assert same(both(other), plain)
        other.add_hook(AT, wipe)
        assert torch.equal(other(TOKENS), plain[1]) and torch.equal(fresh.model(TOKENS), plain[0])
        other.reset_hooks()
        other.ln_final.weight.data.mul_(2)
        assert torch.equal(fresh.model(TOKENS), plain[0])
    fresh.model.add_hook(AT, wipe)
    for make in (copy.deepcopy, pickle.dumps):
        with pytest.raises(HookError, match="without hooks to copy"):
            make(fresh.model)
    fresh.model.reset_hooks()
    assert same(both(copy.deepcopy(fresh.model)), plain)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_retyped_model_is_the_one_loaded_so(fresh, dtype):
    loaded = load("random-omni", dtype=dtype)
    plain = both(loaded.model)
    other = load("random-omni")
    fresh.model.to(getattr(torch, dtype))
    other.hf.to(getattr(torch, dtype))
    assert same(both(fresh.model), plain) and same(both(other.model), plain)
    assert fresh.model.cfg.dtype == getattr(torch, dtype)
    tokens = loaded.model.generate(TOKENS, unstopped(3)).tokens
    assert torch.equal(fresh.model.generate(TOKENS, unstopped(3)).tokens, tokens)


def test_half_precision_is_hugging_faces_to_the_bit(numbers_alone):
    for attention in ("sdpa", "eager"):
        omni = load("random-omni", dtype="float16", attn_implementation=attention)
        prompt = omni.embed_inputs(**processed(omni, CLIP_OF["omni"]))
        assert prove(omni, prompt, decode_steps=3).prefill == 0


def test_hugging_faces_own_rotary_frequencies_are_rounded_by_retyping(fresh, numbers_alone):
    """Ours are computed again; the proof says that the two now differ."""
    fresh.hf.half()
    prompt = fresh.embed_inputs(**processed(fresh, CLIP_OF["omni"]))
    with pytest.raises(ParityError, match="float16"):
        prove(fresh, prompt, decode_steps=1)


def test_a_model_in_parts_is_refused(fresh):
    kept = fresh.model.prefill(TOKENS)
    fresh.model.half()
    with pytest.raises(PromptError, match=r"torch.float16, got width 64 and torch.float32"):
        fresh.model.generate(kept, unstopped(2))
    fresh.model.float()
    for part in (fresh.model.embed, fresh.model.blocks, fresh.model.unembed):
        for kind in (torch.float16, torch.float64):
            part.to(kind)
            with pytest.raises(CheckpointError, match="weights of one dtype on one device"):
                fresh.model.generate(TOKENS, unstopped(2))
            part.float()
    both(fresh.model)
    with pytest.raises(CheckpointError, match="weights of one dtype on one device"):
        fresh.model.to("meta")(TOKENS)


def test_autocast_and_towers_without_numbers_are_refused(fresh):
    """Under autocast, layers round as neither the loaded model nor one of that dtype does."""
    inputs, kept = processed(fresh, CLIP_OF["omni"]), fresh.model.prefill(TOKENS)
    calls = [
        lambda: fresh.model(TOKENS),
        lambda: fresh.model.run_with_cache(TOKENS),
        lambda: fresh.model.prefill(TOKENS),
        lambda: fresh.model.generate(kept, unstopped(2)),
        lambda: fresh.model.generate_many(kept, [[], [(AT, wipe)]], unstopped(2)),
        lambda: fresh.model.score(kept, TOKENS[0, :2], [[]]),
        lambda: fresh.embed_inputs(**inputs),
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for call in calls:
            with pytest.raises(CheckpointError, match=r"no torch\.autocast"):
                call()
    both(fresh.model)
    fresh.hf.to("meta")
    with pytest.raises(CheckpointError, match="expected weights with numbers"):
        fresh.embed_inputs(**inputs)


@pytest.mark.parametrize("family", ["vl", "vl3"])
def test_tied_weights_stay_one(family):
    omni = load(f"random-{family}")
    model: HookedTransformer = copy.deepcopy(omni.model)
    for one in (omni.model, model):
        assert one.embed.weight is one.unembed.weight
        one.half()
        assert one.embed.weight is one.unembed.weight
    assert omni.model.embed.weight is omni.hf.get_input_embeddings().weight
    assert same(both(omni.model), both(model))


def test_left_padding_changes_no_caption(omni, clips):
    inputs = clips["omni", CLIP_OF["omni"]]
    plain, padded = (omni.embed_inputs(**left_padded(omni, inputs, width)) for width in (0, 6))
    made = [omni.model.generate(p, unstopped(5)) for p in (plain, padded)]
    assert torch.equal(made[0].tokens, made[1].tokens)
    torch.testing.assert_close(made[0].logits, made[1].logits, rtol=0, atol=1e-4)
