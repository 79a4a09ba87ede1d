"""Names of hook points, as in TransformerLens. No other file writes `f"blocks.{layer}..."`."""

from typing import Literal

EMBED = "hook_embed"
FINAL_NORM = "ln_final.hook_normalized"
PATTERN_LIKE = ("hook_attn_scores", "hook_pattern")
IN_BLOCK = (
    *("attn.", "mlp.", "ln1.", "ln2."),
    *("hook_resid", "hook_attn_out", "hook_mlp_in", "hook_mlp_out", "hook_deepstack"),
)
FLAGS = {
    "use_attn_result": ("attn.hook_result",),
    "use_split_qkv_input": ("attn.hook_q_input", "attn.hook_k_input", "attn.hook_v_input"),
    "use_attn_in": ("attn.hook_attn_in",),
    "use_hook_mlp_in": ("hook_mlp_in",),
}
"""Hook points of a block that are off until a flag of the config is on."""

LensKind = Literal["norm", "raw"]
LENSES: tuple[LensKind, ...] = ("norm", "raw")
"""Whether a lens puts the final norm before the unembedding."""

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways of accelerate's to give each module of a model a device."""

READ_WEIGHTS = ("use_attn_result", "use_split_qkv_input", "use_attn_in")
"""Flags of hook points that are computed from weights, which quantized projections do not have."""

_NORMED_HEADS = (".q_norm.", ".k_norm.")
_ON_HEADS = (
    *("hook_q", "hook_k", "hook_v", "hook_rot_q", "hook_rot_k", "hook_z", "hook_result"),
    *("hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in"),
)


_IN_MODULE = {"attn": (*PATTERN_LIKE, *_ON_HEADS), "mlp": ("hook_pre", "hook_post")}


def with_module(at: str) -> str | None:
    """A name that lacks its module, as "hook_z", with it, "attn.hook_z"; None for any other."""
    return next((f"{module}.{at}" for module, own in _IN_MODULE.items() if at in own), None)


def in_block(at: str, layer: int) -> str:
    """Name of a block's hook point, such as "attn.hook_z", in one layer."""
    return f"blocks.{layer}.{at}"


def attn_scores(layer: int) -> str:
    """Pre-softmax scores, `[batch, head, query, key]`."""
    return f"blocks.{layer}.attn.hook_attn_scores"


def pattern(layer: int) -> str:
    """Attention probabilities, `[batch, head, query, key]`."""
    return f"blocks.{layer}.attn.hook_pattern"


def result(layer: int) -> str:
    """What each head writes to the residual stream, `[batch, pos, head, d_model]`."""
    return f"blocks.{layer}.attn.hook_result"


def resid_pre(layer: int) -> str:
    """Residual stream before block `layer`, `[batch, pos, d_model]`."""
    return f"blocks.{layer}.hook_resid_pre"


def resid_mid(layer: int) -> str:
    """Residual stream between attention and MLP, `[batch, pos, d_model]`."""
    return f"blocks.{layer}.hook_resid_mid"


def resid_post(layer: int) -> str:
    """Residual stream after block `layer`, `[batch, pos, d_model]`."""
    return f"blocks.{layer}.hook_resid_post"


def attn_out(layer: int) -> str:
    """What attention adds to the residual stream, `[batch, pos, d_model]`."""
    return f"blocks.{layer}.hook_attn_out"


def deepstack(layer: int) -> str:
    """Vision features added after block `layer`, `[batch, pos, d_model]`."""
    return f"blocks.{layer}.hook_deepstack"


def mlp_out(layer: int) -> str:
    """What the MLP adds to the residual stream, `[batch, pos, d_model]`."""
    return f"blocks.{layer}.hook_mlp_out"


def in_tower(tower: str, at: str = "hook_out") -> str:
    """Name in a tower: `in_tower("audio", resid_post(3))`, or of what it gives the decoder."""
    return f"towers.{tower}.{at}"


def layer_of(name: str) -> int | None:
    """Layer of a hook name, or None for one outside the blocks."""
    head, _, rest = name.partition(".")
    return int(rest.partition(".")[0]) if head == "blocks" else None


def flag_of(name: str) -> str | None:
    """The flag of the config that brings a hook point to life; None if it always lives."""
    return next((flag for flag, points in FLAGS.items() if name.endswith(points)), None)


def on_heads(name: str) -> bool:
    """Whether the activation is `[batch, pos, head, ...]`."""
    return name.endswith(_ON_HEADS) or any(norm in f".{name}" for norm in _NORMED_HEADS)


def position_axis(name: str) -> int:
    """Axis of the (query) position: 2 for scores and patterns, else 1."""
    return 2 if name.endswith(PATTERN_LIKE) else 1
