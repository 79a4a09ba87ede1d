"""An edit at a hook point is that edit in Hugging Face, however the hook makes it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import names
from hooked_omni.hf.capture import find_decoder
from tests.support.hugging_face import EXACT, NORMS, Place, hf_run
from tests.support.models import eager, look
from tests.support.runs import bits_equal, hook_name, layers_of, noise, one_of_each, opened

POSITION = 40
CLOSE: Any = dict(rtol=1e-4, atol=1e-5)
EQUAL: Any = dict(rtol=0, atol=0)


def at_position(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A hook, or a Hugging Face edit, that changes one position of axis 1."""

    def edit(tensor: Tensor, hook: Any = None) -> Tensor:
        edited = tensor.clone()
        edited[:, POSITION] = change(edited[:, POSITION])
        return edited

    return edit


def adding(delta: Tensor) -> Callable[..., Tensor]:
    return at_position(lambda row: row + delta.reshape(row.shape[1:]))


@pytest.mark.parametrize("kind", sorted(EXACT))
def test_an_edit_is_the_edit_in_hugging_face(subject, kind):
    omni, inputs, model, prompt = subject
    place = EXACT[kind]
    target = Place(place.edit, "out") if place.edit else place
    for layer in layers_of(kind, model):
        name = hook_name(kind, layer)
        shape = model.run_with_cache(prompt, name)[1][name].shape[2:]
        add = adding(noise(*shape))
        _, theirs = hf_run(omni, inputs, target, layer, add)
        ours = model.run_with_hooks(prompt, fwd_hooks=[(name, add)])
        assert not torch.equal(ours, model(prompt))
        if place.edit:
            torch.testing.assert_close(ours, theirs, **CLOSE)
        else:
            bits_equal(ours, theirs)
        with eager(omni):
            _, theirs = hf_run(omni, inputs, target, layer, add)
            eager_prompt = omni.embed_inputs(**inputs)
        ours = model.run_with_hooks(eager_prompt, fwd_hooks=[(name, add), *opened(model)])
        torch.testing.assert_close(ours, theirs, **(CLOSE if place.edit else EQUAL))


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_an_edit_in_a_norm_is_the_edit_after_it(subject, norm):
    omni, inputs, model, prompt = subject
    delta = noise(model.cfg.d_model)
    double, halve = at_position(lambda row: row * 2), at_position(lambda row: row / 2)
    for layer in layers_of(norm, model):
        weight: Any = find_decoder(omni.hf).get_submodule(NORMS[norm].format(layer)).weight
        after = Place(NORMS[norm], "out")
        _, theirs = hf_run(omni, inputs, after, layer, adding(delta * weight))
        name = hook_name(f"{norm}.hook_normalized", layer)
        ours = model.run_with_hooks(prompt, fwd_hooks=[(name, adding(delta))])
        torch.testing.assert_close(ours, theirs, **CLOSE)
        _, theirs = hf_run(omni, inputs, after, layer, halve)
        name = hook_name(f"{norm}.hook_scale", layer)
        ours = model.run_with_hooks(prompt, fwd_hooks=[(name, double)])
        torch.testing.assert_close(ours, theirs, **CLOSE)
        assert not torch.allclose(ours, model(prompt), atol=1e-3)


@pytest.mark.parametrize("letter", ["q", "k"])
def test_a_scaled_rotated_head_is_a_scaled_head(subject, letter):
    """Rotation keeps lengths, so the two edits are one."""
    omni, inputs, model, prompt = subject
    grow = at_position(lambda row: row * 3)
    for layer in layers_of("attn", model):
        place = Place(f"layers.{{}}.self_attn.{letter}_proj", "out")
        _, theirs = hf_run(omni, inputs, place, layer, grow)
        hooks = [(f"blocks.{layer}.attn.hook_rot_{letter}", grow)]
        ours = model.run_with_hooks(prompt, fwd_hooks=hooks)
        torch.testing.assert_close(ours, theirs, **CLOSE)
        assert not torch.allclose(ours, model(prompt), atol=1e-3)


def at_one_query(model: Any, n_pos: int) -> Tensor:
    """Changes of scores or patterns: of one row, at the keys that it may read."""
    delta = torch.zeros(1, model.cfg.n_heads, n_pos, n_pos)
    delta[:, :, POSITION, : POSITION + 1] = noise(model.cfg.n_heads, POSITION + 1)
    return delta


def test_an_edit_of_scores_is_that_mask_in_hugging_face(subject):
    omni, inputs, model, prompt = subject
    delta = at_one_query(model, prompt.n_pos)

    def add(_module: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "attention_mask": kwargs["attention_mask"] + delta}

    with eager(omni):
        prompt = omni.embed_inputs(**inputs)
        for layer in layers_of("attn", model):
            module = find_decoder(omni.hf).get_submodule(f"layers.{layer}.self_attn")
            handle = module.register_forward_pre_hook(add, with_kwargs=True)
            try:
                theirs = omni.hf(**inputs).logits
            finally:
                handle.remove()
            edit = (names.attn_scores(layer), lambda scores, hook: scores + delta)
            ours = model.run_with_hooks(prompt, fwd_hooks=[edit, *opened(model)])
            torch.testing.assert_close(ours, theirs, **CLOSE)
            assert not torch.allclose(ours, model(prompt), atol=1e-3)


def test_an_edit_of_the_pattern_reads_other_values(subject):
    omni, inputs, model, prompt = subject
    groups = model.cfg.n_heads // model.cfg.n_key_value_heads
    delta = at_one_query(model, prompt.n_pos)
    with eager(omni) as hf:
        prompt = omni.embed_inputs(**inputs)
        values = hf(**inputs, use_cache=True).past_key_values
        for layer in layers_of("attn", model):
            wide = values.layers[layer].values.repeat_interleave(groups, dim=1)
            read = (delta @ wide).transpose(1, 2)[0, POSITION].flatten()
            place = Place("layers.{}.self_attn.o_proj", "in")
            _, theirs = hf_run(omni, inputs, place, layer, adding(read))
            edit = (names.pattern(layer), lambda pattern, hook: pattern + delta)
            ours = model.run_with_hooks(prompt, fwd_hooks=[edit, *opened(model)])
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
            assert not torch.allclose(ours, model(prompt), atol=1e-2)


def test_an_edit_of_a_heads_result_is_written_to_the_stream(subject):
    omni, inputs, model, prompt = subject
    delta = noise(model.cfg.n_heads, model.cfg.d_model)
    for layer in layers_of("attn", model):
        place = Place("layers.{}.self_attn", "out")
        _, theirs = hf_run(omni, inputs, place, layer, adding(delta.sum(0)))
        hooks = [(names.result(layer), adding(delta))]
        torch.testing.assert_close(model.run_with_hooks(prompt, fwd_hooks=hooks), theirs, **CLOSE)


def test_every_edit_moves_the_logits_and_only_later_ones(subject):
    _omni, _inputs, model, prompt = subject
    for name in one_of_each(model):
        axis = names.position_axis(name)

        def edit(tensor: Tensor, hook: Any, axis: int = axis) -> None:
            # Not one factor for the whole row: a norm after it would divide that out.
            row = tensor.select(axis, POSITION)
            row.mul_(0.25 + 0.5 * noise(*row.shape).sigmoid())

        attends = [(name, look)] if name.endswith(names.PATTERN_LIKE) else []
        clean = model.run_with_hooks(prompt, fwd_hooks=attends)
        moved = (model.run_with_hooks(prompt, fwd_hooks=[(name, edit)]) - clean).abs().amax((0, 2))
        # An edited scale or head result replaces a value that was computed in another order.
        rounding = 1e-5 if name.endswith(("hook_scale", "hook_result")) else 0
        assert moved[:POSITION].max() <= rounding, name
        assert moved[POSITION:].max() > 1e-4, name


def through_a_view(tensor: Tensor, hook: Any) -> Tensor:
    tensor[:].unsqueeze(0).mul_(0.5)
    return tensor


def through_data(tensor: Tensor, hook: Any) -> Tensor:
    """It shares memory and counts no versions."""
    tensor.data.mul_(0.5)
    return tensor


def halved(tensor: Tensor, hook: Any) -> None:
    tensor[:] *= 0.5


def test_editing_in_place_is_returning_the_edit(model, prompt):
    embeds, positions = prompt.embeds.clone(), prompt.position_ids.clone()
    for name in one_of_each(model):
        returned = [(name, lambda tensor, hook: tensor * 0.5)]
        expected = model.run_with_hooks(prompt, fwd_hooks=returned)
        for edit in (halved, lambda tensor, hook: tensor.mul_(0.5), through_a_view, through_data):
            ours = model.run_with_hooks(prompt, fwd_hooks=[(name, edit)])
            assert torch.equal(ours, expected), (name, edit.__name__)
    bits_equal(prompt.embeds, embeds)
    bits_equal(prompt.position_ids, positions)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_hooks_work_in_every_gradient_mode(model, prompt, mode):
    for name in one_of_each(model):
        for hooks in ([(name, look)], [(name, halved)]):
            with torch.no_grad():
                expected = model.run_with_hooks(prompt, fwd_hooks=hooks)
            with mode():
                assert torch.equal(model.run_with_hooks(prompt, fwd_hooks=hooks), expected), name


def test_a_later_edit_in_place_changes_no_earlier_cache(plain):
    """Between two blocks both hook points hold one tensor."""
    model, prompt = plain
    kept: dict[str, Tensor] = {}

    def keep(tensor: Tensor, hook: Any) -> None:
        kept[hook.name] = tensor

    before, after = names.resid_post(0), names.resid_pre(1)
    _, clean = model.run_with_cache(prompt, [before, after])
    hooks = [(before, keep), (after, keep), (after, lambda t, hook: t.zero_()), (names.EMBED, keep)]
    _, cache = model.run_with_cache(prompt, [before, after, names.EMBED], fwd_hooks=hooks)
    for ours in (cache[before], kept[before], kept[after]):
        bits_equal(ours, clean[before])
    assert not cache[after].any()
    bits_equal(kept[names.EMBED], prompt.embeds)
    embeds = prompt.embeds.clone()
    kept[names.EMBED].zero_()  # what was kept is the keeper's own, and so is the cache
    cache[names.EMBED].zero_()
    bits_equal(prompt.embeds, embeds)
