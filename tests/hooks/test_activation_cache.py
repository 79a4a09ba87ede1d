"""TransformerLens's helpers give right answers: parts add up, words and heads are found."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import patching
from transformer_lens.head_detector import detect_head

from hooked_omni import ActivationCache, HookedOmni, HookedTransformer, names

CLOSE: Any = dict(rtol=1e-4, atol=2e-5)
CLEAN, CORRUPTED = "the dog barks at me", "the cat purrs at me"


@pytest.fixture(params=["batch", "no batch"])
def run(
    request: pytest.FixtureRequest, omni: HookedOmni, clips: dict
) -> Iterator[tuple[HookedTransformer, Tensor, ActivationCache]]:
    """Model, logits without a batch axis, and a cache of everything with or without one."""
    model = omni.model
    prompt = omni.embed_inputs(**clips["omni", "audio in video"])
    model.set_use_attn_result(True)
    logits, cache = model.run_with_cache(prompt, remove_batch_dim=request.param == "no batch")
    yield model, logits[0], cache
    model.set_use_attn_result(False)


def without_batch(stack: Any, cache: ActivationCache) -> Tensor:
    return stack[:, 0] if cache.has_batch_dim else stack


def one(activation: Tensor, cache: ActivationCache) -> Tensor:
    return activation[0] if cache.has_batch_dim else activation


def test_accumulated_residual_ends_in_the_logits(run):
    model, logits, cache = run
    stack, labels = cache.accumulated_resid(incl_mid=True, apply_ln=True, return_labels=True)
    assert len(stack) == len(labels) == 2 * model.cfg.n_layers + 1
    assert labels[-1] == "final_post"
    torch.testing.assert_close(without_batch(stack, cache)[-1] @ model.W_U, logits, **CLOSE)
    lens = model.unembed(model.ln_final(one(cache["resid_mid", 1], cache)))
    torch.testing.assert_close(without_batch(stack, cache)[3] @ model.W_U, lens, **CLOSE)
    last = cache.accumulated_resid(apply_ln=True, pos_slice=-1)
    torch.testing.assert_close(without_batch(last, cache)[-1] @ model.W_U, logits[-1], **CLOSE)


@pytest.mark.parametrize("layer", [1, 3, None])
@pytest.mark.parametrize("mode", ["all", "attn", "mlp"])
def test_parts_sum_to_the_residual(run, layer, mode):
    model, _, cache = run
    stack, labels = cache.decompose_resid(layer, mode=mode, return_labels=True)
    n_layers = model.cfg.n_layers if layer is None else layer
    assert len(stack) == len(labels) == 1 + n_layers * (2 if mode == "all" else 1)
    kinds = {"all": ("attn_out", "mlp_out"), "attn": ("attn_out",), "mlp": ("mlp_out",)}[mode]
    expected = cache[names.EMBED] + sum(cache[k, i] for i in range(n_layers) for k in kinds)
    torch.testing.assert_close(stack.sum(0), expected, **CLOSE)
    if mode == "all":
        torch.testing.assert_close(stack.sum(0), cache["resid_post", n_layers - 1], **CLOSE)


def test_normalized_parts_sum_to_the_logits(run):
    model, logits, cache = run
    stack = cache.decompose_resid(apply_ln=True)
    torch.testing.assert_close(without_batch(stack, cache).sum(0) @ model.W_U, logits, **CLOSE)
    last = without_batch(cache.decompose_resid(apply_ln=True, pos_slice=-1), cache)
    torch.testing.assert_close(last.sum(0) @ model.W_U, logits[-1], **CLOSE)
    inner = cache.decompose_resid(2, apply_ln=True, mlp_input=True)
    expected = model.blocks[2].ln2(cache["resid_mid", 2])
    torch.testing.assert_close(inner.sum(0), expected, **CLOSE)


def test_heads_and_the_rest_sum_to_the_residual(run):
    model, logits, cache = run
    for layer in (2, None):
        stack, labels = cache.stack_head_results(layer, incl_remainder=True, return_labels=True)
        n_layers = layer or model.cfg.n_layers
        assert len(stack) == len(labels) == n_layers * model.cfg.n_heads + 1
        torch.testing.assert_close(stack.sum(0), cache["resid_post", n_layers - 1], **CLOSE)
    head = labels.index("L1H2")
    torch.testing.assert_close(stack[head], cache["z", 1][..., 2, :] @ model.W_O[1, 2], **CLOSE)
    normalized = cache.stack_head_results(apply_ln=True, incl_remainder=True)
    ours = without_batch(normalized, cache).sum(0) @ model.W_U
    torch.testing.assert_close(ours, logits, **CLOSE)
    last = cache.stack_head_results(pos_slice=-1)
    torch.testing.assert_close(last, stack[:-1, ..., -1, :])


def test_head_results_are_computed_where_none_were_cached(omni, clips):
    prompt = omni.embed_inputs(**clips["omni", "audio"])
    _, cache = omni.model.run_with_cache(prompt)
    assert names.result(0) not in cache
    stack: Any = cache.stack_head_results(incl_remainder=True)
    torch.testing.assert_close(stack.sum(0), cache["resid_post", -1], **CLOSE)
    heads = stack[: omni.model.cfg.n_heads].sum(0)
    torch.testing.assert_close(heads, cache["attn_out", 0], **CLOSE)


def test_a_stack_under_a_norm_is_that_norm(run):
    model, _, cache = run
    batch = {"has_batch_dim": cache.has_batch_dim}
    for mlp_input, norm, stream in ((False, "ln1", "resid_pre"), (True, "ln2", "resid_mid")):
        expected = getattr(model.blocks[2], norm)(cache[stream, 2])
        stack = cache.accumulated_resid(2, apply_ln=True, mlp_input=mlp_input)
        torch.testing.assert_close(stack[-1], expected, **CLOSE)
        for recompute in (False, True):  # an inner norm never recomputes
            more = {**batch, "mlp_input": mlp_input, "recompute_ln": recompute}
            ours = cache.apply_ln_to_stack(cache[stream, 2][None], 2, **more)
            torch.testing.assert_close(ours[0], expected, **CLOSE)
    stack = cache["resid_post", 3][None]
    for layer, recompute in product((None, -1, model.cfg.n_layers), (False, True)):
        ours = cache.apply_ln_to_stack(stack, layer, recompute_ln=recompute, **batch)
        torch.testing.assert_close(ours[0], model.ln_final(stack[0]), **CLOSE)
    part = cache["attn_out", 1][None]
    scaled = cache.apply_ln_to_stack(part, **batch)[0]
    gain, scale = model.ln_final.w, cache["ln_final.hook_scale"]
    torch.testing.assert_close(scaled, part[0] / scale * gain)
    cut = cache.apply_ln_to_stack(part[..., 5:9, :], pos_slice=(5, 9), **batch)[0]
    torch.testing.assert_close(cut, scaled[..., 5:9, :])


def test_attributions_sum_to_the_logit(run):
    model, logits, cache = run
    word = model.tokenizer.decode([65])
    assert model.to_single_token(word) == 65

    def summed(tokens, pos_slice=None, **more):
        stack = cache.decompose_resid(pos_slice=pos_slice)
        more |= {"pos_slice": pos_slice, "has_batch_dim": cache.has_batch_dim}
        return without_batch(cache.logit_attrs(stack, tokens, **more), cache).sum(0)

    torch.testing.assert_close(summed(7), logits[:, 7], **CLOSE)
    torch.testing.assert_close(summed(word), logits[:, 65], **CLOSE)
    difference = summed(7, incorrect_tokens=9)
    torch.testing.assert_close(difference, logits[:, 7] - logits[:, 9], **CLOSE)
    torch.testing.assert_close(summed(7, pos_slice=-1), logits[-1, 7], **CLOSE)


@pytest.mark.parametrize("expand_neurons", [True, False])
@pytest.mark.parametrize("layer", [2, None])
def test_the_full_decomposition_sums(run, expand_neurons, layer):
    model, logits, cache = run
    what: dict[str, Any] = dict(layer=layer, expand_neurons=expand_neurons, pos_slice=(-4, None))
    stack, labels = cache.get_full_resid_decomposition(**what, return_labels=True)
    n_layers = layer or model.cfg.n_layers
    per_layer = model.cfg.n_heads + (model.cfg.d_mlp if expand_neurons else 1)
    assert len(stack) == len(labels) == n_layers * per_layer + 2
    assert labels[-2:] == ["embed", "bias"]
    residual = cache["resid_post", n_layers - 1][..., -4:, :]
    torch.testing.assert_close(stack.sum(0), residual, **CLOSE)
    norm = model.ln_final if layer is None else model.blocks[layer].ln1
    normalized = cache.get_full_resid_decomposition(**what, apply_ln=True)
    torch.testing.assert_close(normalized.sum(0), norm(residual), **CLOSE)
    for direction in (model.W_U[:, 7], model.W_U[:, [7, 9, 11]]):
        plain = cache.get_full_resid_decomposition(**what, project_output_onto=direction)
        torch.testing.assert_close(plain, stack @ direction, **CLOSE)
        projected = cache.get_full_resid_decomposition(
            **what, apply_ln=True, project_output_onto=direction
        )
        torch.testing.assert_close(projected, normalized @ direction, **CLOSE)
    if layer is None:
        ours = without_batch(projected, cache).sum(0)
        torch.testing.assert_close(ours, logits[-4:, [7, 9, 11]], **CLOSE)


def test_the_full_decomposition_of_an_mlp_input(run):
    model, _, cache = run
    what: dict[str, Any] = dict(layer=2, mlp_input=True, apply_ln=True, pos_slice=(-4, None))
    stack = cache.get_full_resid_decomposition(**what)
    expected = model.blocks[2].ln2(cache["resid_mid", 2][..., -4:, :])
    torch.testing.assert_close(stack.sum(0), expected, **CLOSE)
    projected = cache.get_full_resid_decomposition(**what, project_output_onto=model.W_U[:, 7])
    torch.testing.assert_close(projected, stack @ model.W_U[:, 7], **CLOSE)


def test_neurons_sum_to_the_mlp(run):
    model, _, cache = run
    neurons = cache.get_neuron_results(1, pos_slice=(-3, None))
    assert neurons.shape[-2] == model.cfg.d_mlp
    torch.testing.assert_close(neurons.sum(-2), cache["mlp_out", 1][..., -3:, :], **CLOSE)


@pytest.mark.parametrize("pos_slice", [-1, 3, (2, 7), (None, None, 5), [1, 4, 4]])
def test_a_slice_cuts_the_position_axis_and_no_other(omni, pos_slice):
    """As in TransformerLens, one position stays an axis of length one."""
    model, tokens = omni.model, torch.arange(40, 60)[None]
    with model.every_hook_point():
        _, everything = model.run_with_cache(tokens)
        sliced_logits, sliced = model.run_with_cache(tokens, pos_slice=pos_slice)
    assert sliced_logits.shape[1] == tokens.shape[1]
    assert set(sliced.keys()) == set(model.hook_dict)
    index = [pos_slice] if isinstance(pos_slice, int) else pos_slice
    index = slice(*index) if isinstance(index, tuple) else index
    for name, activation in everything.items():
        axis = 2 if name.endswith(("hook_attn_scores", "hook_pattern")) else 1
        assert activation.shape[axis] == tokens.shape[1], name
        cells = (slice(None),) * axis + (index,)
        assert torch.equal(sliced[name], activation[cells]), name
        owned = sliced[name].untyped_storage().nbytes()
        assert owned == sliced[name].numel() * sliced[name].element_size(), name


def test_a_sliced_cache_still_gives_the_logits(omni, clips):
    model, prompt = omni.model, omni.embed_inputs(**clips["omni", "audio in video"])
    for remove in (False, True):
        logits, cache = model.run_with_cache(prompt, pos_slice=-1, remove_batch_dim=remove)
        stack = cache.decompose_resid(apply_ln=True)
        ours = without_batch(stack, cache).sum(0) @ model.W_U
        torch.testing.assert_close(ours, logits[0, -1:], **CLOSE)
        lens = without_batch(cache.accumulated_resid(apply_ln=True), cache)
        torch.testing.assert_close(lens[-1] @ model.W_U, logits[0, -1:], **CLOSE)


def test_the_batch_axis_is_removed_from_everything(omni, clips):
    model, prompt = omni.model, omni.embed_inputs(**clips["omni", "text"])
    logits, whole = model.run_with_cache(prompt)
    same, bare = model.run_with_cache(prompt, remove_batch_dim=True)
    assert torch.equal(logits, same)
    assert not bare.has_batch_dim
    assert all(torch.equal(bare[name], whole[name][0]) for name in whole)


@pytest.fixture
def pair(omni: HookedOmni) -> tuple[HookedTransformer, Tensor, ActivationCache, Any]:
    """Model, corrupted tokens, clean cache, and distance of the last row to clean."""
    model = omni.model
    clean, corrupted = model.to_tokens(CLEAN), model.to_tokens(CORRUPTED)
    logits, cache = model.run_with_cache(clean)

    def distance(patched: Tensor) -> Tensor:
        return (patched[0, -1] - logits[0, -1]).abs().max()

    assert distance(model(corrupted)) > 0.1
    return model, corrupted, cache, distance


def test_residual_patching_finds_the_words_that_differ(pair):
    model, corrupted, cache, distance = pair
    found = patching.get_act_patch_resid_pre(model, corrupted, cache, distance)
    assert found.shape == (model.cfg.n_layers, corrupted.shape[1])
    differ = model.to_tokens(CLEAN)[0] != corrupted[0]
    baseline = float(distance(model(corrupted)))
    # In the first layer, a patch of an equal word does nothing, of another one something.
    assert torch.allclose(found[0, ~differ], torch.tensor(baseline), atol=1e-5)
    assert (found[0, differ] - baseline).abs().min() > 1e-4
    assert found[-1, -1] < baseline


def test_a_planted_previous_token_head_is_found(omni):
    model: Any = omni.model
    layer, head = 2, 1

    def plant(pattern: Tensor, hook: Any) -> None:
        n_pos = pattern.shape[-1]
        pattern[:, head] = torch.eye(n_pos).roll(1, 0)
        pattern[:, head, 0] = torch.eye(n_pos)[0]

    with model.hooks([(names.pattern(layer), plant)]):
        scores = detect_head(model, CLEAN, "previous_token_head")
        either = detect_head(model, [CLEAN, CORRUPTED], "previous_token_head")
    n_pos = model.to_tokens(CLEAN).shape[1]
    assert scores.shape == (model.cfg.n_layers, model.cfg.n_heads)
    assert float(scores[layer, head]) == pytest.approx((n_pos - 1) / n_pos, abs=1e-6)
    assert scores.flatten().sort().values[-2] < 0.6
    assert int(either.argmax()) == layer * model.cfg.n_heads + head
    assert float(detect_head(model, CLEAN, "previous_token_head")[layer, head]) < 0.6
