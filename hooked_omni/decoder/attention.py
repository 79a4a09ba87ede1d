"""How a position reads the ones before it: scores, masks, patterns.

Without a hook on its scores or pattern, a layer uses the kernel of the Hugging Face model. With
one, that layer alone materializes both, in the order of operations of `eager_attention_forward`
(transformers, `modeling_qwen2_5_omni.py`). Where that is more than `DecoderConfig.attention_budget`
it does so for one block of queries after the other, each with all keys, if its hooks allow it; so
do masks of the other kernel.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.decoder.key_value_cache import KeyValueCache
from hooked_omni.decoder.memory import SCORE_BYTES, free_bytes, in_words, query_blocks
from hooked_omni.errors import HookError
from hooked_omni.hooks.hook_point import HookPoint

Heads = Float[Tensor, "batch pos head d_head"]
KVHeads = Float[Tensor, "batch pos kv_head d_head"]
Angles = Float[Tensor, "batch pos d_head"]
Real = Bool[Tensor, "batch key"] | None
_MASK_BYTES = 3  # of a mask as booleans, and while they are made, beside its numbers


@runtime_checkable
class Attends(Protocol):
    """What an attention layer needs to know of itself to be attended with."""

    layer: int
    cfg: DecoderConfig
    scale: float
    num_key_value_groups: int
    is_causal: bool
    window_size: int | None
    hook_attn_scores: HookPoint
    hook_pattern: HookPoint


class CausalContext:
    """One pass in which every position reads itself and the ones before it."""

    def __init__(
        self,
        cos: Angles,
        sin: Angles,
        window: range,  # absolute positions of the queries
        real: Real = None,  # positions so far that are not padding; None for all
        cache: KeyValueCache | None = None,
    ) -> None:
        self.cos, self.sin = cos, sin
        self.window, self.real, self.cache = window, real, cache
        if cache is not None:
            cache.length = window.start
        self.deepstack: Tensor | None = None
        # By how many positions a layer reads, and of which queries, where.
        self._allowed: dict[Any, Tensor] = {}
        self._additive: dict[Any, Tensor] = {}

    def enter(self, layer: int, resid: Tensor) -> Tensor:
        """All rows, in every layer."""
        return resid

    def leave(self, resid: Tensor) -> Tensor:
        """All rows."""
        return resid

    def attend(self, attn: Attends, q: Heads, k: KVHeads, v: KVHeads) -> Heads:
        """Weighted values of every head; fires the layer's score and pattern hooks."""
        opened = attn.hook_attn_scores.hooked or attn.hook_pattern.hooked
        fused = attn.cfg.attn_implementation == "sdpa" and not opened
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.cache is not None:
            k, v = self.cache.append(attn.layer, k, v)
        size = attn.window_size
        if size is not None:  # what Hugging Face's cache keeps: no row reads a key before these
            first = max(self.window.start - size + 1, 0)
            k, v = k[:, :, first:], v[:, :, first:]
        if fused:
            unmasked = self.real is None and (size is None or k.shape[2] < size)
            start = self.window.start
            if unmasked and len(self.window) == 1:
                return self._fused(attn, q, k, v, None)
            if unmasked and start < len(self.window):
                # The kernel's own causal mask, which skips half of the work, is for queries that
                # are all the positions there are: a few that are not read stand for the first.
                whole = torch.nn.functional.pad(q, (0, 0, start, 0)) if start else q
                return self._fused(attn, whole, k, v, None)[:, start:]
            one, attend_block = len(q) * (q.dtype.itemsize + _MASK_BYTES), self._fused
        else:
            if (groups := attn.num_key_value_groups) > 1:
                k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
            one, attend_block = len(q) * q.shape[1] * SCORE_BYTES, self._eager
        start, parts = self.window.start, list[Tensor]()
        blocks = query_blocks(self.window, one * k.shape[2], attn.cfg.attention_budget)
        if len(blocks) > 1 and not self._takes_blocks(attn, one * k.shape[2] * len(self.window)):
            blocks = [self.window]
        for block in blocks:
            attn.hook_pattern.current.window = block
            rows = slice(block.start - start, block.stop - start)
            parts.append(attend_block(attn, q[:, :, rows], k, v, block))
        attn.hook_pattern.current.window = self.window
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _fused(self, attn: Attends, q: Tensor, k: Tensor, v: Tensor, block: range | None) -> Heads:
        allowed = None if block is None else self.allowed(attn.window_size, block)
        mask = None if allowed is None else allowed[..., -k.shape[2] :]
        return sdpa_attention_forward(
            attn,  # pyright: ignore[reportArgumentType]  # reads two attributes of `Attends`
            q,
            k,
            v,
            mask,
            scaling=attn.scale,
        )[0]

    def _eager(self, attn: Attends, q: Tensor, k: Tensor, v: Tensor, block: range) -> Heads:
        # Hooks have every key, those before the window as masked ones.
        first, minimum = self.window.stop - k.shape[2], torch.finfo(q.dtype).min
        size, pad = attn.window_size, torch.nn.functional.pad
        # In place, for the same bits with a third of the memory.
        masked = torch.matmul(q, k.transpose(2, 3)).mul_(attn.scale)
        if len(self.window) > 1 or self.real is not None:
            masked.add_(self._additive_mask(masked, size, block)[..., first:])
        masked = pad(masked, (first, 0), value=minimum) if first else masked
        scores, edited = attn.hook_attn_scores.edit(masked)
        del masked  # else it would stay until the pattern is read
        if edited:
            # An edit may not open the future, whatever it makes of masked scores.
            scores = scores.masked_fill(~self.allowed(size, block), minimum)
            require_readable(scores, attn.hook_attn_scores, self._real_queries(block))
        pattern = torch.nn.functional.softmax(scores[..., first:], dim=-1, dtype=torch.float32)
        del scores
        pattern = pad(pattern.to(q.dtype), (first, 0)) if first else pattern.to(q.dtype)
        pattern, edited = attn.hook_pattern.edit(pattern)
        if edited:
            require_causal(pattern, attn.hook_pattern, self.allowed(size, block))
        return torch.matmul(pattern[..., first:], v).transpose(1, 2).contiguous()

    def _takes_blocks(self, attn: Attends, n_bytes: int) -> bool:
        """Whether no hook here needs all queries at once; `HookError` if one does without room."""
        device = attn.cfg.device_of(attn.layer)
        whole = [p for p in (attn.hook_attn_scores, attn.hook_pattern) if not p.by_query]
        free = free_bytes(device) if whole else None
        if free is not None and n_bytes > free:
            raise HookError(
                f"expected room for the scores of {len(self.window)} queries and "
                f"{self.window.stop} keys at {whole[0].name!r}, {in_words(n_bytes)}, got "
                f"{in_words(free)} free on {device}. Make its hooks `by_query`, which get "
                "blocks of queries, or use a shorter clip."
            )
        return not whole

    def allowed(self, size: int | None, block: range) -> Bool[Tensor, "batch 1 query key"]:
        """Which keys each query of a block may read, in a layer that reads `size`; None for all."""
        if (at := (size, block, self.cos.device)) not in self._allowed:
            query = torch.arange(block.start, block.stop, device=self.cos.device)
            key = torch.arange(self.window.stop, device=self.cos.device)
            allowed = (key <= query[:, None])[None, None]
            if size is not None:
                allowed = allowed & (key > query[:, None] - size)
            if self.real is not None:
                allowed = allowed & self.real[:, None, None, : self.window.stop]
            self._keep(self._allowed, at, allowed)
        return self._allowed[at]

    def _additive_mask(
        self, like: Tensor, size: int | None, block: range
    ) -> Float[Tensor, "batch 1 query key"]:
        if (at := (size, block, like.device)) not in self._additive:
            zero = torch.zeros((), dtype=like.dtype, device=like.device)
            minimum = torch.finfo(like.dtype).min
            additive = torch.where(self.allowed(size, block), zero, minimum)
            self._keep(self._additive, at, additive)
        return self._additive[at]

    def _keep(self, masks: dict[Any, Tensor], key: Any, mask: Tensor) -> None:
        """For all layers if it is of all queries; else the masks of one block at a time."""
        if key[1] != self.window:
            masks.clear()
        masks[key] = mask

    def _real_queries(self, block: range) -> Bool[Tensor, "batch query"] | None:
        return None if self.real is None else self.real[:, block.start : block.stop]


def require_readable(
    scores: Float[Tensor, "*heads query key"],
    hook: HookPoint,
    real: Bool[Tensor, "batch query"] | None = None,
) -> None:
    """Refuse edited scores that leave a query with nothing to read.

    With every score at the dtype's minimum the softmax is uniform over all keys, future ones
    included: a number that looks right and is not.
    """
    empty = scores.amax(-1) <= torch.finfo(scores.dtype).min
    if real is not None:
        empty = empty & real[:, None]
    if bool(empty.any()):
        query = int(empty.flatten(0, -2).any(0).nonzero()[0])
        raise HookError(
            f"expected every query to keep a key to read, got none left at {hook.name!r} for "
            f"position {hook.window[query]}. Cut fewer keys, or leave out the first positions."
        )


def require_causal(
    pattern: Float[Tensor, "*heads query key"],
    hook: HookPoint,
    allowed: Bool[Tensor, "*broadcast query key"],
) -> None:
    """Refuse an edited pattern that attends to keys that its layer may not read."""
    forbidden = ~allowed & allowed.any(-1, keepdim=True)
    if bool(((pattern.abs() > 0) & forbidden).any()):
        raise HookError(
            f"expected a pattern without weight on later positions, got some at {hook.name!r}: a "
            "causal model never reads forward, nor from before a layer's window. Multiply by its "
            "own zeros, or edit 'attn.hook_z'."
        )
