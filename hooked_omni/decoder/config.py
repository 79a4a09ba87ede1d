"""What a decoder is, as a table: sizes, norm, rotary layout, attention kernel."""

from dataclasses import dataclass, field
from typing import Literal

import torch


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the MLP."""

    n_experts: int  # to choose from
    n_active: int  # that read each position
    d_mlp: int  # hidden width of one
    normalized: bool  # whether the chosen ones' weights are made to add up to one
    layers: tuple[int, ...]  # blocks that have a mixture; the others keep a dense MLP


@dataclass
class DecoderConfig:
    """A decoder's numbers under TransformerLens's names, so that its helpers can read them.

    Attributes:
        n_layers, d_model, n_heads, d_head, d_mlp, d_vocab: As in TransformerLens.
        n_key_value_heads: Key and value heads; each serves `n_heads / n_key_value_heads` queries.
        n_ctx: Positions the model was made for.
        eps: Added to the mean square in RMSNorm.
        rope_theta: Base of the rotary frequencies.
        mrope_section: How many frequencies turn with time, height and width. All with time is plain
            one-dimensional rotary embedding.
        mrope_interleaved: Whether the three take turns along the frequencies, instead of one block
            after the other (`recomposition_frequencies` in `modeling_qwen3_omni_moe.py`).
        rope_limit: Longest sequence that these frequencies hold for; None for no limit.
        inv_freqs: Rotary frequencies that are no powers of `rope_theta`; second ones are those of
            prompts beyond `rope_limit`. Fewer than `d_head / 2` turn a head's first numbers alone.
        rope_scaling: Factor of sines and cosines.
        windows: How many positions each layer reads, the last its own, or None for all before it;
            empty if no layer has a window.
        fused: Whether queries, keys and values are one projection, and gate and up another.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_norm: Whether every query and key head is normed before it is rotated.
        experts: Mixture of experts; None if every MLP is dense.
        n_deepstack: After how many of the first blocks vision features are added to the residual
            stream (DeepStack, arXiv 2406.04334).
        attn_implementation: Kernel of a layer without a hook on its scores or pattern.
        attention_budget: Bytes that the scores of a layer may take. Above, they are made in blocks
            of queries, where all hooks on them are `by_query`; else whole, if there is room.
        use_attn_result, use_split_qkv_input, use_attn_in, use_hook_mlp_in: Whether the hook points
            of `names.FLAGS` are live; most are large.
        eos_tokens: Token ids that end a caption.
        media_tokens: Token ids in whose places the towers' output stands.
        quantized: How projections are quantized, which then are Hugging Face's own modules and
            have no weights to view; empty for none.
        model_name: For people and for results.
        dtype, device: Of the weights; with layers on several devices, that of the embedding.
        devices: Of each layer, where they are not all the same; empty if they are.
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
    mrope_interleaved: bool = False
    rope_limit: int | None = None
    inv_freqs: tuple[tuple[float, ...], ...] = ()
    rope_scaling: float = 1.0
    windows: tuple[int | None, ...] = ()
    fused: bool = False
    qkv_bias: bool = True
    qk_norm: bool = False
    experts: Experts | None = None
    n_deepstack: int = 0
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    attention_budget: int = 2**31
    use_attn_result: bool = False
    use_split_qkv_input: bool = False
    use_attn_in: bool = False
    use_hook_mlp_in: bool = False
    eos_tokens: tuple[int, ...] = ()
    media_tokens: tuple[int, ...] = ()
    quantized: str = ""
    model_name: str = "unnamed"
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    devices: tuple[torch.device, ...] = ()
    normalization_type: Literal["RMS"] = "RMS"
    act_fn: Literal["silu"] = "silu"
    gated_mlp: bool = True
    attn_only: bool = False
    positional_embedding_type: Literal["rotary"] = "rotary"

    def device_of(self, layer: int) -> torch.device:
        """Where the weights, keys and values of a layer are."""
        return self.devices[layer] if self.devices else self.device
