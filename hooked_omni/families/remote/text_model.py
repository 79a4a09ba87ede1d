"""Which model of transformers computes what a remote model's decoder does, on its tensors?"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers

from hooked_omni.errors import CheckpointError
from hooked_omni.families.family import Conversion, as_stored
from hooked_omni.families.skeleton import HEAD, empty, fill, find_decoder

Reference = Callable[[Mapping[str, Any]], tuple[Any, Any]]
"""From `config.json` to class and config of a model of transformers."""

_NUMBERS = (
    *("vocab_size", "hidden_size", "intermediate_size", "hidden_act", "rms_norm_eps", "head_dim"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "tie_word_embeddings"),
    *("use_sliding_window", "sliding_window", "max_window_layers"),
)


def qwen_reference(raw: Mapping[str, Any], version: str = "Qwen2") -> tuple[Any, Any]:
    """Class and config of the Qwen in a `config.json`; `CheckpointError` for scaled positions."""
    if raw.get("rope_scaling"):
        raise CheckpointError(f"expected default rotary positions, got {raw['rope_scaling']}.")
    known = {name: raw[name] for name in _NUMBERS if name in raw}
    base = (raw.get("rope_parameters") or raw).get("rope_theta", 1e6)  # of 5.x, of 4.x
    rope = {"rope_type": "default", "rope_theta": base}
    config = getattr(transformers, f"{version}Config")(**known, rope_parameters=rope)
    set_dtype(config, raw)
    return getattr(transformers, f"{version}ForCausalLM"), config


def set_dtype(config: Any, raw: Mapping[str, Any]) -> None:
    """Give `config` the dtype of a `config.json`, if it has one."""
    name = raw.get("dtype") or raw.get("torch_dtype")
    if name is not None:
        config.dtype = getattr(torch, str(name).removeprefix("torch."))


def as_qwen(hf_model: Any, reference: Reference = qwen_reference) -> Any:
    """Transformers' Qwen on the tensors of a model that wraps it."""
    model = as_text_model(hf_model, reference, hf_model.get_output_embeddings())
    if getattr(hf_model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = hf_model.generation_config.eos_token_id
    return model


def as_text_model(
    hf_model: Any,
    reference: Reference,
    head: Any,
    conversion: Callable[[str, Any], Conversion] = as_stored,
) -> Any:
    """A model of transformers on a remote model's tensors, with its kernel, `sdpa` or `eager`.

    `reference` makes its class and config; `conversion` names what each of its tensors is made of.
    """
    model_class, config = reference(hf_model.config.to_dict())
    eager = getattr(hf_model.config, "_attn_implementation", None) == "eager"
    model = empty(model_class, config, "eager" if eager else "sdpa")
    own = dict(find_decoder(hf_model).named_parameters())
    tensors = {HEAD: head.weight}
    for name, _ in find_decoder(model).named_parameters():
        made = conversion(name, config)
        tensors[name] = made.make([own[key] for key in made.keys])
    model.name_or_path = getattr(hf_model, "name_or_path", "")
    return fill(model, tensors)
