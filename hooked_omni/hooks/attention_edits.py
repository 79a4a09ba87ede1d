"""Which attention is cut, or scaled, in which layers?

A knockout sets pre-softmax scores to the dtype's minimum for (query set, key set, layers, heads):
equation 7 of arXiv 2604.02605. `query` positions are the ones that read, `key` positions the ones
that are read; "source" and "target" mean opposite things in the paper and in its scripts.

The short notation, `query !-> key @ layers Hheads`:

    G !-> V @ 12-20             generated positions do not read video in layers 12 to 20
    A !-> Q                     audio does not read the user's words, in any layer
    last !-> audio@3.0-4.0s     the last prompt position does not read the fourth second of sound
    G !-> V.frame7 @ 24 H3,5    one step of the video, one layer, two heads
    G+last !-> V                the last prompt position too, so the first token is affected

`G` is the authors' definition: generated positions only, without the last prompt position, from
which the first new token is chosen.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.errors import HookError
from hooked_omni.hooks.hook_point import HookPoint
from hooked_omni.hooks.interventions import (
    Hook,
    Intervention,
    SpanHook,
    SpanPositions,
    at_layers,
    numbers,
)
from hooked_omni.inputs.spans import Spans

Scores = Float[Tensor, "batch head query key"]

_ARROW = "!->"
_NUMBERS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_SHORT_SPANS = {"A": "audio", "V": "video", "Q": "question", "G": "generated"}


def knockout(
    rule: str | None = None,
    *,
    query: str | None = None,
    key: str | None = None,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
) -> Intervention:
    """Stop `query` positions from reading `key` positions.

    ```python
    knockout(query="generated", key="video", layers=range(12, 21))
    knockout("G !-> V @ 12-20")          # the same
    ```

    A `rule` in the short notation stands alone; else `query` and `key` name spans, and None means
    all layers or all query heads.

    Raises:
        HookError: For a rule that cannot be read, at once; with a prompt's spans, for a pair that
            causality forbids anyway, and for a query that would have nothing left to read.
        SpanError: With a prompt's spans, for a span that is not in the prompt.
    """
    if rule is not None:
        if (query, key, layers, heads) != (None, None, None, None):
            raise HookError(f"expected a rule alone, got {rule!r} and keywords. Give one of them.")
        query, key, layers, heads = read_rule(rule)
    if query is None or key is None:
        raise HookError("expected query= and key=, or a rule such as 'G !-> V @ 12-20'.")
    chosen_layers, chosen_heads = numbers("layers", layers), numbers("heads", heads)

    def hooks(spans: Spans) -> list[Hook]:
        queries, keys = SpanPositions(spans, query), SpanPositions(spans, key)
        _require_cuttable(spans, queries, keys)

        cut = _Cut(keys, chosen_heads)
        bound = cut.bound if chosen_heads is None else None
        edit = SpanHook(
            queries, cut, chosen_heads, keys, each_alone=True, by_query=True, bound=bound
        )
        return [(name, edit) for name in at_layers("attn.hook_attn_scores", chosen_layers)]

    return hooks


@dataclass(frozen=True)
class _Cut:
    """Sets scores of (edited queries, `keys`, `heads`) to the dtype's minimum."""

    keys: SpanPositions
    heads: tuple[int, ...] | None

    def __call__(self, scores: Scores, index: Int[Tensor, " n"], hook: HookPoint) -> Scores:
        minimum = torch.finfo(scores.dtype).min
        columns = self.keys.within(range(scores.shape[-1]), scores.device)
        if len(index) == scores.shape[2] and self.heads is None:
            return scores.index_fill(-1, columns, minimum)
        return scores.masked_fill(_pairs(scores, index, columns, self.heads), minimum)

    def bound(self, scores: Float[Tensor, "*any key"]) -> Float[Tensor, " key"]:
        """The dtype's minimum for keys that are cut, no bound for others."""
        n_key, minimum = scores.shape[-1], torch.finfo(scores.dtype).min
        columns = self.keys.within(range(n_key), scores.device)
        return scores.new_full((n_key,), torch.inf).index_fill_(0, columns, minimum)


def scale_attention(
    *,
    query: str,
    key: str,
    factor: float | int,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
) -> Intervention:
    """Multiply the attention that `query` pays to `key`, and renormalize each row to one.

    Spans, layers and heads are as in `knockout`. A `factor` of 1 changes nothing but the rounding,
    0 is a knockout by other means.

    Raises:
        HookError: As `knockout`, and for a negative or infinite factor.
    """
    if not 0 <= factor < float("inf"):
        raise HookError(f"expected a factor of at least 0, got {factor}.")
    chosen_layers, chosen_heads = numbers("layers", layers), numbers("heads", heads)

    def hooks(spans: Spans) -> list[Hook]:
        queries, keys = SpanPositions(spans, query), SpanPositions(spans, key)
        _require_cuttable(spans, queries, keys, keeps_some=factor > 0)

        def scale(pattern: Scores, index: Int[Tensor, " n"], hook: HookPoint) -> Scores:
            columns = keys.within(range(pattern.shape[-1]), pattern.device)
            pairs = _pairs(pattern, index, columns, chosen_heads)
            scaled = torch.where(pairs, pattern * factor, pattern)
            touched = pairs.any(-1, keepdim=True)
            return torch.where(touched, scaled / scaled.sum(-1, keepdim=True), pattern)

        edit = SpanHook(queries, scale, chosen_heads, keys, each_alone=True, by_query=True)
        return [(name, edit) for name in at_layers("attn.hook_pattern", chosen_layers)]

    return hooks


def windows(
    model: Any,
    width: int | None = None,
    step: int | None = None,
    edges: Literal["clip", "whole", "paper"] = "clip",
) -> list[range]:
    """Windows of layers to sweep over, of an odd `width`, `step` layers apart.

    ```python
    windows(omni.model)  # of 36 layers: 36 windows, of 9 layers but for those at the ends
    windows(36, edges="paper")
    ```

    "clip" has a window for every center 0, `step` (1), ... and cuts it off at the ends of the
    model. "whole" has only whole windows, `step` (an 18th of the layers) apart. "paper" has those,
    `step` (2) apart, but for one that ends in the last layer: the centers 4, 6, ..., 30 of figure
    6, for 36 layers.

    Args:
        model: A model, or its number of layers.
        width: None for a quarter of the layers: 9 of 36, 7 of 28, 1 of 8; the paper's is 9.
        step: From center to center.
        edges: What becomes of windows at the ends.

    Raises:
        HookError: For a width that is even or does not fit.
    """
    decoder = getattr(model, "model", model)
    found: Any = decoder.cfg.n_layers if hasattr(decoder, "cfg") else decoder
    if not hasattr(found, "__index__"):
        raise HookError(f"expected a model, or how many layers it has, got {found!r:.80}.")
    n_layers = int(found)
    quarter = 9 if edges == "paper" else 2 * round((n_layers / 4 - 1) / 2) + 1
    width = quarter if width is None else width
    steps = {"clip": 1, "whole": max(1, round(n_layers / 18)), "paper": 2}
    if edges not in steps:
        raise HookError(f"expected edges among {[*steps]}, got {edges!r}.")
    step = steps[edges] if step is None else step
    if width < 1 or width % 2 == 0 or width > n_layers or step < 1:
        raise HookError(
            f"expected an odd width from 1 to {n_layers} and a step of at least 1, got width "
            f"{width} and step {step}."
        )
    half = width // 2
    if edges == "clip":
        centers = range(0, n_layers, step)
        return [range(max(c - half, 0), min(c + half + 1, n_layers)) for c in centers]
    centers = range(half, n_layers - half - (edges == "paper"), step)
    if not centers:
        raise HookError(f"expected more than {width} layers for whole windows, got {n_layers}.")
    return [range(c - half, c + half + 1) for c in centers]


def _pairs(scores: Scores, index: Tensor, columns: Tensor, heads: tuple[int, ...] | None) -> Tensor:
    pairs = torch.zeros(scores.shape[1:], dtype=torch.bool, device=scores.device)
    rows = torch.tensor(heads or range(scores.shape[1]), device=scores.device)
    pairs[rows[:, None, None], index[:, None], columns] = True
    return pairs


def _require_cuttable(
    spans: Spans, queries: SpanPositions, keys: SpanPositions, keeps_some: bool = False
) -> None:
    last_query = spans.n_prompt if queries.after else int(queries.prompt.max())
    if keys.first > last_query:
        raise HookError(
            f"expected {keys.name!r} to start before {queries.name!r} ends, got it from position "
            f"{keys.first} on, after {last_query}: a causal model never reads forward. Swap them."
        )
    unread = torch.zeros(spans.n_prompt + 1, dtype=torch.bool)
    unread[keys.prompt] = True
    unread[spans.n_prompt] = keys.after
    padding = spans.positions.get("padding", torch.zeros(0, dtype=torch.long))
    unread[padding] = True
    first_free = int((~unread).nonzero()[0]) if not unread.all() else spans.n_prompt + 1
    if queries.first < first_free and not keeps_some:
        raise HookError(
            f"expected every {queries.name!r} position to keep something to read, got position "
            f"{queries.first} with nothing left when {keys.name!r} is cut. Leave out the first "
            "positions."
        )


def read_rule(rule: str) -> tuple[str, str, list[int] | None, list[int] | None]:
    """Query, key, layers and heads of the short notation; `HookError` for what is none."""
    query, arrow, rest = rule.partition(_ARROW)
    if not arrow:
        raise HookError(f"expected 'query {_ARROW} key', got {rule!r} without {_ARROW!r}.")
    rest, heads = _split(rule, rest, r"\sH(?=\S*\s*$|[\d,\s-]+$)", "heads", "H3,5")
    rest, layers = _split(rule, rest, r"\s@(?=\s|\d)", "layers", "@ 12-20")
    return _span(rule, query), _span(rule, rest), layers, heads


def _split(
    rule: str, rest: str, mark: str, what: str, example: str
) -> tuple[str, list[int] | None]:
    before, *after = re.split(mark, rest, maxsplit=1)
    if not after:
        return before, None
    given = after[0].strip()
    text = re.sub(r"\s*([,-])\s*", r"\1", given)
    if not _NUMBERS.fullmatch(text):
        raise HookError(f"expected {what} such as {example!r}, got {given!r} in {rule!r}.")
    listed: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if int(last or first) < int(first):
            raise HookError(f"expected {what} in rising order, got {part!r} in {rule!r}.")
        listed += range(int(first), int(last or first) + 1)
    return before, listed


def _span(rule: str, text: str) -> str:
    parts = [part.strip() for part in text.split("+")]
    if not all(parts):
        raise HookError(f"expected a span on both sides of {_ARROW!r}, got {text!r} in {rule!r}.")
    for i, part in enumerate(parts):
        short, *rest = re.split(r"(?=[.@])", part, maxsplit=1)
        parts[i] = _SHORT_SPANS.get(short, short) + "".join(rest)
    return "+".join(parts)
