"""How do many rows read one prompt?

Rows of a sweep share the keys and values of the prompt, and each has a short suffix of its own. All
rows read the shared keys in one matrix product, their own suffix in another, with one softmax over
both.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.cache import Angles, Attends, Heads, KeyValueCache, Real, require_readable
from hooked_omni.config import DecoderConfig

__all__ = ["SharedPrefix"]

RowScores = Float[Tensor, "row kv_head group query key"]


class SharedPrefix:
    """Keys and values of a prompt, read by every row, and of each row's suffix.

    Attributes:
        prompt: The prompt's keys and values; only its first `n_prefix` positions are read.
    """

    def __init__(
        self, cfg: DecoderConfig, prompt: KeyValueCache, n_prefix: int, rows: int, capacity: int
    ) -> None:
        self.prompt, self.n_prefix = prompt, n_prefix
        self.suffix = KeyValueCache(cfg, rows, capacity - n_prefix)

    def context(self, cos: Angles, sin: Angles, window: range, real: Real) -> "RowsPass":
        """A pass over `window` in every row."""
        self.suffix.length = window.start - self.n_prefix
        return RowsPass(self, cos, sin, window, real)

    def keep(self, rows: Int[Tensor, " row"]) -> None:
        """Drop the suffixes of all other rows."""
        self.suffix.keys = [keys[rows] for keys in self.suffix.keys]
        self.suffix.values = [values[rows] for values in self.suffix.values]


class RowsPass:
    """One pass in which every row reads the shared prefix and its own suffix.

    Scores and patterns are materialized, and pass through their hook points as
    `[row, kv_head, group, query, key]`: the layout in which all rows' products with the prefix are
    one. `RowHooks` shows each row to its hooks as TransformerLens's `[1, head, query, key]`.
    """

    def __init__(
        self, shared: SharedPrefix, cos: Angles, sin: Angles, window: range, real: Real
    ) -> None:
        self.shared, self.cos, self.sin, self.window = shared, cos, sin, window
        self.real = real

    def attend(self, attn: Attends, q: Heads, k: Heads, v: Heads) -> Heads:
        """Weighted values of every head; fires the layer's score and pattern hooks."""
        prompt, n_prefix = self.shared.prompt, self.shared.n_prefix
        keys, values = (kept[attn.layer][0, :, :n_prefix] for kept in (prompt.keys, prompt.values))
        own_keys, own_values = self.shared.suffix.append(
            attn.layer, k.transpose(1, 2), v.transpose(1, 2)
        )
        rows, n_query, n_heads, d_head = q.shape
        kv_heads, n_own = own_keys.shape[1:3]
        group = n_heads // kv_heads
        # [row, query, (kv_head group), d_head] -> [kv_head, row, group, query, d_head]
        q = q.view(rows, n_query, kv_heads, group, d_head).permute(2, 0, 3, 1, 4).contiguous()
        scores = q.new_empty(kv_heads, rows, group, n_query, n_prefix + n_own)
        flat = scores.view(kv_heads, rows * group * n_query, -1)
        for head in range(kv_heads):
            torch.addmm(
                flat[head, :, :n_prefix],
                q[head].view(-1, d_head),
                keys[head].T,
                beta=0,
                alpha=attn.scale,
                out=flat[head, :, :n_prefix],
            )
        own = q.transpose(0, 1).reshape(rows, kv_heads, group * n_query, d_head)
        own_scores = torch.matmul(own, own_keys.transpose(2, 3)).mul_(attn.scale)
        own_scores = own_scores.view(rows, kv_heads, group, n_query, n_own)
        by_row: RowScores = scores.transpose(0, 1)
        by_row[..., n_prefix:] = own_scores
        self._mask(by_row)
        pattern = self._pattern(attn, by_row, q.dtype)
        of_prefix = torch.bmm(
            pattern.transpose(0, 1).reshape(kv_heads, -1, n_prefix + n_own)[..., :n_prefix], values
        )
        of_prefix = of_prefix.view(kv_heads, rows, group, n_query, d_head).transpose(0, 1)
        of_own = torch.matmul(
            pattern[..., n_prefix:].reshape(rows, kv_heads, group * n_query, n_own), own_values
        )
        z = of_prefix + of_own.view(rows, kv_heads, group, n_query, d_head)
        return z.permute(0, 3, 1, 2, 4).reshape(rows, n_query, n_heads, d_head)

    def _mask(self, scores: RowScores) -> None:
        minimum = torch.finfo(scores.dtype).min
        if self.real is not None:
            scores.masked_fill_(~self.real[0], minimum)
        n_query = len(self.window)
        if n_query > 1:
            future = torch.ones(n_query, n_query, dtype=torch.bool, device=scores.device).triu(1)
            scores[..., -n_query:].masked_fill_(future, minimum)

    def _pattern(self, attn: Attends, scores: RowScores, dtype: torch.dtype) -> RowScores:
        edits = attn.hook_attn_scores.current.edits
        before = len(edits)
        scores = attn.hook_attn_scores(scores)
        if len(edits) > before:
            require_readable(scores, attn.hook_attn_scores)
        # In memory, key-value heads come first: the softmax would copy any other order.
        stored = scores.transpose(0, 1)
        pattern = torch.nn.functional.softmax(stored, dim=-1, dtype=torch.float32).to(dtype)
        return attn.hook_pattern(pattern.transpose(0, 1))
