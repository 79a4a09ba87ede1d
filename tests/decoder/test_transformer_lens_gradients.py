"""The gradient at every hook point is the slope of edits there."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, HookedTransformer, names
from hooked_omni.errors import HookError
from tests.support.models import CLIP_OF, left_padded, look

POSITION = 20
STEPS = (1e-2, 2e-3, 3e-4)  # a large step may change which experts read, a small one rounds


@pytest.fixture(params=["omni", "vl3", "omni3"])
def subject(request: pytest.FixtureRequest, models: dict, clips: dict) -> Any:
    omni: HookedOmni = models[request.param]
    with omni.model.every_hook_point():
        yield omni.model, omni.embed_inputs(**clips[request.param, CLIP_OF[request.param]])


def metric(logits: Tensor) -> Tensor:
    weights = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(3)).double()
    return logits[0, [POSITION, -1]].sum(0).double() @ weights / len(weights) ** 0.5


def direction(name: str, value: Tensor) -> Tensor:
    """Where to push an activation: at one position, and only at keys that it may read."""
    push = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    if name.endswith("hook_attn_scores"):
        push[..., POSITION + 1 :] = 0
    elif name.endswith("hook_pattern"):
        push *= value
    else:
        row = value.select(1, POSITION).abs().mean()
        push *= row or 0.1  # words have no vision features to take the size of
    keep = torch.zeros_like(push)
    keep.select(names.position_axis(name), POSITION).fill_(1.0)
    return push * keep


def require_slope(
    model: HookedTransformer, prompt: EmbeddedPrompt, name: str, push: Tensor, gradient: Tensor
) -> float:
    """The gradient along `push`, which must be the slope of edits for one of the steps."""

    def run(factor: float) -> float:
        add = (name, lambda tensor, hook: tensor + factor * push)
        with torch.no_grad():
            return float(metric(model.run_with_hooks(prompt, fwd_hooks=[add])))

    ours = float((gradient * push).sum())
    rounding = 2e-2 * float((gradient * push).abs().sum())
    slopes = []
    for step in STEPS:
        slopes.append((run(step) - run(-step)) / (2 * step))
        if abs(slopes[-1] - ours) < rounding + 1e-6 / step:
            return ours
    raise AssertionError((name, ours, slopes))


def kept_by(model: HookedTransformer, prompt: EmbeddedPrompt, points: Any) -> Any:
    kept: dict[str, Tensor] = {}

    def keep(tensor: Tensor, hook: Any) -> None:
        kept[hook.name] = tensor

    logits = model.run_with_hooks(prompt, fwd_hooks=[(points, keep)])
    return logits, kept


def test_the_gradient_at_every_hook_point_is_the_slope_of_edits_there(subject):
    model, prompt = subject
    logits, kept = kept_by(model, prompt, lambda name: not name.endswith("expert_indices"))
    assert set(kept) >= {n for n in model.hook_dict if not n.endswith("expert_indices")}
    gradients = torch.autograd.grad(metric(logits), list(kept.values()))
    moved = 0
    for (name, value), gradient in zip(kept.items(), gradients, strict=True):
        push = direction(name, value.detach())
        moved += abs(require_slope(model, prompt, name, push, gradient)) > 1e-3
    assert moved > 0.9 * len(kept)


@pytest.mark.parametrize("family", CLIP_OF)
def test_every_kind_of_hook_has_the_same_gradient(models, clips, family):
    omni: HookedOmni = models[family]
    inputs = clips[family, CLIP_OF[family]]
    inputs = left_padded(omni, inputs, 4) if family == "audio" else inputs
    model, prompt, found = omni.model, omni.embed_inputs(**inputs), {}

    def keep(tensor: Tensor, hook: Any) -> None:
        found["kept", hook.name] = tensor

    def retain(tensor: Tensor, hook: Any) -> None:
        tensor.retain_grad()
        keep(tensor, hook)

    def multiply(tensor: Tensor, hook: Any) -> Tensor:
        product = tensor * torch.ones_like(tensor, requires_grad=True)
        retain(product, hook)
        return product

    def note(gradient: Tensor, hook: Any) -> None:
        gradients[hook.name] = gradient.clone()

    with model.every_hook_point():
        points = [name for name in model.hook_dict if not name.endswith("expert_indices")]
        logits = model.run_with_hooks(prompt, fwd_hooks=[(n, keep) for n in points])
        alone = torch.autograd.grad(metric(logits), [found["kept", n] for n in points])
        for hook in (retain, multiply, note):
            gradients: dict[str, Tensor] = {}
            hooks = [(n, hook) for n in points]
            forward, backward = ([], hooks) if hook is note else (hooks, [])
            with model.hooks(forward, backward):
                metric(model(prompt)).backward()
            for name, gradient in zip(points, alone, strict=True):
                ours = gradients[name] if hook is note else found["kept", name].grad
                torch.testing.assert_close(ours, gradient, rtol=1e-3, atol=1e-5, msg=name)


INNER = ("ln1.hook_scale", "attn.hook_result", "attn.hook_q_input", "attn.hook_attn_in")
POINTS = [names.EMBED, *(names.in_block(point, 1) for point in INNER), "ln_final.hook_scale"]


@pytest.mark.parametrize("point", POINTS)
def test_one_kept_activation_alone_has_its_gradient(subject, point):
    model, prompt = subject
    logits, kept = kept_by(model, prompt, point)
    with torch.no_grad():
        assert torch.equal(logits, model(prompt))
    (gradient,) = torch.autograd.grad(metric(logits), list(kept.values()))
    seen: list[Tensor] = []
    note = (point, lambda gradient, hook: seen.append(gradient.clone()))
    with model.hooks(bwd_hooks=[note]):
        hooked = model(prompt)
        metric(hooked).backward()
    assert torch.equal(hooked, logits)
    torch.testing.assert_close(seen[0], gradient, rtol=1e-4, atol=1e-6)
    push = direction(point, kept[point].detach())
    require_slope(model, prompt, point, push, gradient)


def test_edits_before_a_split_input_act_after_it(subject):
    """A norm's own hooks and a head's input are edited together, each as alone, in first order."""
    model, prompt = subject
    normed, head = "blocks.1.ln1.hook_normalized", "blocks.1.attn.hook_q_input"

    def run(*points: str, size: float = 1e-3) -> Tensor:
        def push(tensor: Tensor, hook: Any) -> Tensor:
            return tensor + size * direction(hook.name, tensor)

        with torch.no_grad():
            return model.run_with_hooks(prompt, fwd_hooks=[(p, push) for p in points])

    clean = run(normed, head, size=0.0)
    both = run(normed, head) - clean
    apart = run(normed) + run(head) - 2 * clean
    assert both.abs().max() > 1e-5
    torch.testing.assert_close(both, apart, rtol=1e-2, atol=2e-5)


def test_a_backward_hook_that_cannot_fire_is_refused(subject):
    model, prompt = subject
    with torch.no_grad(), pytest.raises(HookError, match="hook_resid_pre"):
        model.run_with_hooks(prompt, bwd_hooks=[(names.resid_pre(1), look)])
    indices = [name for name in model.hook_dict if name.endswith("expert_indices")]
    for name in indices[:1]:
        with pytest.raises(HookError, match="expert_indices"):
            model.run_with_hooks(prompt, bwd_hooks=[(name, look)])


def test_what_a_hook_keeps_is_not_the_run_itself(subject):
    """A kept activation may be overwritten while the run goes on."""
    model, prompt = subject
    kept: list[Tensor] = []

    def keep(tensor: Tensor, hook: Any) -> None:
        kept.append(tensor)

    def wipe(tensor: Tensor, hook: Any) -> None:
        kept[0].detach().zero_()

    hooks = [(names.resid_pre(1), keep), ("blocks.1.ln1.hook_normalized", wipe)]
    assert torch.equal(model.run_with_hooks(prompt, fwd_hooks=hooks), model(prompt))
    assert not kept[0].any()
