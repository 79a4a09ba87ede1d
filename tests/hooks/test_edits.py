"""An edit writes exactly what it says, where it says, and not one bit elsewhere."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import ablate, names, patch, steer
from hooked_omni.errors import HookError
from tests.support.edits import (
    CAN_BE_ZERO,
    HEADED,
    OF_ONE_POSITION,
    OUTSIDE,
    POINTS,
    SPAN,
    cached,
    named,
    require_written,
)
from tests.support.models import left_padded
from tests.support.runs import bits_equal, close, noise, unstopped

PADDING = 5


def test_a_scale_of_zero_is_no_number(model, prompt):
    edit = ablate("ln2.hook_scale", span=SPAN, layers=[2])
    with pytest.raises(HookError, match="got NaN"):
        model.run_with_hooks(prompt, fwd_hooks=[edit])


@pytest.mark.parametrize(
    ("at", "heads"),
    [
        *((at, None) for at in (*CAN_BE_ZERO, *OUTSIDE)),
        *((at, [1] if at[-2:] in ("_k", "_v") else [0, 3]) for at in HEADED if at in CAN_BE_ZERO),
    ],
)
def test_zero_is_zero(model, prompt, clean, at, heads):
    edit = ablate(at, span=SPAN, layers=None if at in OUTSIDE else [2], heads=heads)
    require_written(model, prompt, clean, edit, at, 2, torch.zeros_like, heads)


@pytest.mark.parametrize("at", OF_ONE_POSITION)
def test_a_mean_is_over_the_spans_of_all_references(model, prompt, clean, source, at):
    runs = [tuple(source.values()), (clean, prompt), tuple(source.values())]
    edit = ablate(at, span=SPAN, layers=[2], to="mean", reference=runs)
    name = named(at, 2)
    rows = [cache[name][0, i] for cache, of in runs for i in of.spans[SPAN].tolist()]
    mean = torch.stack(rows).mean(0)
    require_written(model, prompt, clean, edit, at, 2, lambda clean: mean.expand_as(clean))


@pytest.mark.parametrize(
    ("at", "heads"), [*((at, None) for at in POINTS), *((at, [1]) for at in HEADED)]
)
def test_resampling_takes_the_others_activations(model, prompt, clean, source, at, heads):
    what: Any = dict(span=SPAN, layers=[2], heads=heads)
    edit = ablate(at, **what, to="resample", reference=[tuple(source.values())])
    other = source["cache"][named(at, 2)]
    require_written(model, prompt, clean, edit, at, 2, lambda clean: other, heads)
    same = patch(at, **what, **source)
    bits_equal(model.run_with_hooks(prompt, [edit]), model.run_with_hooks(prompt, [same]))


@pytest.mark.parametrize("at", OF_ONE_POSITION)
def test_steering_adds(model, prompt, clean, at):
    width = clean[named(at, 1)].shape[-1]
    vector = noise(width).abs()
    edit = steer(vector, span=SPAN, at=at, layers=[1], scale=0.5)
    require_written(model, prompt, clean, edit, at, 1, lambda clean: clean + 0.5 * vector)


def test_each_head_has_a_vector_of_its_own(model, prompt, clean):
    at, vectors = "attn.hook_z", noise(4, 16)
    edit = steer(vectors, span=SPAN, at=at, layers=[3], heads=[2, 0], scale=-2.0)
    require_written(model, prompt, clean, edit, at, 3, lambda z: z - 2.0 * vectors, [0, 2])


@pytest.mark.parametrize("at", OUTSIDE)
def test_edits_outside_the_blocks(model, prompt, clean, source, at):
    vector = noise(64)
    push, swap = steer(vector, span=SPAN, at=at), patch(at, span=SPAN, **source)
    require_written(model, prompt, clean, push, at, 0, lambda clean: clean + vector)
    require_written(model, prompt, clean, swap, at, 0, lambda clean: source["cache"][at])


@pytest.mark.parametrize("at", ["hook_resid_post", "attn.hook_z", "mlp.hook_post"])
def test_no_layers_are_all_layers(model, prompt, clean, source, at):
    vector = noise(clean[named(at, 0)].shape[-1])
    for make in (
        partial(ablate, at, span=SPAN),
        partial(patch, at, span=SPAN, **source),
        partial(steer, vector, span=SPAN, at=at),
    ):
        (logits, every), (expected, listed) = (
            model.run_with_cache(prompt, lambda n: n.endswith(at), fwd_hooks=[make(layers=layers)])
            for layers in (None, range(4))
        )
        bits_equal(logits, expected)
        for name in every:
            bits_equal(every[name], listed[name])
    edited = cached(model, prompt, ablate(at, span=SPAN))
    for layer in range(4):
        assert (edited[named(at, layer)][:, prompt.spans[SPAN]] == 0).all()
        assert (edited[named(at, layer)][:, prompt.spans["text"]] != 0).any()


def test_edits_follow_each_other_in_their_order(model, prompt):
    vector = noise(64)
    push = steer(vector, span=SPAN, layers=[1])
    wipe = ablate("hook_resid_post", span=SPAN, layers=[1])
    name, where = names.resid_post(1), prompt.spans[SPAN]
    assert (cached(model, prompt, push, wipe)[name][0, where] == 0).all()
    pushed = cached(model, prompt, wipe, push)[name][0, where]
    bits_equal(pushed, vector.expand_as(pushed))
    twice = cached(model, prompt, wipe, push, push)[name][0, where]
    bits_equal(twice, (2 * vector).expand_as(twice))


def test_generated_positions_are_edited_step_by_step(model, prompt, clean):
    seen: list[tuple[int, Tensor]] = []
    keep = lambda resid, hook: seen.append((hook.window.start, resid[0].clone()))  # noqa: E731
    watch = (names.resid_post(1), keep)
    vector = noise(64)
    wipe = ablate("hook_resid_post", span="generated", layers=[1])
    push = steer(vector, span="generated+last", layers=[1], scale=3.0)
    model.generate(prompt, unstopped(4), [wipe, push, watch])
    clean_rows = clean[names.resid_post(1)][0]
    (_, whole), *steps = seen
    close(whole[:-1], clean_rows[:-1])
    close(whole[-1], clean_rows[-1] + 3 * vector)
    assert [start for start, _ in steps] == [prompt.n_pos + i for i in range(3)]
    for _, row in steps:
        bits_equal(row, (3 * vector)[None])


def test_edits_after_padding(omni, clips):
    model, inputs = omni.model, clips["omni", "audio in video"]
    alone, padded = (omni.embed_inputs(**left_padded(omni, inputs, n)) for n in (0, PADDING))
    wipe = ablate("hook_mlp_out", span=SPAN, layers=[1])
    edits = [wipe, steer(noise(64), span="last", layers=[2])]
    ours = model.run_with_hooks(padded, fwd_hooks=edits)[:, PADDING:]
    close(ours, model.run_with_hooks(alone, fwd_hooks=edits))
    assert not torch.allclose(ours, model(alone), atol=1e-3)
    name = names.resid_post(1)
    source = {"cache": model.run_with_cache(alone, name)[1], "prompt": alone}
    swap = patch("hook_resid_post", span="text", **source, layers=[1])
    _, cache = model.run_with_cache(padded, fwd_hooks=[swap])
    bits_equal(cache[name][:, padded.spans["text"]], source["cache"][name][:, alone.spans["text"]])
