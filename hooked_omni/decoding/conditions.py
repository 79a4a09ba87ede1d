"""Which conditions of a sweep can share a pass, and what does each row of the batch see?

1. Conditions that do the same to the prompt form a group, and share its pass over the prompt.
2. Those that change nothing before the last prompt position share the pass over all the others,
   and run that position in the batch.
3. Within a group, every intervention gets its own rows, in TransformerLens's shapes.
4. A condition with a hook of the user's own is a group by itself: it may act anywhere, and keep
   state that other rows must not see.
"""

import sys
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_omni import names
from hooked_omni.decoder.attention import require_readable
from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.key_value_cache import KeyValueCache
from hooked_omni.decoder.shared_prefix import SharedPrefix
from hooked_omni.decoding.prefill import prompt_pass
from hooked_omni.errors import HookError, PromptError
from hooked_omni.hooks.hook_point import HookFunction, LiveHook, edit_of
from hooked_omni.hooks.interventions import Condition, Hook, SpanHook, as_hooks, listed, reaches
from hooked_omni.inputs.prompt import EmbeddedPrompt


@dataclass(frozen=True, eq=False)
class Batch:
    """Conditions that share a pass over the prompt."""

    members: list[int]  # which conditions these are
    conditions: list[list[Hook]]  # the hooks of each
    on_prompt: list[Hook]  # hooks that act on the prompt
    last_apart: bool  # whether on its last position alone, which then runs in the batch

    def start(
        self, model: HookedDecoder, prompt: EmbeddedPrompt, total: int
    ) -> tuple[Float[Tensor, "row d_vocab"], KeyValueCache | SharedPrefix]:
        """Logits of the first new token in every row, and the keys and values up to there."""
        rows = len(self.members)
        n_shared = prompt.n_pos - self.last_apart
        capacity = n_shared if rows > 1 else total
        final, cache = prompt_pass(model, prompt, self.on_prompt, n_shared, capacity)
        if rows == 1:
            return model.logits_of(final)[:, -1], cache
        shared = SharedPrefix(model.cfg, cache, n_shared, self._first_layers(model), total)
        if n_shared < prompt.n_pos:
            window = range(n_shared, prompt.n_pos)
            with model.hooks(self.row_hooks(model, shared)):
                last = prompt.embeds[:, n_shared:].repeat(rows, 1, 1)
                final = model.run_pass(last, model.context(prompt, window, shared), window)
        return model.logits_of(final)[:, -1].expand(rows, -1), shared

    def _first_layers(self, model: HookedDecoder) -> list[int]:
        n_layers = model.cfg.n_layers
        first = []
        for condition in self.conditions:
            named = [name for hook, _ in condition for name in model.named(hook)]
            layers = [0 if name == names.EMBED else names.layer_of(name) for name in named]
            first.append(min([layer for layer in layers if layer is not None], default=n_layers))
        return first

    def row_hooks(self, model: HookedDecoder, cache: KeyValueCache | SharedPrefix) -> list[Hook]:
        """One hook for each name, which calls each condition's hooks with their rows.

        Which rows are computed, and where in the batch, is read at every call.
        """
        if not isinstance(cache, SharedPrefix):
            return self.conditions[0]
        named: dict[str, dict[int, list[HookFunction]]] = {}
        for row, condition in enumerate(self.conditions):
            for name, function in condition:
                for one in model.named(name):
                    named.setdefault(one, {}).setdefault(row, []).append(function)
        return [
            (name, (ScoreRows if name.endswith(names.PATTERN_LIKE) else Rows)(cache, own))
            for name, own in named.items()
        ]


class Rows(LiveHook):
    """Returns a copy with the edits of each row's hooks; rows whose hooks are equal go together."""

    def __init__(self, shared: SharedPrefix, functions: dict[int, list[HookFunction]]) -> None:
        self.shared = shared
        together: dict[Hashable, list[int]] = {}
        for row, own in functions.items():
            together.setdefault(tuple(own), []).append(row)
        self.groups = [(members, functions[members[0]]) for members in together.values()]

    def __call__(self, tensor: Tensor, hook: Any) -> Tensor | None:
        """Edit `[row, ...]`."""
        written = None
        for at, functions in self.present():
            edited = edited_by(functions, tensor[at], hook)
            if edited is not None:
                written = tensor.clone() if written is None else written
                written[at] = edited
        return written

    def present(self) -> Iterator[tuple[slice | list[int], list[HookFunction]]]:
        """Where each group's rows are in the batch now, and their hooks."""
        place = dict(zip(self.shared.rows, self.shared.place, strict=True))
        for members, functions in self.groups:
            here = [place[row] for row in members if row in place]
            if here:
                yield _slice_or_list(here), functions


class ScoreRows(Rows):
    """The same for scores and patterns, which are large: edits are written into the batch's own.

    `RowsContext` has just made this tensor and nothing else holds it, so that is safe here.
    """

    def __call__(self, tensor: Tensor, hook: Any) -> None:
        """Edit `[row, kv_head, group, query, key]`; hooks see `[row, head, query, key]`."""
        for at, functions in self.present():
            if (bounds := _bounds(functions, tensor, hook)) is not None:
                rows = tensor[at]
                for bound in bounds:
                    torch.minimum(rows, bound, out=rows)
                # As no other score changes, the future stays closed, and this is all to check.
                require_readable(rows, hook)
                if not isinstance(at, slice):
                    tensor[at] = rows
                continue
            own = tensor[at].clone(memory_format=torch.contiguous_format)
            edited = edited_by(functions, own.flatten(1, 2), hook)
            if edited is not None:
                hook.current.edits.append(str(hook.name))
                tensor[at] = edited.view(own.shape)


def _bounds(functions: list[HookFunction], scores: Tensor, hook: Any) -> list[Tensor] | None:
    """Bounds on scores `[..., key]`, if these hooks do nothing else; several times faster."""
    window = hook.window
    bounds = [one.bound_on(scores, window) for one in functions if isinstance(one, SpanHook)]
    known = [bound for bound in bounds if bound is not None]
    return known if len(known) == len(functions) else None


def edited_by(functions: list[HookFunction], seen: Tensor, hook: Any) -> Tensor | None:
    """What hooks make of a tensor, one after the other; None if all only looked."""
    edited = None
    for function in functions:
        edit = edit_of(function, seen, hook)
        if edit is not None:
            seen = edited = edit
    return edited


def _slice_or_list(rows: list[int]) -> slice | list[int]:
    """Rows as a slice, which is read and written faster, if they follow each other."""
    first, stop = rows[0], rows[-1] + 1
    return slice(first, stop) if rows == list(range(first, stop)) else rows


def batches(
    model: HookedDecoder,
    prompt: EmbeddedPrompt,
    conditions: Sequence[Condition],
    total: int,
    n_query: int,
    memory_budget: int | None,
    share_last: bool = False,
) -> list[Batch]:
    """Conditions in as few batches as what they do to the prompt, and the memory, allow.

    Of each row, `n_query` positions run in one pass, up to `total` with the prompt's. With
    `share_last`, conditions that leave the prompt as it is run its last position, too, in the batch
    of those that do not: a pass less, and logits to rounding.
    """
    if isinstance(conditions, str) or not conditions:
        raise PromptError("expected at least one condition, got none. `[]` is a baseline.")
    standing = sorted({str(name) for name, _ in model.active_hooks()})
    if standing:
        raise HookError(
            f"expected a model without hooks of its own, got some at {standing[:3]}: they would "
            "see all rows of the batch. Put them into the conditions, or `model.reset_hooks()`."
        )
    made: dict[int, tuple[Any, list[Hook]]] = {}
    every = [_hooks(model, prompt, condition, total, made) for condition in conditions]
    groups: dict[Hashable, list[int]] = {}
    for i, hooks in enumerate(every):
        own = not all(isinstance(function, SpanHook) for _, function in hooks)
        groups.setdefault(i if own else _effect(hooks, prompt.n_pos), []).append(i)
    if share_last and _LAST in groups and () in groups:
        groups[_LAST] += groups.pop(())
    most = most_rows(model.cfg, total, prompt.n_pos, n_query, memory_budget)
    return [
        Batch(
            members=members[first : first + most],
            conditions=[every[i] for i in members[first : first + most]],
            on_prompt=_on_prompt(every[members[first]], prompt.n_pos),
            last_apart=effect == _LAST and len(members[first : first + most]) > 1,
        )
        for effect, members in groups.items()
        for first in range(0, len(members), most)
    ]


_LAST = "last"


def _effect(hooks: list[Hook], n_pos: int) -> Hashable:
    """What hooks do to the prompt, as a key that is equal for the same."""
    on_prompt = _on_prompt(hooks, n_pos)
    before_last = range(n_pos - 1)
    if on_prompt and before_last and not any(reaches(hook, before_last) for hook in on_prompt):
        return _LAST
    return tuple((name, id(function)) for name, function in on_prompt)


def _on_prompt(hooks: list[Hook], n_pos: int) -> list[Hook]:
    return [hook for hook in hooks if reaches(hook, range(n_pos))]


def _hooks(
    model: HookedDecoder,
    prompt: EmbeddedPrompt,
    condition: Condition,
    total: int,
    made: dict[int, tuple[Any, list[Hook]]],
) -> list[Hook]:
    """Hooks of a condition; an intervention that stands in several gives the same ones to each."""
    hooks: list[Hook] = []
    for item in listed(condition):
        if id(item) not in made:  # kept with the item, so that its id stays its own
            made[id(item)] = item, as_hooks([item], prompt.spans)
        hooks += made[id(item)][1]
    model.require_runnable(hooks, range(total), prompt.spans)
    return hooks


def row_bytes(cfg: DecoderConfig, total: int, n_pos: int, n_query: int) -> int:
    """Memory of one condition's row, of which `n_query` positions run in one pass."""
    kept = 2 * cfg.n_layers * cfg.n_key_value_heads * cfg.d_head * (total - n_pos + 1)
    passing = n_query * (3 * cfg.n_heads * total + 4 * cfg.d_mlp + 8 * cfg.d_model)
    return (kept + passing) * cfg.dtype.itemsize + 8 * cfg.d_vocab


def most_rows(
    cfg: DecoderConfig, total: int, n_pos: int, n_query: int, memory_budget: int | None
) -> int:
    """How many rows fit a budget; `PromptError` for none."""
    if memory_budget is None:
        return sys.maxsize
    one = row_bytes(cfg, total, n_pos, n_query)
    if memory_budget < one:
        raise PromptError(
            f"expected a memory budget of at least {one:,} bytes, which one condition needs, got "
            f"{memory_budget:,}. Raise it, or generate fewer tokens."
        )
    return memory_budget // one
