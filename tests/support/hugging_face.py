"""The same questions put to the Hugging Face model alone: captions, scores, cut attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni
from hooked_omni.hf.capture import find_decoder


@dataclass(frozen=True)
class Cut:
    """A rule, and what it means."""

    rule: str
    query: str
    key: str
    layers: tuple[int, ...] = (0, 1, 2, 3)
    heads: tuple[int, ...] = (0, 1, 2, 3)


def members(prompt: EmbeddedPrompt, names_: str, n: int) -> Tensor:
    """Which of the first `n` positions are in a union, found without the library's masks."""
    mask = torch.zeros(n, dtype=torch.bool)
    for name in names_.split("+"):
        mask[torch.arange(prompt.n_pos, n) if name == "generated" else prompt.spans[name]] = True
    return mask


@contextmanager
def hf_cut(omni: HookedOmni, prompt: EmbeddedPrompt, cut: Cut) -> Iterator[None]:
    """The knockout in eager Hugging Face, as the authors do it: in the additive mask."""

    def mask_out(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        mask: Tensor = kwargs["attention_mask"]
        n_query, n_key = mask.shape[2:]
        reads = members(prompt, cut.query, n_key)[n_key - n_query :]
        blocked = reads[:, None] & members(prompt, cut.key, n_key)
        edited = mask.expand(-1, omni.model.cfg.n_heads, -1, -1).clone()
        for head in cut.heads:
            edited[:, head].masked_fill_(blocked, torch.finfo(mask.dtype).min)
        return args, {**kwargs, "attention_mask": edited}

    layers: Any = find_decoder(omni.hf).layers
    handles = [
        layers[layer].self_attn.register_forward_pre_hook(mask_out, with_kwargs=True)
        for layer in cut.layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hf_caption(omni: HookedOmni, inputs: dict[str, Any], n: int = 8) -> tuple[list[int], Tensor]:
    """Tokens of Hugging Face's own greedy decoding, and what each was chosen from."""
    ends, omni.hf.generation_config.eos_token_id = omni.hf.generation_config.eos_token_id, None
    try:
        out = omni.hf.generate(
            **inputs,
            max_new_tokens=n,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        omni.hf.generation_config.eos_token_id = ends
    return out.sequences[0, inputs["input_ids"].shape[1] :].tolist(), torch.cat(out.logits)


def hf_forced(omni: HookedOmni, inputs: Any, prompt: EmbeddedPrompt, text: Tensor) -> Tensor:
    """Logits of a text, in one pass that reads the cached keys and values of the prompt."""
    window = range(prompt.n_pos, prompt.n_pos + len(text) - 1)
    positions = prompt.position_ids_at(window)
    first = omni.hf(**inputs, use_cache=True)
    rest = omni.hf(
        input_ids=text[None, :-1],
        past_key_values=first.past_key_values,
        position_ids=positions if any(omni.model.cfg.mrope_section[1:]) else positions[0],
        attention_mask=torch.ones(1, window.stop, dtype=torch.long),
    )
    return torch.cat([first.logits[0, -1:], rest.logits[0]])


def hf_logprobs(omni: HookedOmni, prompt: EmbeddedPrompt, tokens: Tensor) -> Tensor:
    """Log-probabilities of a text, in one pass over prompt and text."""
    embeds = torch.cat([prompt.embeds, omni.hf.get_input_embeddings()(tokens[None, :-1])], dim=1)
    n_pos = embeds.shape[1]
    logits = omni.hf(
        inputs_embeds=embeds,
        position_ids=prompt.position_ids_at(range(n_pos)),
        attention_mask=torch.ones(1, n_pos, dtype=torch.long),
    ).logits
    chosen = logits[0, prompt.n_pos - 1 :].double().log_softmax(-1)
    return chosen.gather(1, tokens[:, None])[:, 0]


@dataclass(frozen=True)
class Place:
    """Where Hugging Face computes what a hook point holds: in or out of a module of the decoder."""

    module: str  # `{}` is the layer
    side: Literal["in", "out"]
    edit: str | None = None  # the module whose output takes the same edit, where it is another one


# Hook points that hold exactly what goes in or out of a module.
EXACT = {
    "hook_embed": Place("", "in"),
    "hook_resid_pre": Place("layers.{}", "in"),
    "attn.hook_q": Place("layers.{}.self_attn.q_proj", "out"),
    "attn.hook_k": Place("layers.{}.self_attn.k_proj", "out"),
    "attn.hook_v": Place("layers.{}.self_attn.v_proj", "out"),
    "attn.hook_z": Place("layers.{}.self_attn.o_proj", "in"),
    "hook_attn_out": Place("layers.{}.self_attn", "out"),
    "hook_resid_mid": Place("layers.{}.post_attention_layernorm", "in", "layers.{}.self_attn"),
    "mlp.hook_pre": Place("layers.{}.mlp.gate_proj", "out"),
    "mlp.hook_pre_linear": Place("layers.{}.mlp.up_proj", "out"),
    "mlp.hook_post": Place("layers.{}.mlp.down_proj", "in"),
    "hook_mlp_in": Place("layers.{}.post_attention_layernorm", "in"),
    "hook_mlp_out": Place("layers.{}.mlp", "out"),
    "hook_resid_post": Place("layers.{}", "out"),
}
NORMS = {
    "ln1": "layers.{}.input_layernorm",
    "ln2": "layers.{}.post_attention_layernorm",
    "ln_final": "norm",
}


def hf_run(
    omni: HookedOmni, inputs: Any, place: Place, layer: int, change: Any = None
) -> tuple[Tensor, Tensor]:
    """Hugging Face's activation at `place`, and its logits, with `change` made there if given."""
    seen: list[Tensor] = []

    def changed(tensor: Tensor) -> Tensor:
        seen.append(tensor.detach().clone())
        return tensor if change is None else change(tensor)

    def enter(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (changed(args[0]), *args[1:]), kwargs
        key = "hidden_states" if "hidden_states" in kwargs else "inputs_embeds"
        return args, {**kwargs, key: changed(kwargs[key])}

    def leave(_module: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (changed(output[0]), *output[1:])
        return changed(output)

    module = find_decoder(omni.hf).get_submodule(place.module.format(layer))
    if place.side == "in":
        handle = module.register_forward_pre_hook(enter, with_kwargs=True)
    else:
        handle = module.register_forward_hook(leave)
    try:
        logits = omni.hf(**inputs).logits
    finally:
        handle.remove()
    assert len(seen) == 1
    return seen[0], logits
