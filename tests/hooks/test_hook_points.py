"""Hooks leave nothing, know their positions, and are refused where they could do nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import knockout, load, names
from hooked_omni.errors import HookError
from tests.support.models import left_padded, look
from tests.support.runs import bits_equal, hooks_left, one_of_each

POSITION = 40


def test_a_model_of_its_own_keeps_its_own_hooks(plain):
    model, prompt = plain
    other = load("random-omni").model
    clean = other(prompt)
    with model.hooks([(names.resid_post(0), lambda t, hook: t * 0)]):
        bits_equal(other(prompt), clean)


@pytest.mark.parametrize("run", ["run_with_hooks", "run_with_cache", "generate"])
def test_hooks_are_gone_after_a_run_and_an_exception(plain, run):
    model, prompt = plain
    clean = model(prompt)

    def fail(tensor: Tensor, hook: Any) -> None:
        raise KeyError("planted")

    hooks = [(names.resid_pre(0), lambda t, hook: t * 0), (names.resid_post(2), fail)]
    getattr(model, run)(prompt, fwd_hooks=hooks[:1])
    with pytest.raises(KeyError, match="planted"):
        getattr(model, run)(prompt, fwd_hooks=hooks)
    with pytest.raises(HookError):
        getattr(model, run)(prompt, fwd_hooks=[hooks[0], ("blocks.0.hook_nothing", look)])
    assert hooks_left(model) == []
    bits_equal(model(prompt), clean)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t[:, :1], r"shape \(1, 144, 64\), got \(1, 1, 64\)"),
        (lambda t: t.double(), r"dtype torch.float32, got torch.float64"),
        (lambda t: 3, "a tensor or None, got int"),
    ],
)
def test_a_wrong_return_names_the_hook(plain, make, message):
    (model, prompt), name = plain, names.resid_post(1)
    with pytest.raises(HookError, match=f"'{name}' to return {message}"):
        model.run_with_hooks(prompt, fwd_hooks=[(name, lambda t, hook: make(t))])


def test_nan_is_refused_wherever_it_is_made(plain):
    model, prompt = plain

    def spoil(tensor: Tensor, hook: Any) -> None:
        tensor.select(names.position_axis(hook.name), 0).fill_(torch.nan)

    with model.every_hook_point():
        for name in one_of_each(model):
            every = ("run_with_hooks", "run_with_cache", "generate")
            for run in every if name == names.resid_post(1) else every[:1]:
                with pytest.raises(HookError, match="got NaN") as error:
                    getattr(model, run)(prompt, fwd_hooks=[(name, spoil)])
                assert name in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("blocks.0.hook_resid_pst", "blocks.0.hook_resid_post"),
        ("blocks.1.attn.hook_patern", "blocks.1.attn.hook_pattern"),
        ("blocks.3.attn.hook_score", "blocks.3.attn.hook_attn_scores"),
        ("ln_final.hook_normalised", "ln_final.hook_normalized"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(plain, wrong, near):
    model, prompt = plain
    for attempt in (
        lambda: model.run_with_hooks(prompt, fwd_hooks=[(wrong, look)]),
        lambda: model.run_with_hooks(prompt, bwd_hooks=[(wrong, look)]),
        lambda: model.run_with_cache(prompt, names_filter=wrong),
        lambda: model.run_with_cache(prompt, names_filter=[names.EMBED, wrong]),
        lambda: model.generate(prompt, max_new_tokens=1, fwd_hooks=[(wrong, look)]),
        lambda: model.add_hook(wrong, look),
    ):
        with pytest.raises(HookError) as error:
            attempt()
        assert f"4-layer model, got '{wrong}'" in str(error.value)
        assert f"Closest is '{near}'" in str(error.value)


def test_a_filter_adds_hooks_to_live_points_only(plain):
    model, prompt = plain
    seen: list[str] = []
    note = (lambda name: name.endswith("resid_post"), lambda t, hook: seen.append(hook.name))
    model.run_with_hooks(prompt, fwd_hooks=[note])
    assert seen == [names.resid_post(layer) for layer in range(4)]


def test_an_edit_of_generated_positions_needs_some(plain):
    model, prompt = plain
    cut = knockout(query="generated", key="video")
    for attempt in (
        lambda: model.run_with_hooks(prompt, fwd_hooks=[cut]),
        lambda: model.run_with_cache(prompt, fwd_hooks=[cut]),
        lambda: model.generate(prompt, max_new_tokens=1, fwd_hooks=[cut]),
    ):
        with pytest.raises(HookError, match="expected a run that reaches 'generated'"):
            attempt()
    with model.hooks(cut(prompt.spans)), pytest.raises(HookError, match="reaches 'generated'"):
        model(prompt)
    assert hooks_left(model) == []
    model.generate(prompt, max_new_tokens=2, fwd_hooks=[cut])


@pytest.mark.parametrize("low", [torch.finfo(torch.float32).min, -torch.inf])
@pytest.mark.parametrize("padding", [0, 3])
def test_a_row_without_a_key_is_refused(omni, clips, low, padding):
    inputs = left_padded(omni, clips["omni", "audio in video"], padding)
    model, prompt = omni.model, omni.embed_inputs(**inputs)

    def blind(scores: Tensor, hook: Any) -> None:
        if scores.shape[2] > POSITION:
            scores[:, 2, POSITION] = low

    def blind_later(scores: Tensor, hook: Any) -> None:
        if hook.window.start == prompt.n_pos + 1:
            scores[:, 1] = low

    with pytest.raises(HookError, match=rf"attn_scores' for position {POSITION}\."):
        model.run_with_hooks(prompt, fwd_hooks=[(names.attn_scores(1), blind)])
    with pytest.raises(HookError, match=rf"got none left .* for position {prompt.n_pos + 1}\."):
        hooks = [(names.attn_scores(1), blind_later)]
        model.generate(prompt, max_new_tokens=3, fwd_hooks=hooks, stop_at_eos=False)


def test_padding_may_be_left_without_a_key(omni, clips):
    inputs = left_padded(omni, clips["omni", "text"], 3)
    model, prompt = omni.model, omni.embed_inputs(**inputs)

    def blind(scores: Tensor, hook: Any) -> None:
        scores[:, :, :3] = torch.finfo(scores.dtype).min

    ours = model.run_with_hooks(prompt, fwd_hooks=[(names.attn_scores(1), blind)])
    clean = model.run_with_hooks(prompt, fwd_hooks=[(names.pattern(1), look)])
    bits_equal(ours[:, 3:], clean[:, 3:])


def test_a_hook_knows_its_positions(plain):
    model, prompt = plain
    seen: dict[str, list[range]] = {}

    def note(tensor: Tensor, hook: Any) -> None:
        seen.setdefault(hook.name, []).append(hook.window)
        assert tensor.shape[names.position_axis(hook.name)] == len(hook.window)

    n = prompt.n_pos
    everywhere = [(lambda name: True, note)]
    model.generate(prompt, max_new_tokens=4, fwd_hooks=everywhere, stop_at_eos=False)
    expected = [range(n), range(n, n + 1), range(n + 1, n + 2), range(n + 2, n + 3)]
    assert set(seen) == {name for name in model.hook_dict if names.flag_of(name) is None}
    assert all(ranges == expected for ranges in seen.values())
