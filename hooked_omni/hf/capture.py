"""What reaches the decoder?

The Hugging Face model runs until its decoder is called, and stops there. What it was called with
is taken as it is: embeddings with the towers' outputs in place, rotary positions, mask. Nothing is
derived a second time, so nothing can be derived otherwise.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from hooked_omni.errors import PromptError, UnknownModelError
from hooked_omni.families.family import Family
from hooked_omni.families.skeleton import find_decoder
from hooked_omni.inputs.prompt import EmbeddedPrompt, NoSpans
from hooked_omni.inputs.spans import Spans

__all__ = ["at_the_door", "embedded", "find_decoder"]


class _AtTheDoor(Exception):
    """Carries what the decoder was called with."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments


@torch.no_grad()
def at_the_door(hf_model: nn.Module, family: Family, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments with which `hf_model` calls its decoder on `inputs`."""

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _AtTheDoor({**kwargs, **({"inputs_embeds": args[0]} if args else {})})

    handle = find_decoder(hf_model).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        family.call(hf_model, inputs)
    except _AtTheDoor as door:
        return door.arguments
    finally:
        handle.remove()
    raise UnknownModelError(
        f"expected {type(hf_model).__name__} to call its decoder, got a forward that did not."
    )


def embedded(
    hf_model: nn.Module,
    family: Family,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    facts: dict[str, Any],
    fps: float | None = None,
) -> EmbeddedPrompt:
    """Ready-made model inputs at the decoder's door.

    Args:
        hf_model: Towers and decoder.
        family: What is particular to it.
        tokenizer: To tell words from markup; None if there is none.
        inputs: A processor's whole output.
        facts: How the inputs were made.
        fps: Frames a second that were sampled, where the inputs claim another rate.

    Raises:
        PromptError: For inputs without which the model would silently use other positions.
    """
    _require_a_processors_output(inputs)
    family.check_inputs(hf_model, inputs)
    device = next(hf_model.parameters()).device
    placed = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    door = at_the_door(hf_model, family, placed)
    embeds = door["inputs_embeds"].detach().clone()
    # Where one placeholder stands for many tokens, the longer mask is the one at the door.
    mask = _mask((placed if family.places is None else door).get("attention_mask"))
    tokens, media = _tokens(family, hf_model, placed, embeds)
    spans: Spans = NoSpans({}, embeds.shape[1])
    if embeds.shape[0] == 1:
        real = torch.ones_like(tokens[0], dtype=torch.bool) if mask is None else mask[0] != 0
        chosen = _chosen(family, tokenizer, tokens[0].cpu(), media, real.cpu())
        positions = {name: found.nonzero()[:, 0] for name, found in chosen.items()}
        sizes = {name: len(found) for name, found in positions.items()}
        seconds, frames = family.times(hf_model, placed, sizes)
        if fps is not None and frames is not None:
            seconds["video"] = frames * (family.frames_a_step / fps)
        spans = Spans(positions, embeds.shape[1], seconds, frames)
    return EmbeddedPrompt(
        embeds=embeds,
        position_ids=_positions(door.get("position_ids"), embeds),
        mask=mask,
        tokens=tokens,
        spans=spans,
        facts=facts,
        deepstack=_deepstack(door, embeds),
    )


def _require_a_processors_output(inputs: Mapping[str, Any]) -> None:
    if inputs.get("input_ids") is None:
        raise PromptError(
            "expected input_ids among the inputs, got none. Pass what the processor returns."
        )
    own = [k for k in ("position_ids", "inputs_embeds", "past_key_values") if k in inputs]
    mask = inputs.get("attention_mask")
    if own or (mask is not None and mask.ndim != 2):
        raise PromptError(
            f"expected a processor's output alone, got {own or 'an attention_mask of other than'} "
            f"{'besides' if own else 'two axes'}. The model finds positions and masks by itself."
        )


def _tokens(
    family: Family,
    hf_model: nn.Module,
    inputs: Mapping[str, Any],
    embeds: Float[Tensor, "batch pos d_model"],
) -> tuple[Int[Tensor, "batch pos"], dict[str, Tensor]]:
    """The token of each position, and where each modality of the first prompt sits."""
    if family.places is not None:
        tokens, media = family.places(hf_model, inputs, embeds.shape[1])
        return tokens[None].to(embeds.device), media
    ids, first = family.media_tokens(hf_model), inputs["input_ids"][0].cpu()
    return inputs["input_ids"].clone(), {name: first == token for name, token in ids.items()}


def _deepstack(
    door: Mapping[str, Any], embeds: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "layer batch pos d_model"] | None:
    features, places = door.get("deepstack_visual_embeds"), door.get("visual_pos_masks")
    if features is None or places is None or not len(features):
        return None
    added = embeds.new_zeros(len(features), *embeds.shape)
    for layer, feature in enumerate(features):
        added[layer][places.to(embeds.device)] = feature.to(embeds.device, embeds.dtype)
    return added


def _mask(mask: Num[Tensor, "batch pos"] | None) -> Int[Tensor, "batch pos"] | None:
    if mask is None or bool((mask != 0).all()):
        return None
    if not bool((mask[:, -1] != 0).all()):
        raise PromptError(
            "expected padding on the left, got it behind the prompt: the next token would follow "
            "the padding. Set the tokenizer's padding_side to 'left'."
        )
    return mask.long().clone()


def _positions(positions: Tensor | None, embeds: Tensor) -> Num[Tensor, "rows batch pos"]:
    if positions is None:  # the decoder counts from 0, padding included
        batch, n_pos = embeds.shape[:2]
        return torch.arange(n_pos, device=embeds.device).expand(3, batch, -1).clone()
    if positions.ndim == 2:  # one dimension
        return positions.expand(3, *embeds.shape[:2]).clone()
    return positions[-3:].clone()  # a fourth row in front holds text positions, for packing


def _chosen(
    family: Family,
    tokenizer: Any,
    tokens: Int[Tensor, " pos"],
    media: dict[str, Tensor],
    real: Tensor,
) -> dict[str, Tensor]:
    """SpanPositions of every basic span, as masks."""
    text = real & ~torch.stack(list(media.values())).any(0)
    chosen = {**media, "text": text, "prompt": real, "padding": ~real}
    chosen["last"] = torch.zeros_like(real)
    chosen["last"][int(real.nonzero()[-1])] = True
    if tokenizer is not None:
        chosen |= _words(tokenizer, tokens, text)
        if family.words is not None:
            chosen |= family.words(tokenizer, tokens, chosen)
    return chosen


def _words(tokenizer: Any, tokens: Int[Tensor, " pos"], text: Tensor) -> dict[str, Tensor]:
    """The user's words, the system prompt's, and the chat markup around them.

    A turn is `<|im_start|>role`, a newline, its content, `<|im_end|>`. Special tokens are markup
    wherever they stand. A prompt without turns is all query.
    """
    spans = {name: torch.zeros_like(text) for name in ("question", "system", "markup")}
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    turn = {tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_start|>", "<|im_end|>")}
    role, in_content = "", not turn & set(tokens.tolist())
    for i in text.nonzero()[:, 0].tolist():
        token = int(tokens[i])
        if token in turn:
            role, in_content = "", False
        if token in special:
            spans["markup"][i] = True
        elif in_content:
            spans[{"system": "system", "assistant": "markup"}.get(role, "question")][i] = True
        else:
            spans["markup"][i] = True
            role += tokenizer.decode([token])
            if role.endswith("\n"):
                role, in_content = role.strip(), bool(role.strip())
    return spans
