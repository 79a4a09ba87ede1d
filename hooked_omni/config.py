"""What a decoder is, as a table: sizes, norm, rotary layout, attention kernel."""

from dataclasses import dataclass, field
from typing import Literal

import torch

__all__ = ["DecoderConfig"]


@dataclass
class DecoderConfig:
    """A decoder's numbers under TransformerLens's names, so that its helpers can read them.

    Attributes:
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        n_heads: Query heads.
        n_key_value_heads: Key and value heads; each serves `n_heads / n_key_value_heads` queries.
        d_head: Width of a head.
        d_mlp: Hidden width of the gated MLP.
        d_vocab: Number of tokens.
        n_ctx: Positions the model was made for.
        eps: Added to the mean square in RMSNorm.
        rope_theta: Base of the rotary frequencies.
        mrope_section: How many frequencies turn with time, height and width, in this order
            (`modeling_qwen2_5_omni.py`, `recomposition_frequencies`).
        attn_implementation: Kernel of a layer without a hook on its scores or pattern.
        use_attn_result: Fire `attn.hook_result`, `[batch, pos, head, d_model]`, which is large.
        eos_tokens: Token ids that end a caption.
        model_name: For people and for results.
        dtype, device: Of the weights.
    """

    n_layers: int
    d_model: int
    n_heads: int
    n_key_value_heads: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    use_attn_result: bool = False
    eos_tokens: tuple[int, ...] = ()
    model_name: str = "unnamed"
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    normalization_type: Literal["RMS"] = "RMS"
    act_fn: Literal["silu"] = "silu"
    gated_mlp: bool = True
    attn_only: bool = False
    positional_embedding_type: Literal["rotary"] = "rotary"
