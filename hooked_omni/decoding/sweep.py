"""What does the model say under each of many conditions?

A condition is a list of hooks or interventions. One that acts on generated positions alone leaves
the prompt's keys and values as they are, so all such conditions share one pass over the prompt and
decode as one batch, each row with its own hooks:

1. conditions that do the same to the prompt form a group, and share its pass over the prompt;
2. those that change nothing before the last prompt position share the pass over all the others,
   and run that position in the batch;
3. within a group, every intervention is shown its own rows, in TransformerLens's shapes;
4. over a prefilled prompt (see `prefill.py`), conditions that leave it as it is make no pass.

A condition alone in its group runs as `generate` does, to the bit. So does every condition with a
hook of the user's own: it may act anywhere, and may keep state that other rows must not see.
"""

import sys
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni import names
from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.key_value_cache import KeyValueCache
from hooked_omni.decoder.shared_prefix import SharedPrefix
from hooked_omni.decoding.generate import Capture, Decoder, Generation, one_prompt
from hooked_omni.decoding.prefill import prompt_pass
from hooked_omni.errors import HookError, PromptError
from hooked_omni.hooks.hook_point import HookFunction, LiveHook, edit_of
from hooked_omni.hooks.interventions import Condition, Hook, SpanHook, as_hooks, listed, reaches
from hooked_omni.inputs.prompt import EmbeddedPrompt

__all__ = ["generate_many", "score_many"]


@torch.no_grad()
def generate_many(
    model: HookedDecoder,
    prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
    conditions: Iterable[Condition],
    max_new_tokens: int = 64,
    stop_at_eos: bool = True,
    return_logits: bool = False,
    capture: Capture | None = None,
    memory_budget: int | None = None,
) -> list[Generation]:
    """Greedy captions of one prompt, one under each condition.

    ```python
    sweep = [[], *[[knockout(query="generated", key="video", layers=w)] for w in windows(36)]]
    captions = model.generate_many(prompt, sweep)
    ```

    Args:
        model: The decoder.
        prompt: An embedded prompt, or tokens of plain text.
        conditions: Each a list of hooks or interventions; `[]` is the baseline.
        max_new_tokens: At most this many in each caption.
        stop_at_eos: End a caption with the first of `model.cfg.eos_tokens`; its row then leaves.
        return_logits: Keep the logits of each new token, `[n, d_vocab]`.
        capture: What to measure besides.
        memory_budget: Bytes for the rows' own keys, values and activations; splits the batch.

    Returns:
        Captions in the order of the conditions, each as `generate` gives it: tokens are equal,
        logits within rounding of another order of sums.

    Raises:
        HookError: For a hook that cannot act on this run, before it; or whose edit made a NaN.
        PromptError: For no conditions, no tokens, a batch of prompts, or too small a budget.
    """
    prompt, conditions = one_prompt(model, prompt, max_new_tokens), list(conditions)
    total = prompt.n_pos + max_new_tokens - 1
    captions: dict[int, Generation] = {}
    for batch in _batches(model, prompt, conditions, total, 1, memory_budget):
        logits, cache = batch.start(model, prompt, total)
        decoder = Decoder(
            model,
            prompt,
            cache,
            max_new_tokens,
            stop_at_eos,
            return_logits,
            capture,
            n_rows=len(batch.members),
        )
        with model.hooks([*batch.row_hooks(model, decoder.rows, cache), *decoder.hooks()]):
            made = decoder.run(logits, prompt.n_pos)
        captions |= dict(zip(batch.members, made, strict=True))
    return [captions[i] for i in range(len(conditions))]


@torch.no_grad()
def score_many(
    model: HookedDecoder,
    prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
    tokens: Int[Tensor, " n"],
    conditions: Iterable[Condition],
    memory_budget: int | None = None,
) -> list[Float[Tensor, " n"]]:
    """Log-probability of each token of a given text, under each condition (teacher forcing).

    The text follows the prompt; all its positions run in one pass, as generated positions.

    Args:
        model: The decoder.
        prompt: An embedded prompt, or tokens of plain text.
        tokens: The text.
        conditions: Each a list of hooks or interventions; `[]` is the baseline.
        memory_budget: Bytes for the rows' own keys, values and activations; splits the batch.

    Returns:
        Log-probabilities in nats, float32, in the order of the conditions.

    Raises:
        HookError: For a hook that cannot act on this run, before it; or whose edit made a NaN.
        PromptError: For no conditions, no or unknown tokens, a batch of prompts, or too small a
            budget.
    """
    tokens = torch.as_tensor(tokens, device=model.cfg.device)
    if tokens.ndim != 1:
        raise PromptError(f"expected one text [n], got tokens of shape {tuple(tokens.shape)}.")
    prompt, conditions = one_prompt(model, prompt, len(tokens)), list(conditions)
    text = model.as_prompt(tokens[None]).embeds
    total = prompt.n_pos + len(tokens) - 1
    scores: dict[int, Tensor] = {}
    for batch in _batches(model, prompt, conditions, total, len(tokens), memory_budget):
        logits, cache = batch.start(model, prompt, total)
        logprobs = [logits.float().log_softmax(-1)[:, tokens[:1]]]
        if len(tokens) > 1:
            window, rows = range(prompt.n_pos, total), list(range(len(batch.members)))
            embeds = text[:, :-1].repeat(len(rows), 1, 1)
            with model.hooks(batch.row_hooks(model, rows, cache)):
                final = model.run_pass(embeds, model.context(prompt, window, cache), window)
            for position, token in enumerate(tokens[1:]):
                behind = model.unembed(final[:, position]).float().log_softmax(-1)
                logprobs.append(behind[:, token, None])
        scores |= dict(zip(batch.members, torch.cat(logprobs, 1).unbind(), strict=True))
    return [scores[i] for i in range(len(conditions))]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Conditions that share a pass over the prompt.

    Attributes:
        members: Which conditions these are.
        conditions: The hooks of each.
        on_prompt: Hooks that act on the prompt.
        last_apart: Whether they act on its last position alone, which then runs in the batch.
    """

    members: list[int]
    conditions: list[list[Hook]]
    on_prompt: list[Hook]
    last_apart: bool

    def start(
        self, model: HookedDecoder, prompt: EmbeddedPrompt, total: int
    ) -> tuple[Float[Tensor, "row d_vocab"], KeyValueCache | SharedPrefix]:
        """Logits of the first new token in every row, and the keys and values behind them."""
        rows = len(self.members)
        n_shared = prompt.n_pos - self.last_apart
        capacity = n_shared if rows > 1 else total
        final, cache = prompt_pass(model, prompt, self.on_prompt, n_shared, capacity)
        if rows == 1:
            return model.unembed(final)[:, -1], cache
        shared = SharedPrefix(model.cfg, cache, n_shared, self._first_layers(model), total)
        if n_shared < prompt.n_pos:
            window = range(n_shared, prompt.n_pos)
            with model.hooks(self.row_hooks(model, list(range(rows)), shared)):
                last = prompt.embeds[:, n_shared:].repeat(rows, 1, 1)
                final = model.run_pass(last, model.context(prompt, window, shared), window)
        return model.unembed(final)[:, -1].expand(rows, -1), shared

    def _first_layers(self, model: HookedDecoder) -> list[int]:
        n_layers = model.cfg.n_layers
        first = []
        for condition in self.conditions:
            named = [name for hook, _ in condition for name in model.named(hook)]
            layers = [0 if name == names.EMBED else names.layer_of(name) for name in named]
            first.append(min([layer for layer in layers if layer is not None], default=n_layers))
        return first

    def row_hooks(
        self,
        model: HookedDecoder,
        rows: list[int],
        cache: KeyValueCache | SharedPrefix,
    ) -> list[Hook]:
        """One hook for each name, which shows each row to the hooks of its condition.

        Args:
            model: The decoder.
            rows: Which condition each row of the batch is of; read at every call.
            cache: Where each row is in the batch; read at every call.
        """
        if not isinstance(cache, SharedPrefix):
            return self.conditions[0]
        named: dict[str, dict[int, list[HookFunction]]] = {}
        for row, condition in enumerate(self.conditions):
            for name, function in condition:
                for one in model.named(name):
                    named.setdefault(one, {}).setdefault(row, []).append(function)
        return [(name, RowHooks(rows, cache, functions)) for name, functions in named.items()]


class RowHooks(LiveHook):
    """Shows each row of a batch to the interventions of its condition.

    Rows whose interventions are equal are shown together. Scores and patterns, which are large and
    the sweep's own, are edited in place; of anything else a copy is returned, as by any hook.
    """

    def __init__(
        self, rows: list[int], shared: SharedPrefix, functions: dict[int, list[HookFunction]]
    ) -> None:
        self.rows, self.shared = rows, shared
        together: dict[Hashable, list[int]] = {}
        for row, own in functions.items():
            together.setdefault(tuple(own), []).append(row)
        self.groups = [(members, functions[members[0]]) for members in together.values()]

    def __call__(self, tensor: Tensor, hook: Any) -> Tensor | None:
        """Edit rows of `[row, ...]`, or of scores as `[row, kv_head, group, query, key]`."""
        place = dict(zip(self.rows, self.shared.place, strict=True))
        written = tensor if tensor.ndim == 5 else None
        for members, functions in self.groups:
            here = [place[row] for row in members if row in place]
            if not here:
                continue
            at = _rows(here)
            own = tensor[at]
            if tensor.ndim == 5:  # a copy, since what is written below must not be seen
                own = own.clone(memory_format=torch.contiguous_format)
            seen, edits = own.flatten(1, 2) if tensor.ndim == 5 else own, 0
            for function in functions:
                edited = edit_of(function, seen, hook)
                seen, edits = (seen, edits) if edited is None else (edited, edits + 1)
            if edits:
                hook.current.edits.append(str(hook.name))
                written = tensor.clone() if written is None else written
                written[at] = seen.view(own.shape)
        return None if tensor.ndim == 5 else written


def _rows(chosen: list[int]) -> slice | list[int]:
    """Rows as a slice, which is read and written faster, if they follow each other."""
    first, stop = chosen[0], chosen[-1] + 1
    return slice(first, stop) if chosen == list(range(first, stop)) else chosen


def _batches(
    model: HookedDecoder,
    prompt: EmbeddedPrompt,
    conditions: Sequence[Condition],
    total: int,
    n_query: int,
    memory_budget: int | None,
) -> list[_Batch]:
    if isinstance(conditions, str) or not conditions:
        raise PromptError(
            "expected at least one condition, got none. `[]` among them is a baseline."
        )
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
    most = _most_rows(model, total, prompt.n_pos, n_query, memory_budget)
    return [
        _Batch(
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
        if id(item) not in made:
            made[id(item)] = (
                item,
                as_hooks([item], prompt.spans),
            )  # the item, so its id stays its own
        hooks += made[id(item)][1]
    model.require_runnable(hooks, range(total), prompt.spans)
    return hooks


def _most_rows(
    model: HookedDecoder, total: int, n_pos: int, n_query: int, memory_budget: int | None
) -> int:
    if memory_budget is None:
        return sys.maxsize
    cfg = model.cfg
    kept = 2 * cfg.n_layers * cfg.n_key_value_heads * cfg.d_head * (total - n_pos + 1)
    passing = n_query * (3 * cfg.n_heads * total + 4 * cfg.d_mlp + 8 * cfg.d_model)
    one = (kept + passing) * cfg.dtype.itemsize + 8 * cfg.d_vocab
    if memory_budget < one:
        raise PromptError(
            f"expected a memory budget of at least {one:,} bytes, which one condition needs, got "
            f"{memory_budget:,}. Raise it, or ask for fewer tokens."
        )
    return memory_budget // one
