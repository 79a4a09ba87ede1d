"""TransformerLens's helpers give right answers: parts add up, patches restore, heads are found."""

from collections.abc import Iterator
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
    """A stack `[component, ...]` without the batch axis it may have."""
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


def test_accumulated_residual_under_an_inner_norm(run):
    model, _, cache = run
    for mlp_input, norm, stream in ((False, "ln1", "resid_pre"), (True, "ln2", "resid_mid")):
        stack = cache.accumulated_resid(2, apply_ln=True, mlp_input=mlp_input)
        expected = getattr(model.blocks[2], norm)(cache[stream, 2])
        torch.testing.assert_close(stack[-1], expected, **CLOSE)


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
    last = cache.decompose_resid(apply_ln=True, pos_slice=-1)
    ours = without_batch(last, cache).sum(0) @ model.W_U
    torch.testing.assert_close(ours, logits[-1], **CLOSE)
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
    batch = cache.has_batch_dim
    stack = cache["resid_pre", 2][None]
    for recompute in (False, True):  # an inner norm never recomputes
        ours = cache.apply_ln_to_stack(stack, 2, has_batch_dim=batch, recompute_ln=recompute)
        torch.testing.assert_close(ours[0], model.blocks[2].ln1(stack[0]), **CLOSE)
    stack = cache["resid_mid", 2][None]
    ours = cache.apply_ln_to_stack(stack, 2, mlp_input=True, has_batch_dim=batch)
    torch.testing.assert_close(ours[0], model.blocks[2].ln2(stack[0]), **CLOSE)
    stack = cache["resid_post", 3][None]
    for layer in (None, -1, model.cfg.n_layers):
        for recompute in (False, True):
            ours = cache.apply_ln_to_stack(
                stack, layer, has_batch_dim=batch, recompute_ln=recompute
            )
            torch.testing.assert_close(ours[0], model.ln_final(stack[0]), **CLOSE)
    part = cache["attn_out", 1][None]
    scaled = cache.apply_ln_to_stack(part, has_batch_dim=batch)[0]
    gain, scale = model.ln_final.w, cache["ln_final.hook_scale"]
    torch.testing.assert_close(scaled, part[0] / scale * gain)
    cut = cache.apply_ln_to_stack(part[..., 5:9, :], pos_slice=(5, 9), has_batch_dim=batch)[0]
    torch.testing.assert_close(cut, scaled[..., 5:9, :])


def test_attributions_sum_to_the_logit(run):
    model, logits, cache = run
    stack = cache.decompose_resid()
    batch = cache.has_batch_dim
    direct = without_batch(cache.logit_attrs(stack, 7, has_batch_dim=batch), cache)
    torch.testing.assert_close(direct.sum(0), logits[:, 7], **CLOSE)
    word = model.tokenizer.decode([65])
    assert model.to_single_token(word) == 65
    by_word = without_batch(cache.logit_attrs(stack, word, has_batch_dim=batch), cache)
    torch.testing.assert_close(by_word.sum(0), logits[:, 65], **CLOSE)
    difference = cache.logit_attrs(stack, 7, incorrect_tokens=9, has_batch_dim=batch)
    ours = without_batch(difference, cache).sum(0)
    torch.testing.assert_close(ours, logits[:, 7] - logits[:, 9], **CLOSE)
    last = cache.decompose_resid(pos_slice=-1)
    at_last = cache.logit_attrs(last, 7, pos_slice=-1, has_batch_dim=batch)
    torch.testing.assert_close(without_batch(at_last, cache).sum(0), logits[-1, 7], **CLOSE)


@pytest.mark.parametrize("expand_neurons", [True, False])
@pytest.mark.parametrize("layer", [2, None])
def test_the_full_decomposition_sums(run, expand_neurons, layer):
    model, logits, cache = run
    asked: dict[str, Any] = dict(layer=layer, expand_neurons=expand_neurons, pos_slice=(-4, None))
    stack, labels = cache.get_full_resid_decomposition(**asked, return_labels=True)
    n_layers = layer or model.cfg.n_layers
    per_layer = model.cfg.n_heads + (model.cfg.d_mlp if expand_neurons else 1)
    assert len(stack) == len(labels) == n_layers * per_layer + 2
    assert labels[-2:] == ["embed", "bias"]
    residual = cache["resid_post", n_layers - 1][..., -4:, :]
    torch.testing.assert_close(stack.sum(0), residual, **CLOSE)
    norm = model.ln_final if layer is None else model.blocks[layer].ln1
    normalized = cache.get_full_resid_decomposition(**asked, apply_ln=True)
    torch.testing.assert_close(normalized.sum(0), norm(residual), **CLOSE)
    for direction in (model.W_U[:, 7], model.W_U[:, [7, 9, 11]]):
        plain = cache.get_full_resid_decomposition(**asked, project_output_onto=direction)
        torch.testing.assert_close(plain, stack @ direction, **CLOSE)
        projected = cache.get_full_resid_decomposition(
            **asked, apply_ln=True, project_output_onto=direction
        )
        torch.testing.assert_close(projected, normalized @ direction, **CLOSE)
    if layer is None:
        ours = without_batch(projected, cache).sum(0)
        torch.testing.assert_close(ours, logits[-4:, [7, 9, 11]], **CLOSE)


def test_the_full_decomposition_of_an_mlp_input(run):
    model, _, cache = run
    asked: dict[str, Any] = dict(layer=2, mlp_input=True, apply_ln=True, pos_slice=(-4, None))
    expected = model.blocks[2].ln2(cache["resid_mid", 2][..., -4:, :])
    stack = cache.get_full_resid_decomposition(**asked)
    torch.testing.assert_close(stack.sum(0), expected, **CLOSE)
    direction = model.W_U[:, 7]
    projected = cache.get_full_resid_decomposition(**asked, project_output_onto=direction)
    torch.testing.assert_close(projected, stack @ direction, **CLOSE)


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
def pair(omni: HookedOmni) -> tuple[HookedTransformer, Tensor, Tensor, ActivationCache, Any]:
    """Model, clean logits, corrupted tokens, clean cache, and distance of the last row to clean."""
    model = omni.model
    clean, corrupted = model.to_tokens(CLEAN), model.to_tokens(CORRUPTED)
    logits, cache = model.run_with_cache(clean)

    def distance(patched: Tensor) -> Tensor:
        return (patched[0, -1] - logits[0, -1]).abs().max()

    assert distance(model(corrupted)) > 0.1
    return model, logits, corrupted, cache, distance


def test_patching_every_position_restores_the_clean_run(pair):
    model, logits, corrupted, cache, _ = pair
    for layer in range(model.cfg.n_layers):
        for name in (names.resid_pre(layer), names.resid_mid(layer), names.resid_post(layer)):

            def patch(resid: Tensor, hook: Any) -> Tensor:
                return cache[hook.name]

            opened = [(names.pattern(i), lambda t, hook: None) for i in range(model.cfg.n_layers)]
            hooks = [(name, patch), *opened]
            assert torch.equal(model.run_with_hooks(corrupted, fwd_hooks=hooks), logits), name


def test_residual_patching_finds_the_words_that_differ(pair):
    model, _, corrupted, cache, distance = pair
    found = patching.get_act_patch_resid_pre(model, corrupted, cache, distance)
    assert found.shape == (model.cfg.n_layers, corrupted.shape[1])
    differ = model.to_tokens(CLEAN)[0] != corrupted[0]
    baseline = float(distance(model(corrupted)))
    # In the first layer, a patch of an equal word does nothing, of another one something.
    assert torch.allclose(found[0, ~differ], torch.tensor(baseline), atol=1e-5)
    assert (found[0, differ] - baseline).abs().min() > 1e-4
    assert found[-1, -1] < baseline
    # The whole last layer's input at the last position is not the whole run: others are read.
    by_hand = model.run_with_hooks(
        corrupted, fwd_hooks=[(names.resid_pre(2), _put(cache, (slice(None), 5)))]
    )
    torch.testing.assert_close(found[2, 5], distance(by_hand))


def _put(cache: ActivationCache, cells: tuple[Any, ...]) -> Any:
    def put(activation: Tensor, hook: Any) -> Tensor:
        activation[cells] = cache[hook.name][cells]
        return activation

    return put


def test_a_planted_previous_token_head_is_found(omni):
    model: Any = omni.model
    layer, head = 2, 1

    def plant(pattern: Tensor, hook: Any) -> None:
        n_pos = pattern.shape[-1]
        pattern[:, head] = torch.eye(n_pos).roll(1, 0)
        pattern[:, head, 0] = torch.eye(n_pos)[0]

    model.add_hook(names.pattern(layer), plant)
    try:
        scores = detect_head(model, CLEAN, "previous_token_head")
        either = detect_head(model, [CLEAN, CORRUPTED], "previous_token_head")
    finally:
        model.reset_hooks()
    n_pos = model.to_tokens(CLEAN).shape[1]
    assert scores.shape == (model.cfg.n_layers, model.cfg.n_heads)
    assert float(scores[layer, head]) == pytest.approx((n_pos - 1) / n_pos, abs=1e-6)
    others = scores.flatten().tolist()
    others.remove(float(scores[layer, head]))
    assert max(others) < 0.6
    assert int(either.argmax()) == layer * model.cfg.n_heads + head
    assert float(detect_head(model, CLEAN, "previous_token_head")[layer, head]) < 0.6


def test_planted_weights_make_a_head_that_reads_itself(omni):
    """Scores far apart without a hook: equal queries and keys, and no rotation to speak of."""
    model: Any = omni.model
    layer, head = 1, 0
    tokens = model.to_tokens(CLEAN)
    attn = model.blocks[layer].attn
    kept = {name: p.data.clone() for name, p in attn.named_parameters()}
    rows = slice(head * model.cfg.d_head, (head + 1) * model.cfg.d_head)
    try:
        attn.q_proj.weight.data[rows] = 20 * attn.k_proj.weight.data[rows]
        attn.q_proj.bias.data[rows] = 20 * attn.k_proj.bias.data[rows]
        _, cache = model.run_with_cache(tokens, names.pattern(layer))
        scores = detect_head(model, CLEAN, torch.eye(tokens.shape[1]))
    finally:
        for name, parameter in attn.named_parameters():
            parameter.data = kept[name]
    read = cache[names.pattern(layer)][0, head].diagonal().mean()
    assert float(scores[layer, head]) == pytest.approx(float(read), abs=1e-5)
    assert int(scores[layer].argmax()) == head
