"""Backward hooks get Hugging Face's gradients, at every hook point."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hooked_omni import names
from hooked_omni.hf.capture import find_decoder
from tests.support.hugging_face import EXACT
from tests.support.runs import hook_name, hooks_left, kind_of, layers_of, opened


def test_gradients_are_hugging_faces(subject):
    omni, inputs, model, prompt = subject
    assert not any(p.requires_grad for p in omni.model.parameters())
    token = 7
    decoder = find_decoder(omni.hf)
    theirs: dict[str, Tensor] = {}

    def with_graph(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        embeds = kwargs["inputs_embeds"].detach().requires_grad_()
        theirs["hook_embed"] = embeds
        return args, {**kwargs, "inputs_embeds": embeds}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: Any, args: Any, output: Any) -> None:
            out = output[0] if isinstance(output, tuple) else output
            tensor = args[0] if EXACT[kind_of(name)].side == "in" else out
            tensor.retain_grad()
            theirs[name] = tensor

        return hook

    handles = [decoder.register_forward_pre_hook(with_graph, with_kwargs=True)]
    for kind, place in EXACT.items():
        if kind in ("hook_embed", "hook_resid_mid", "hook_mlp_in"):
            continue  # the first is above, the others are one tensor in that module
        for layer in layers_of(kind, model):
            module = decoder.get_submodule(place.module.format(layer))
            handles.append(module.register_forward_hook(keep(hook_name(kind, layer))))
    try:
        omni.hf(**inputs).logits[0, -1, token].backward()
    finally:
        for handle in handles:
            handle.remove()
    ours: dict[str, Tensor] = {}

    def note(gradient: Tensor, hook: Any) -> None:
        ours[hook.name] = gradient.clone()

    with model.hooks(bwd_hooks=[(name, note) for name in theirs]):
        model(prompt)[0, -1, token].backward()
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert tensor.grad is not None
        gradient = ours[name].reshape(tensor.shape)
        assert gradient.any() or names.layer_of(name) == model.cfg.n_layers - 1
        torch.testing.assert_close(gradient, tensor.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert not prompt.embeds.requires_grad
    assert hooks_left(model) == []


def test_every_backward_hook_fires(subject):
    _omni, _inputs, model, prompt = subject
    seen: set[str] = set()
    note = (lambda name: True, lambda gradient, hook: seen.add(hook.name))
    with model.hooks(bwd_hooks=[note], fwd_hooks=opened(model)):
        model(prompt)[0, -1].sum().backward()
    assert seen == set(model.hook_dict)
