"""What is changed in a run, as data.

An intervention is a function from a prompt's spans to hooks, so one line holds for every prompt. It
combines with others, and with any TransformerLens hook, by being listed.
"""

import difflib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from hooked_omni import names
from hooked_omni.errors import HookError, SpanError
from hooked_omni.hooks.hook_point import HookPoint, LiveHook
from hooked_omni.hooks.types import (
    Condition,
    Hook,
    HookFunction,
    HookName,
    Intervention,
    NamesFilter,
)
from hooked_omni.inputs.spans import Spans

_ON_KV_HEADS = (
    *("hook_k", "hook_v", "hook_rot_k", "hook_k_input", "hook_v_input"),
    *("k_norm.hook_scale", "k_norm.hook_normalized"),
)


class SpanPositions:
    """A span's positions, split at the end of the prompt so that each step finds its own fast.

    Padding, which nothing reads, is left out; `SpanError` if no position is left.
    """

    def __init__(self, spans: Spans, name: str) -> None:
        mask = spans.mask(name, range(spans.n_prompt + 1))
        mask[spans.positions.get("padding", [])] = False
        if not mask.any():
            raise SpanError(
                f"expected {name!r} to have positions that are no padding, got none among the "
                f"{spans.n_prompt} of the prompt: it would do nothing. Leave it out."
            )
        self.spans, self.name, self.n_prompt = spans, name, spans.n_prompt
        self.after = bool(mask[-1])  # every generated position, or none
        self.prompt = mask[:-1].nonzero()[:, 0]
        self._on: dict[torch.device, Tensor] = {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpanPositions):
            return NotImplemented
        return self.spans is other.spans and self.name == other.name

    def __hash__(self) -> int:
        return hash((id(self.spans), self.name))

    def fits(self, spans: Spans) -> bool:
        """Whether `spans` has the same positions under this name."""
        if spans is self.spans:
            return True
        try:
            other = SpanPositions(spans, self.name)
        except SpanError:
            return False
        same = (other.n_prompt, other.after) == (self.n_prompt, self.after)
        return same and torch.equal(other.prompt, self.prompt)

    def last(self, window: range) -> int:
        """The last position of `window` in the span; -1 if there is none."""
        if self.after and window.stop > self.n_prompt:
            return window.stop - 1
        inside = self.prompt[(self.prompt >= window.start) & (self.prompt < window.stop)]
        return int(inside[-1]) if len(inside) else -1

    @property
    def first(self) -> int:
        """The first position in the span."""
        return int(self.prompt[0]) if len(self.prompt) else self.n_prompt

    def within(self, window: range, device: torch.device) -> Int[Tensor, " n"]:
        """Positions of the span in `window`, counted from its start."""
        if device not in self._on:
            self._on[device] = self.prompt.to(device)
        prompt = self._on[device]
        if window.start >= self.n_prompt:
            return torch.arange(len(window) if self.after else 0, device=device)
        if window.start > 0 or window.stop < self.n_prompt:
            prompt = prompt[(prompt >= window.start) & (prompt < window.stop)]
        found = prompt - window.start if window.start else prompt
        if not self.after or window.stop <= self.n_prompt:
            return found
        after = torch.arange(self.n_prompt - window.start, len(window), device=device)
        return torch.cat([found, after])


@dataclass(frozen=True)
class SpanHook(LiveHook):
    """A hook on known positions and heads, which knows beforehand whether a run reaches them.

    Two are equal if they do the same: a sweep then edits their rows together.

    Attributes:
        where: Positions it acts on: queries, for scores and patterns.
        act: From the activation, the index of those positions in it and the hook point to the
            edited activation, or None to have only looked.
        heads: Heads it acts on; None for all, and where an activation has none.
        keys: Positions whose scores or weights it acts on; None for all.
        each_alone: Whether it does to many positions in one pass what it does to each by itself, so
            that a text may be read in place of one that is written.
        by_query: Whether it takes scores or patterns in blocks of queries; see `by_query`.
        bound: If all that it does, in all heads, is to keep scores from being higher: the highest
            `[key]` that they may be, for scores `[..., key]`.
    """

    where: SpanPositions
    act: Callable[[Tensor, Int[Tensor, " n"], HookPoint], Tensor | None]
    heads: tuple[int, ...] | None = None
    keys: SpanPositions | None = None
    each_alone: bool = False
    by_query: bool = False
    bound: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)

    def reaches(self, window: range, back: int | None = None) -> bool:
        """Whether it acts on any position of `window`, and on a key that this one may read.

        `back` is how many positions a layer reads, the last its own; None for all before it.
        """
        if self.keys is None or back is None or back >= window.stop:
            return self.where.last(window) >= (0 if self.keys is None else self.keys.first)
        reached, cpu = range(window.stop), torch.device("cpu")
        query, key = (side.within(reached, cpu) for side in (self.where, self.keys))
        query = query[query >= max(window.start, self.keys.first)]
        nearest = key[torch.searchsorted(key, query, right=True) - 1]
        return bool((query - nearest < back).any())

    def __call__(self, tensor: Tensor, hook: HookPoint) -> Tensor | None:
        index = self.where.within(hook.window, tensor.device)
        return self.act(tensor, index, hook) if len(index) else None

    def bound_on(self, scores: Tensor, window: range) -> Tensor | None:
        """Its `bound`, if it has one and acts on all queries, those of `window`."""
        every = self.bound and len(self.where.within(window, scores.device)) == len(window)
        return self.bound(scores) if self.bound and every else None


def as_hooks(condition: Condition, spans: Spans | None) -> list[Hook]:
    """Hooks of a list of hooks and interventions."""
    hooks: list[Hook] = []
    for item in listed(condition):
        if isinstance(item, tuple) and len(item) == 2 and callable(item[1]):
            hooks.append(item)
        elif callable(item) and spans is not None:
            hooks += item(spans)
        else:
            raise HookError(
                f"expected hooks (name, function), or interventions on an EmbeddedPrompt, got "
                f"{item!r}. A span needs a prompt to be looked up in: `fwd_hooks=[...]` of a call "
                "with one, or `hooks(..., prompt=prompt)`, `add_hook(..., prompt=prompt)`."
            )
    return hooks


def named(name: HookName, points: Collection[str], of: str) -> list[str]:
    """Those of `points` that `name` is, or passes; `HookError`, with the nearest, for none."""
    if callable(name):
        if passed := [one for one in points if name(one)]:
            return passed
        raise HookError("expected a filter that some hook name passes, got one none does.")
    if name not in points:
        inside = [one for one in points if one.endswith(f".{name}")]
        near = inside or difflib.get_close_matches(str(name), points, n=1, cutoff=0.0)
        raise HookError(
            f"expected a hook of {of}, got {name!r}. Closest is {near[0]!r}; layers count from 0."
        )
    return [name]


def filters(names_filter: NamesFilter) -> list[HookName]:
    """A filter as a list of names and filters; all names pass None."""
    if names_filter is None:
        return [lambda name: True]
    if isinstance(names_filter, str) or callable(names_filter):
        return [names_filter]
    return [*names_filter]


def listed(condition: Condition) -> list[Hook | Intervention]:
    """The hooks and interventions of a condition."""
    one_hook = isinstance(condition, tuple) and condition and isinstance(condition[0], str)
    if callable(condition) or isinstance(condition, str) or one_hook:
        raise HookError(
            f"expected a list of hooks and interventions, got one: {condition!r}. Put it in a "
            "list; a rule such as 'G !-> V' goes into `knockout` first."
        )
    return list(condition)


def require_reach(
    hooks: Iterable[tuple[str, HookFunction]],
    window: range,
    spans: Spans,
    n_heads: int,
    n_key_value_heads: int,
    backs: tuple[int | None, ...],
) -> None:
    """Refuse a hook (but the user's own) without effect in `window`, such a head, these spans.

    `backs` has the `back` of `SpanHook.reaches` of each layer; empty for None in all. A hook of
    several layers must reach a key in one.
    """

    def back(name: str) -> int | None:
        return backs[names.layer_of(name) or 0] if backs else None

    own = [(name, function) for name, function in hooks if isinstance(function, SpanHook)]
    acting = {id(function) for name, function in own if function.reaches(window, back(name))}
    for name, function in own:
        fits = function.keys is None or function.keys.fits(spans)
        if not (fits and function.where.fits(spans)):
            raise HookError(
                f"expected hooks made from this prompt's spans, got {function.where.name!r} of "
                f"another prompt, of {function.where.n_prompt} positions. Pass the intervention "
                "itself."
            )
        if id(function) not in acting:
            read = "" if function.keys is None else f" to reading {function.keys.name!r}"
            last = f" among the last {back(name)} positions" if read and back(name) else ""
            raise HookError(
                f"expected a run that reaches {function.where.name!r}, got one over "
                f"positions {window.start} to {window.stop - 1} of a prompt of "
                f"{function.where.n_prompt}: it would do nothing{read}{last}. "
                f"{'Name nearer keys, or use' if last else 'Use'} `generate` or `score`, or "
                "generate more tokens."
            )
        few = name.endswith(_ON_KV_HEADS)
        there = n_key_value_heads if few else n_heads
        beyond = [head for head in function.heads or () if not 0 <= head < there]
        if beyond:
            raise HookError(
                f"expected heads from 0 to {there - 1}, got {beyond}. Heads count from 0"
                + (", and keys and values have fewer." if few else ".")
            )


def reaches(hook: Hook, window: range) -> bool:
    """Whether a hook may act on any position of `window`; the user's own may always."""
    return not isinstance(hook[1], SpanHook) or hook[1].reaches(window)


def at_layers(at: str, layers: tuple[int, ...] | None) -> list[HookName]:
    """Names of a block's hook point in `layers`, a filter for all layers, or a name as it is."""
    if not at.startswith(names.IN_BLOCK):
        return [at]
    if layers is None:
        return [lambda name: name.startswith("blocks.") and name.endswith("." + at)]
    return [names.in_block(at, layer) for layer in layers]


def numbers(what: str, given: Iterable[int] | None) -> tuple[int, ...] | None:
    """Layers or heads, each once and in order; None for all."""
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) != 1:
        raise HookError(f"expected a list of {what}, got {given!r}. Write [3], not 3.")
    listed = list(given)
    kinds = "".join(str(getattr(n, "dtype", type(n))) for n in listed)
    whole = all(hasattr(n, "__index__") for n in listed) and "bool" not in kinds  # True is no 1
    chosen = tuple(sorted({int(n) for n in listed})) if whole else tuple(listed)
    if not whole or not chosen or min(chosen) < 0:
        raise HookError(f"expected {what} counted from 0, got {chosen}. None means all {what}.")
    return chosen
