"""How do many rows read one prompt?

Rows of a sweep share the prompt's keys and values, and each has a short suffix of its own. All rows
read the shared keys in one matrix product, their suffix in another, with one softmax over both.

Rows with the same tokens so far run as one up to the first layer with a hook of either: a sweep
over windows of layers computes little twice.
"""

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_omni.decoder.attention import (
    Angles,
    Attends,
    Heads,
    KVHeads,
    Real,
    require_causal,
    require_readable,
)
from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.decoder.key_value_cache import Keys, KeyValueCache, NewKeys

Computed = Float[Tensor, "computed pos d_model"]
RowScores = Float[Tensor, "row kv_head group query key"]


class SharedPrefix:
    """Keys and values of a prompt, read by every row, and of each row's suffix."""

    def __init__(
        self,
        cfg: DecoderConfig,
        prompt: KeyValueCache,
        n_prefix: int,
        first_layers: Sequence[int],
        capacity: int,
    ) -> None:
        self.prompt, self.n_prefix = prompt, n_prefix
        self.suffix = KeyValueCache(cfg, len(first_layers), capacity - n_prefix)
        self.rows = list(range(len(first_layers)))  # which are computed
        self.histories = [0] * len(first_layers)  # equal for equal tokens so far
        self.place = list(self.rows)  # of each row in the batch computed now
        self._first_layers = list(first_layers)  # with a hook, or the number of layers
        self._later: list[int] = []  # rows that are not computed for now
        self._aside = [[side[:0] for side in sides] for sides in self._sides]

    @property
    def first_layers(self) -> list[int]:
        """The first layer with a hook of each row, or the number of layers."""
        return [self._first_layers[row] for row in self.rows]

    @property
    def _sides(self) -> tuple[list[Tensor], list[Tensor]]:
        return self.suffix.keys, self.suffix.values

    def go_on(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]], later: Sequence[int] = ()
    ) -> None:
        """Compute `rows`, with `texts` after the prompt; of all others, `later` may still come."""
        self.histories = _numbered([tuple(text) for text in texts])
        self.place = list(range(len(rows)))
        if rows == self.rows:
            return
        every = [*self.rows, *self._later]
        now, then = ([every.index(r) for r in n] for n in (rows, later))
        for kept, aside in zip(self._sides, self._aside, strict=True):
            for layer, own in enumerate(kept):
                whole = torch.cat([own, aside[layer]]) if self._later else own
                kept[layer], aside[layer] = whole[now], whole[then]
        self.rows, self._later = list(rows), list(later)


class RowsContext:
    """One pass in which every row reads the shared prefix and its own suffix.

    Scores and patterns pass through their hook points as `[row, kv_head, group, query, key]`, in
    which all rows' products with the prefix are one. `ScoreRows` gives each row's hooks
    TransformerLens's `[1, head, query, key]`.
    """

    def __init__(
        self, shared: SharedPrefix, cos: Angles, sin: Angles, window: range, real: Real
    ) -> None:
        self.shared, self.cos, self.sin, self.window = shared, cos, sin, window
        self.real = real
        shared.suffix.length = window.start - shared.n_prefix
        self.deepstack: Tensor | None = None
        self.leaders: Tensor | None = None

    def enter(self, layer: int, resid: Computed) -> Float[Tensor, "differing pos d_model"]:
        """The rows that differ in `layer`, once each."""
        shared = self.shared
        if layer and layer not in shared.first_layers:
            return resid
        apart = enumerate(zip(shared.histories, shared.first_layers, strict=True))
        place = _numbered([(past, row if first <= layer else -1) for row, (past, first) in apart])
        leaders = [place.index(i) for i in range(max(place) + 1)]
        before, shared.place = shared.place, place
        whole = len(leaders) == len(place)
        self.leaders = None if whole else torch.tensor(leaders, device=resid.device)
        return resid[[before[row] for row in leaders]]

    def leave(self, resid: Computed) -> Float[Tensor, "row pos d_model"]:
        """Every row by itself again."""
        place, self.shared.place = self.shared.place, list(range(len(self.shared.place)))
        return resid[place]

    def attend(self, attn: Attends, q: Heads, k: KVHeads, v: KVHeads) -> Heads:
        """Weighted values of every head; fires the layer's score and pattern hooks."""
        prompt, n_prefix = self.shared.prompt, self.shared.n_prefix
        keys, values = (kept[attn.layer][0, :, :n_prefix] for kept in (prompt.keys, prompt.values))
        own_keys, own_values = self._own(attn.layer, k.transpose(1, 2), v.transpose(1, 2))
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
        self._mask(by_row, attn.window_size)
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

    def _own(self, layer: int, k: NewKeys, v: NewKeys) -> tuple[Keys, Keys]:
        """Keep every row's new keys and values; return those of the rows that are computed."""
        if self.leaders is None:
            return self.shared.suffix.append(layer, k, v)
        place = self.shared.place
        keys, values = self.shared.suffix.append(layer, k[place], v[place])
        leaders = self.leaders.to(keys.device)
        return keys.index_select(0, leaders), values.index_select(0, leaders)

    def _mask(self, scores: RowScores, size: int | None) -> None:
        if (forbidden := self._forbidden(scores, size)) is not None:
            # Without padding or a window, nothing before the queries is forbidden.
            every = self.real is not None or size is not None
            first = 0 if every else scores.shape[-1] - scores.shape[-2]
            minimum = torch.finfo(scores.dtype).min
            scores[..., first:].masked_fill_(forbidden[:, first:], minimum)

    def _forbidden(self, scores: RowScores, size: int | None) -> Bool[Tensor, "query key"] | None:
        """Keys that a query may not read: later ones, padding, and those before its window."""
        n_query, n_key = scores.shape[-2:]
        if n_query == 1 and self.real is None and (size is None or n_key <= size):
            return None
        query = torch.arange(n_key - n_query, n_key, device=scores.device)[:, None]
        key = torch.arange(n_key, device=scores.device)
        forbidden = key > query if size is None else (key > query) | (key <= query - size)
        return forbidden if self.real is None else forbidden | ~self.real[0]

    def _pattern(self, attn: Attends, scores: RowScores, dtype: torch.dtype) -> RowScores:
        scores, edited = attn.hook_attn_scores.edit(scores)
        if edited:
            self._mask(scores, attn.window_size)
            require_readable(scores, attn.hook_attn_scores)
        # In memory, key-value heads come first: the softmax would copy any other order.
        stored = scores.transpose(0, 1)
        pattern = torch.nn.functional.softmax(stored, dim=-1, dtype=torch.float32).to(dtype)
        pattern, edited = attn.hook_pattern.edit(pattern.transpose(0, 1))
        if edited and (forbidden := self._forbidden(pattern, attn.window_size)) is not None:
            require_causal(pattern, attn.hook_pattern, ~forbidden)
        return pattern


def _numbered(keys: Sequence[Hashable]) -> list[int]:
    """Equal keys get equal numbers, counted from 0 in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]
