"""The parts of a decoder block, to the bit as in transformers, with its `[out, in]` weights.

The numbers follow `modeling_qwen2_5_omni.py` and `modeling_qwen3_omni_moe.py`; the hook names and
the `W_*` views are TransformerLens's.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hooked_omni.decoder.adapters import merged
from hooked_omni.decoder.attention import Angles, Attends, Heads, KVHeads, Real
from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.decoder.experts import MixtureOfExperts
from hooked_omni.decoder.rotary import rotate
from hooked_omni.decoder.weights import matrix
from hooked_omni.hooks.hook_point import HookPoint, exact_where

Resid = Float[Tensor, "batch pos d_model"]


@runtime_checkable
class Context(Protocol):
    """What all layers of one pass share: rotary angles, and how to read earlier positions.

    `enter` gives the rows to compute in a layer, `leave` all of them again; `deepstack` is added to
    the residual stream after the first blocks.
    """

    cos: Angles
    sin: Angles
    real: Real
    deepstack: Float[Tensor, "layer batch pos d_model"] | None

    def enter(self, layer: int, resid: Resid) -> Float[Tensor, "computed pos d_model"]: ...
    def leave(self, resid: Resid) -> Float[Tensor, "row pos d_model"]: ...
    def attend(self, attn: Attends, q: Heads, k: KVHeads, v: KVHeads) -> Heads: ...


class RMSNorm(nn.Module):
    """Root-mean-square norm; the gain comes after `hook_normalized`, as in TransformerLens."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.hook_scale = HookPoint()  # [batch, pos, 1], float32
        self.hook_normalized = HookPoint()  # [batch, pos, d_model]

    @property
    def w(self) -> Float[Tensor, " d_model"]:
        """Gain."""
        return self.weight

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        wide, variance, normalized = self._normalized(x)
        if self.hook_scale.hooked:
            scale = (variance + self.eps).sqrt()
            edited = self.hook_scale(scale)
            # Dividing by the scale rounds otherwise than Hugging Face: only where it was edited.
            if edited is not scale:
                same = (edited == scale).expand_as(wide)
                normalized = exact_where(same, normalized, wide / edited)
        return self.weight * self.hook_normalized(normalized.to(x.dtype))

    def unhooked(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The norm without its hook points."""
        return self.weight * self._normalized(x)[2].to(x.dtype)

    def _normalized(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = x.to(torch.float32)
        variance = wide.pow(2).mean(-1, keepdim=True)
        return wide, variance, wide * torch.rsqrt(variance + self.eps)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions.

    `hook_attn_in` and `hook_q_input`, `hook_k_input`, `hook_v_input` (see `names.FLAGS`) hold a
    copy of the residual stream for every head that reads it, before the norm. Weights are views;
    a bias that a decoder lacks is zero. With adapters beside them they are what peft would merge.
    """

    def __init__(self, cfg: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.cfg, self.layer = cfg, layer
        self.scale = cfg.d_head**-0.5
        self.num_key_value_groups = cfg.n_heads // cfg.n_key_value_heads
        self.is_causal = True
        self.window_size = cfg.windows[layer] if cfg.windows else None
        width, kv_width = cfg.n_heads * cfg.d_head, cfg.n_key_value_heads * cfg.d_head
        self.widths = (width, kv_width, kv_width)
        if cfg.fused:
            self.qkv_proj = nn.Linear(cfg.d_model, sum(self.widths), bias=cfg.qkv_bias)
        else:
            self.q_proj = nn.Linear(cfg.d_model, width, bias=cfg.qkv_bias)
            self.k_proj = nn.Linear(cfg.d_model, kv_width, bias=cfg.qkv_bias)
            self.v_proj = nn.Linear(cfg.d_model, kv_width, bias=cfg.qkv_bias)
        self.q_norm = RMSNorm(cfg.d_head, cfg.eps) if cfg.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(cfg.d_head, cfg.eps) if cfg.qk_norm else nn.Identity()
        self.o_proj = nn.Linear(width, cfg.d_model, bias=False)
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z, self.hook_result = HookPoint(), HookPoint()
        self.hook_attn_in, self.hook_q_input = HookPoint(), HookPoint()
        self.hook_k_input, self.hook_v_input = HookPoint(), HookPoint()

    def forward(self, resid: Resid, norm: RMSNorm, context: Context) -> Resid:
        x = norm(resid)
        if self.cfg.fused:
            q, k, v = (self._split(part) for part in self.qkv_proj(x).split(self.widths, dim=-1))
        else:
            projections = (self.q_proj, self.k_proj, self.v_proj)
            q, k, v = (self._split(project(x)) for project in projections)
        if self.cfg.use_split_qkv_input or self.cfg.use_attn_in:
            q, k, v = self._read_apart((q, k, v), resid, norm)
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        q = self.hook_rot_q(rotate(self.q_norm(q), context.cos, context.sin))
        k = self.hook_rot_k(rotate(self.k_norm(k), context.cos, context.sin))
        for read in (q, k):  # the fused kernel makes zeros of NaN, a softmax of an infinite key
            self.hook_pattern.current.watch(read)
        z = self.hook_z(context.attend(self, q, k, v))
        out = self.o_proj(z.flatten(2))
        if not self.hook_result.hooked:
            return out
        result = torch.einsum("bphd,hdm->bphm", z, self.W_O)
        edited = self.hook_result(result)
        if edited is result:
            return out
        # Summing over heads rounds otherwise than the projection: only where it was edited.
        same = (edited == result).flatten(2).all(-1, keepdim=True).expand_as(out)
        return exact_where(same, out, edited.sum(2))

    @property
    def _inputs(self) -> tuple[HookPoint, HookPoint, HookPoint]:
        return self.hook_q_input, self.hook_k_input, self.hook_v_input

    def _read_apart(self, exact: Sequence[Tensor], resid: Resid, norm: RMSNorm) -> list[Tensor]:
        """Queries, keys, values of heads that each read a stream of their own; `exact` if unedited.

        As in TransformerLens, key-value heads read the first copies of `hook_attn_in`.
        """
        if not self.hook_attn_in.hooked and not any(point.hooked for point in self._inputs):
            return list(exact)
        fork = resid.unsqueeze(2).repeat(1, 1, self.cfg.n_heads, 1)
        shared = self.hook_attn_in(fork)
        normed, heads = norm.unhooked(resid), []
        for head, rows, point in zip(exact, self._parts("weight"), self._inputs, strict=True):
            copies = fork[:, :, : head.shape[2]]
            entered = copies if shared is fork else shared[:, :, : head.shape[2]]
            edited = point(entered)
            if edited is copies:
                heads.append(head)
                continue
            weight = rows.view(head.shape[2], self.cfg.d_head, -1)
            apart = torch.einsum("bphm,hdm->bphd", norm.unhooked(edited), weight)
            together = torch.einsum("bpm,hdm->bphd", normed, weight)
            same = (edited == copies).all(-1, keepdim=True).expand_as(head)
            # What the norm's own hooks did is in `head`, so the difference is added to it.
            heads.append(exact_where(same, head, head + (apart - together)))
        return heads

    def _split(self, x: Float[Tensor, "batch pos width"]) -> Heads:
        return x.view(*x.shape[:2], -1, self.cfg.d_head)

    def _parts(self, kind: Literal["weight", "bias"]) -> Sequence[Tensor]:
        """Weights or biases of queries, keys and values; zeros for a bias that is not there."""
        if kind == "bias" and not self.cfg.qkv_bias:
            return [matrix(self.o_proj).new_zeros(width) for width in self.widths]
        read = matrix if kind == "weight" else lambda projection: merged(projection).bias
        if self.cfg.fused:
            return read(self.qkv_proj).split(self.widths)
        return [read(one) for one in (self.q_proj, self.k_proj, self.v_proj)]

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return rearrange(self._parts("weight")[0], "(h d) m -> h m d", d=self.cfg.d_head)

    @property
    def W_K(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return rearrange(self._parts("weight")[1], "(h d) m -> h m d", d=self.cfg.d_head)

    @property
    def W_V(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return rearrange(self._parts("weight")[2], "(h d) m -> h m d", d=self.cfg.d_head)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return rearrange(matrix(self.o_proj), "m (h d) -> h d m", d=self.cfg.d_head)

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"]:
        return self._parts("bias")[0].view(-1, self.cfg.d_head)

    @property
    def b_K(self) -> Float[Tensor, "kv_head d_head"]:
        return self._parts("bias")[1].view(-1, self.cfg.d_head)

    @property
    def b_V(self) -> Float[Tensor, "kv_head d_head"]:
        return self._parts("bias")[2].view(-1, self.cfg.d_head)

    @property
    def b_O(self) -> Float[Tensor, " d_model"]:
        """Output bias: zero, these decoders have none."""
        return matrix(self.o_proj).new_zeros(self.cfg.d_model)


class GatedMLP(nn.Module):
    """SiLU-gated MLP; its weights are views."""

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.fused = cfg.fused
        if self.fused:
            self.gate_up_proj = nn.Linear(cfg.d_model, 2 * cfg.d_mlp, bias=False)
        else:
            self.gate_proj = nn.Linear(cfg.d_model, cfg.d_mlp, bias=False)
            self.up_proj = nn.Linear(cfg.d_model, cfg.d_mlp, bias=False)
        self.down_proj = nn.Linear(cfg.d_mlp, cfg.d_model, bias=False)
        self.hook_pre = HookPoint()  # [batch, pos, d_mlp], before the activation
        self.hook_pre_linear = HookPoint()  # [batch, pos, d_mlp], what the gate lets through
        self.hook_post = HookPoint()  # [batch, pos, d_mlp]

    def forward(self, x: Resid) -> Resid:
        if self.fused:
            pre, linear = self.gate_up_proj(x).chunk(2, dim=-1)
        else:
            pre, linear = self.gate_proj(x), self.up_proj(x)
        pre, linear = self.hook_pre(pre), self.hook_pre_linear(linear)
        return self.down_proj(self.hook_post(nn.functional.silu(pre) * linear))

    @property
    def W_gate(self) -> Float[Tensor, "d_model d_mlp"]:
        return self._gate_and_up()[0].T

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        return self._gate_and_up()[1].T

    def _gate_and_up(self) -> tuple[Tensor, ...]:
        if self.fused:
            return matrix(self.gate_up_proj).chunk(2)
        return matrix(self.gate_proj), matrix(self.up_proj)

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        return matrix(self.down_proj).T

    @property
    def b_out(self) -> Float[Tensor, " d_model"]:
        """Output bias: zero, these decoders have none."""
        return matrix(self.down_proj).new_zeros(self.down_proj.out_features)


class Block(nn.Module):
    """Pre-norm block: attention, then MLP, each added to the residual stream.

    Vision features come after `hook_resid_post`: `resid_pre` of the next block is
    `resid_post + hook_deepstack`.
    """

    hook_out_is_single_residual_stream = True  # TransformerLens's lens and attribution read it

    def __init__(self, cfg: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.ln1, self.ln2 = RMSNorm(cfg.d_model, cfg.eps), RMSNorm(cfg.d_model, cfg.eps)
        self.attn = Attention(cfg, layer)
        mixed = cfg.experts is not None and layer in cfg.experts.layers
        self.mlp = MixtureOfExperts(cfg) if mixed else GatedMLP(cfg)
        self.hook_resid_pre, self.hook_attn_out = HookPoint(), HookPoint()
        self.hook_resid_mid, self.hook_mlp_out = HookPoint(), HookPoint()
        self.hook_resid_post, self.hook_mlp_in = HookPoint(), HookPoint()
        self.hook_deepstack = HookPoint() if layer < cfg.n_deepstack else None

    def forward(self, resid: Resid, context: Context) -> Resid:
        resid_pre = self.hook_resid_pre(resid)
        attn_out = self.hook_attn_out(self.attn(resid_pre, self.ln1, context))
        resid_mid = self.hook_resid_mid(resid_pre + attn_out)
        mlp_out = self.hook_mlp_out(self.mlp(self.ln2(self.hook_mlp_in(resid_mid))))
        resid_post = self.hook_resid_post(resid_mid + mlp_out)
        if self.hook_deepstack is None:
            return resid_post
        added = None if context.deepstack is None else context.deepstack[self.layer]
        if self.hook_deepstack.hooked:
            # Where a pass adds nothing, an edit must act all the same.
            nothing = torch.zeros_like(resid_post)
            features = nothing if added is None else nothing + added
            edited = self.hook_deepstack(features)
            added = added if edited is features else edited
        return resid_post if added is None else resid_post + added
