"""Where is the decoder in a Hugging Face model, and how does one without towers get its weights?

A decoder alone is the family's class on the meta device, filled with the decoder's tensors; what
got none, the towers, is taken out. Rotary frequencies are computed.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hooked_omni import names
from hooked_omni.errors import HookError, UnknownModelError
from hooked_omni.families.family import Family

HEAD = "lm_head.weight"
"""What the unembedding is called beside the decoder's own tensors."""


def find_decoder(hf_model: nn.Module) -> nn.Module:
    """The stack of blocks inside a Hugging Face model."""
    for module in hf_model.modules():
        embeds = hasattr(module, "embed_tokens") or hasattr(module, "tok_embeddings")
        if embeds and hasattr(module, "layers") and hasattr(module, "norm"):
            return module
    raise UnknownModelError(
        f"expected a module with layers, embed_tokens and norm inside {type(hf_model).__name__}, "
        "got none. This model's decoder cannot be found."
    )


def tower_points(hf_model: nn.Module, family: Family) -> dict[str, tuple[list[nn.Module], bool]]:
    """By name, the modules of each hook point in the towers, and whether it is what comes in.

    `HookError` for towers of foreign code, and for compiled ones, which may miss a hook or keep it.
    """
    modules = {f".{name}": module for name, module in hf_model.named_modules()}
    compiled = [m for m in modules.values() if m._compiled_call_impl or hasattr(m, "_orig_mod")]
    if compiled or not family.towers:
        raise HookError(
            f"expected towers with hook points, as loaded, got those of {family.name}: "
            f"{'they are compiled' if compiled else 'its file names none'}. Use the hooks of its "
            "decoder, whose `hook_embed` is what the towers give it."
        )
    points: dict[str, tuple[list[nn.Module], bool]] = {}
    for tower, paths in family.towers.items():
        blocks, *out = (next(m for n, m in modules.items() if n.endswith(f".{p}")) for p in paths)
        for layer, block in enumerate(blocks.children()):
            points[names.in_tower(tower, names.resid_pre(layer))] = [block], True
            points[names.in_tower(tower, names.resid_post(layer))] = [block], False
        points[names.in_tower(tower)] = out, False
    return points


def empty(model_class: Any, config: Any, attention: str) -> Any:
    """A model of a class of transformers without weights, which takes no memory."""
    with torch.device("meta"):
        model = model_class(config)
    model.set_attn_implementation(attention)
    return model.requires_grad_(False).eval()


def fill(model: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Give an `empty` model its decoder's tensors by name, shared, and the head's as `HEAD`."""
    decoder, weights = find_decoder(model), dict[int, nn.Parameter]()
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        owner = model.get_output_embeddings() if name == HEAD else decoder.get_submodule(path)
        weight = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)
        setattr(owner, leaf, weights.setdefault(id(tensor), weight))  # a tied head is one weight
    embeddings = model.get_input_embeddings().weight
    _take_out_what_is_empty(model, keep=decoder)
    # Non-persistent buffers hold nothing yet. On the CPU first, as when loaded whole.
    with torch.device("cpu"):
        rotary = type(decoder.rotary_emb)(config=decoder.config)  # pyright: ignore[reportCallIssue]
    decoder.rotary_emb = rotary.to(embeddings.device)
    model.config.dtype = embeddings.dtype
    return model


def _take_out_what_is_empty(module: nn.Module, keep: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if child is keep:
            continue
        held = [*child.parameters(), *child.buffers()]
        if held and all(tensor.is_meta for tensor in held):
            setattr(module, name, None)
        else:
            _take_out_what_is_empty(child, keep)
