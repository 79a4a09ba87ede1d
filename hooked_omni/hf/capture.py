"""What does a Hugging Face model call its decoder with?

The model runs until its decoder is called, and stops there. The decoder's inputs are taken as they
are: nothing is computed a second time, so nothing can differ.
"""

import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from hooked_omni.errors import PromptError, UnknownModelError
from hooked_omni.families.family import Family, Times
from hooked_omni.families.skeleton import find_decoder
from hooked_omni.inputs.precision import require_no_autocast
from hooked_omni.inputs.prompt import EmbeddedPrompt
from hooked_omni.inputs.spans import NoSpans, Spans


class _Captured(Exception):
    """Carries the arguments of the decoder's call."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments


@torch.no_grad()
def captured_inputs(
    hf_model: nn.Module, family: Family, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments with which `hf_model` calls its decoder on `inputs`.

    What a hook of this thread calls the model for meanwhile runs to its end, as in other threads.
    """
    own_thread, decoder = threading.get_ident(), find_decoder(hf_model)
    calls = list[nn.Module]()  # of the whole model, one inside the other
    first: Any = next(decoder.get_submodule("layers").children())

    def enter(module: nn.Module, _: Any) -> None:
        if threading.get_ident() == own_thread:
            calls.append(module)

    def leave(*_: Any) -> None:
        if threading.get_ident() == own_thread:
            del calls[-1:]

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != own_thread or len(calls) > 1:
            return
        given = {**kwargs, **({"inputs_embeds": args[0]} if args else {})}
        # A decoder that merges the clips itself is stopped at its first block.
        if module is first or given.get("inputs_embeds") is not None:
            raise _Captured(given)

    handles = [m.register_forward_pre_hook(stop, with_kwargs=True) for m in (decoder, first)]
    handles += [
        hf_model.register_forward_pre_hook(enter),
        hf_model.register_forward_hook(leave, always_call=True),
    ]
    try:
        family.call(hf_model, inputs)
    except _Captured as captured:
        return captured.arguments
    finally:
        for handle in handles:
            handle.remove()
    raise UnknownModelError(
        f"expected {type(hf_model).__name__} to call its decoder, got a forward that did not. "
        "Check `Family.call`."
    )


def embedded(
    hf_model: nn.Module,
    family: Family,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    facts: dict[str, Any],
    fps: Sequence[float] = (),
    n_turns: int = 0,
) -> EmbeddedPrompt:
    """The decoder's inputs for a processor's whole output, with their spans.

    `tokenizer` tells words from markup; `facts` says how the inputs were made; `fps` frames a
    second were sampled of each video, where the inputs state another rate; before the last turn of
    the user are `n_turns` earlier ones.

    Raises:
        CheckpointError: Under `torch.autocast`, and for a model on the meta device.
        PromptError: For inputs without which the model would silently use other positions.
    """
    _require_a_processors_output(inputs)
    family.check_inputs(hf_model, inputs)
    require_no_autocast(device := next(hf_model.parameters()).device)
    placed = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    captured = captured_inputs(hf_model, family, placed)
    embeds = captured["inputs_embeds"].detach().clone()
    # Where one placeholder stands for many tokens, only the decoder's mask is long enough.
    mask = _mask((placed if family.find_media is None else captured).get("attention_mask"))
    tokens, media = _tokens(family, hf_model, placed, embeds)
    spans: Spans = NoSpans({}, embeds.shape[1])
    if embeds.shape[0] == 1:
        real = torch.ones_like(tokens[0], dtype=torch.bool) if mask is None else mask[0] != 0
        masks = _span_masks(family, tokenizer, tokens[0].cpu(), media, real.cpu(), n_turns)
        positions = {name: inside.nonzero()[:, 0] for name, inside in masks.items()}
        sizes = {name: len(found) for name, found in positions.items()}
        times = family.times(hf_model, placed, sizes)
        spans = _spans(positions, times, [family.frames_per_step / rate for rate in fps])
    return EmbeddedPrompt(
        embeds=embeds,
        position_ids=_position_ids(captured.get("position_ids"), embeds).to(embeds.device),
        mask=None if mask is None else mask.to(embeds.device),
        tokens=tokens.to(embeds.device),
        spans=spans,
        facts=facts,
        deepstack=_deepstack(captured, embeds),
    )


def _spans(
    positions: dict[str, Int[Tensor, " _"]], times: Times, step_seconds: list[float]
) -> Spans:
    """Spans with the times of each sound and video; parts are numbered where there are several.

    `step_seconds` is the length of a step of each video's grid, where the inputs state another.
    """
    parts, seconds, frames, grid = dict(positions), {}, {}, {}
    for kind, items in times.items():
        ends = torch.tensor([item.n_tokens for item in items]).cumsum(0).tolist()
        for i, (item, end) in enumerate(zip(items, ends, strict=True)):
            name = kind if len(items) == 1 else f"{kind}.{i + 1}"
            parts[name] = positions[kind][end - item.n_tokens : end]
            if item.steps is not None:
                frames[name] = item.steps
            if item.grid is not None:
                grid[name] = item.grid
            if item.seconds is not None:
                seconds[name] = item.seconds
            if item.steps is not None and step_seconds:
                seconds[name] = item.steps * step_seconds[i]
    n_pos = len(positions["prompt"]) + len(positions["padding"])
    return Spans(parts, n_pos, seconds, frames, grid)


def _require_a_processors_output(inputs: Mapping[str, Any]) -> None:
    if inputs.get("input_ids") is None:
        raise PromptError("expected input_ids, got none. Pass what the processor returns.")
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
    if family.find_media is not None:
        tokens, media = family.find_media(hf_model, inputs, embeds.shape[1])
        return tokens[None], media
    ids, first = family.media_tokens(hf_model), inputs["input_ids"][0].cpu()
    return inputs["input_ids"].clone(), {name: first == token for name, token in ids.items()}


def _deepstack(
    captured: Mapping[str, Any], embeds: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "layer batch pos d_model"] | None:
    features, seen = captured.get("deepstack_visual_embeds"), captured.get("visual_pos_masks")
    if features is None or seen is None or not len(features):
        return None
    added = embeds.new_zeros(len(features), *embeds.shape)
    for layer, feature in enumerate(features):
        added[layer][seen.to(embeds.device)] = feature.to(embeds.device, embeds.dtype)
    return added


def _mask(mask: Num[Tensor, "batch pos"] | None) -> Int[Tensor, "batch pos"] | None:
    if mask is None or bool((mask != 0).all()):
        return None
    if not bool((mask[:, -1] != 0).all()):
        raise PromptError(
            "expected padding on the left, got it after the prompt: the next token would follow "
            "the padding. Set the tokenizer's padding_side to 'left'."
        )
    return mask.long().clone()


def _position_ids(ids: Tensor | None, embeds: Tensor) -> Num[Tensor, "rows batch pos"]:
    if ids is None:  # the decoder counts from 0, padding included
        batch, n_pos = embeds.shape[:2]
        return torch.arange(n_pos, device=embeds.device).expand(3, batch, -1).clone()
    if ids.ndim == 2:  # one dimension
        return ids.expand(3, *embeds.shape[:2]).clone()
    return ids[-3:].clone()  # a fourth row in front holds text positions, for packing


def _span_masks(
    family: Family,
    tokenizer: Any,
    tokens: Int[Tensor, " pos"],
    media: dict[str, Tensor],
    real: Tensor,
    n_turns: int,
) -> dict[str, Tensor]:
    """The mask of every basic span."""
    text = real & ~torch.stack(list(media.values())).any(0)
    masks = {**media, "text": text, "prompt": real, "padding": ~real}
    masks["last"] = torch.zeros_like(real)
    masks["last"][int(real.nonzero()[-1])] = True
    if tokenizer is not None:
        masks |= _word_masks(tokenizer, tokens, text)
        if family.correct_words is not None:
            masks |= family.correct_words(tokenizer, tokens, masks)
        given = masks["question"] | ~text & real
        masks |= _turn_masks(tokenizer, tokens, given, masks, n_turns)
        masks["markup"] |= masks.pop("answer")
    return masks


def _turn_masks(
    tokenizer: Any,
    tokens: Int[Tensor, " pos"],
    given: Tensor,
    masks: Mapping[str, Tensor],
    n_turns: int,
) -> dict[str, Tensor]:
    """What was said and `given` in each of the earlier turns, which is no question any more."""
    if not n_turns:
        return {}
    starts = (tokens == tokenizer.convert_tokens_to_ids("<|im_start|>")).nonzero()[:, 0].tolist()
    first = len(starts) - 2 - n_turns  # the last are the question's and the answer's
    if first < 0:
        raise PromptError(
            f"expected {n_turns} earlier turns, each after '<|im_start|>', got {len(starts)} of "
            "these: this family's template marks turns otherwise. Leave out `turns`."
        )
    place = torch.arange(len(tokens))
    turns = [
        (given | masks["answer"]) & (start <= place) & (place < end)
        for start, end in itertools.pairwise(starts[first:-1])
    ]
    every = torch.stack(turns).any(0)
    numbered = {f"turn.{i}": turn for i, turn in enumerate(turns, start=1)} if turns[1:] else {}
    own = {name: masks[name] & ~every for name in ("question", "answer")}
    return {"turn": every, **numbered, **own}


def _word_masks(tokenizer: Any, tokens: Int[Tensor, " pos"], text: Tensor) -> dict[str, Tensor]:
    """The user's words, the system prompt's, earlier answers, and the chat markup around them.

    A turn is `<|im_start|>role`, a newline, its content, `<|im_end|>`. Special tokens are markup
    wherever they stand. A prompt without turns is all question.
    """
    masks = {name: torch.zeros_like(text) for name in ("question", "system", "markup", "answer")}
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids)
    special |= set(added) if isinstance(added, dict) else set()  # mistral-common's has none
    turn = {tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_start|>", "<|im_end|>")}
    role, in_content = "", not turn & set(tokens[text].tolist())  # padding may be an unknown mark
    for i in text.nonzero()[:, 0].tolist():
        token = int(tokens[i])
        if token in turn:
            role, in_content = "", False
        if token in special:
            masks["markup"][i] = True
        elif in_content:
            masks[{"system": "system", "assistant": "answer"}.get(role, "question")][i] = True
        else:
            masks["markup"][i] = True
            role += tokenizer.decode([token])
            if role.endswith("\n"):
                role, in_content = role.strip(), bool(role.strip())
    return masks
