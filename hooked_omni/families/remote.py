"""What the families share whose code is not in transformers.

Their towers do part of the processing themselves, in `chat`; their decoders are ones that
transformers has.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_omni.errors import CheckpointError, PromptError
from hooked_omni.families.skeleton import HEAD, empty, fill, find_decoder
from hooked_omni.inputs.prompt import Prompt

__all__ = ["as_qwen2", "asked_of", "between", "plain_words", "qwen2_reference", "words_behind"]

_NUMBERS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
)


def qwen2_reference(raw: Mapping[str, Any]) -> tuple[Any, Any]:
    """Class and config of the Qwen2 that a `config.json` with its numbers describes.

    Raises:
        CheckpointError: For a rotary embedding that is not the default.
    """
    if raw.get("rope_scaling"):
        raise CheckpointError(
            f"expected a Qwen2 decoder with default rotary positions, got {raw['rope_scaling']}."
        )
    known = {name: raw[name] for name in _NUMBERS if name in raw}
    base = (raw.get("rope_parameters") or raw).get("rope_theta", 1e6)  # of 5.x, of 4.x
    rope = {"rope_type": "default", "rope_theta": base}
    config = transformers.Qwen2Config(**known, rope_parameters=rope)
    _keep_dtype(config, raw)
    return transformers.Qwen2ForCausalLM, config


def as_qwen2(hf_model: Any) -> Any:
    """Transformers' Qwen2 on the tensors of a model that wraps it."""
    config = hf_model.config
    model_class, own = qwen2_reference(config.to_dict())
    attention = getattr(config, "_attn_implementation", None)
    model = empty(model_class, own, "eager" if attention == "eager" else "sdpa")
    tensors = dict(find_decoder(hf_model).named_parameters())
    names = {name for name, _ in find_decoder(model).named_parameters()}
    kept = {name: tensor for name, tensor in tensors.items() if name in names}
    kept[HEAD] = hf_model.get_output_embeddings().weight
    model.name_or_path = getattr(hf_model, "name_or_path", "")
    fill(model, kept)
    if getattr(hf_model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = hf_model.generation_config.eos_token_id
    return model


def _keep_dtype(config: Any, raw: Mapping[str, Any]) -> None:
    name = raw.get("dtype") or raw.get("torch_dtype")
    if name is not None:
        config.dtype = getattr(torch, str(name).removeprefix("torch."))


class _Asked(Exception):
    """Carries what `generate` was called with."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.inputs = inputs


def asked_of(hf_model: Any, chat: Callable[[], Any]) -> dict[str, Any]:
    """What `chat`, a call of the model's own `chat`, hands to its `generate`; nothing more runs.

    Raises:
        PromptError: If it does not get that far.
    """

    def keep(*args: Any, **inputs: Any) -> None:
        raise _Asked(inputs)

    hf_model.generate = keep
    try:
        chat()
    except _Asked as asked:
        return asked.inputs
    finally:
        del hf_model.generate
    raise PromptError(
        f"expected {type(hf_model).__name__}.chat to call generate, got an answer without. Its "
        "code is not the one this family was written for."
    )


def plain_words(tokenizer: Any, prompt: Prompt, placeholders: tuple[str, ...]) -> None:
    """Refuse special tokens and placeholders among the words.

    Raises:
        PromptError: For such words.
    """
    if prompt.rope != "model":
        raise PromptError(
            f"expected rope='model' for a model whose positions have one dimension, got "
            f"{prompt.rope!r}. Leave it out."
        )
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), *placeholders}
    for where, text in {"text": prompt.text, "system": prompt.system or ""}.items():
        found = sorted(token for token in special if token in text)
        if found:
            raise PromptError(
                f"expected plain words in {where!r}, got the special token {found[0]!r} in "
                f"{text!r}: it would be read as a clip or a turn. Rephrase it."
            )


def between(bounds: Any, n_pos: int) -> Bool[Tensor, " pos"]:
    """SpanPositions inside any of the half-open `bounds`."""
    inside = torch.zeros(n_pos, dtype=torch.bool)
    for first, end in torch.as_tensor(bounds).reshape(-1, 2).tolist():
        inside[int(first) : int(end)] = True
    return inside


def words_behind(
    tokenizer: Any, tokens: Int[Tensor, " pos"], chosen: dict[str, Bool[Tensor, " pos"]]
) -> dict[str, Bool[Tensor, " pos"]]:
    """Spans of a prompt in which the clip comes first and the question behind it.

    What the model's own code writes among the clip's tokens ("Frame1: "), and the line break
    behind them, is markup. The words of an earlier turn are the system prompt's, whatever that turn
    is called.
    """
    query, markup = chosen["question"].clone(), chosen["markup"].clone()
    system = chosen["system"].clone()
    if not bool(query.any()):
        return {}
    place = torch.arange(len(tokens))
    turns = (tokens == tokenizer.convert_tokens_to_ids("<|im_start|>")).nonzero()[:, 0]
    last = int(query.nonzero()[-1])
    start = max((int(turn) for turn in turns if turn < last), default=0)
    earlier = query & (place < start)
    system |= earlier
    query &= ~earlier
    media = torch.zeros_like(query)
    for name in ("video", "audio"):
        media |= chosen.get(name, media)
    if bool(media.any()):
        end = int(media.nonzero()[-1])
        written = query & (place < end)
        behind = (query & (place > end)).nonzero()[:, 0]
        if len(behind) and not tokenizer.decode([int(tokens[behind[0]])]).strip():
            written[behind[0]] = True
        query &= ~written
        markup |= written
    return {"question": query, "system": system, "markup": markup}
