"""What happens inside the towers? Hook points on the blocks of the Hugging Face model itself.

They stand on its modules for one run, and act in that run alone: other threads, and what a hook
itself embeds, pass them untouched. Nothing is computed in another way.
"""

from collections.abc import Callable, Container, Mapping
from contextvars import ContextVar
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from hooked_omni.errors import HookError, PromptError
from hooked_omni.hooks.hook_point import ForwardState, HookPoint
from hooked_omni.hooks.interventions import as_hooks, filters, named
from hooked_omni.hooks.types import Condition, NamesFilter, TowerCache
from hooked_omni.inputs.prompt import EmbeddedPrompt

Points = Mapping[str, tuple[list[nn.Module], bool]]
"""By name, the modules of a hook point, one of which runs, and whether it is what comes in."""
_UNDER_WAY: ContextVar[object] = ContextVar("the hooked run of this thread", default=None)


def hooked_towers(
    points: Points,
    embed: Callable[[], EmbeddedPrompt],
    names_filter: NamesFilter,
    fwd_hooks: Condition,
) -> tuple[EmbeddedPrompt, TowerCache]:
    """What `embed` returns under hooks, which are gone afterwards, and what passed by name.

    None as `names_filter` caches all that is reached. Facts of an edited prompt have "tower_edits",
    the names where it was edited; to see that it is another one, the towers run again, unedited.

    Raises:
        HookError: For an unknown name, a hook that this prompt does not reach, an edit unlike what
            it takes the place of, one that makes a NaN, and one that the decoder never gets.
    """
    hooks, state = as_hooks(fwd_hooks, None), ForwardState()
    every = [*(name for name, _ in hooks), *filters(names_filter)]
    found = [named(name, points, "these towers") for name in every]
    on = {name: HookPoint() for name in chain(*found)}
    for name, point in on.items():
        point.name, point.current = name, state
    for (_, function), own in zip(hooks, found, strict=False):
        for name in own:
            on[name].add_hook(function)
    cached = {*chain(*found[len(hooks) :])}
    prompt, passed, edits = _run(points, embed, on, cached)
    if missed := [own[0] for own in found if not passed.keys() & own]:
        raise HookError(
            f"expected a prompt that reaches {missed[0]!r}, got one without sound or picture for "
            "this tower: the hook would do nothing. Leave it out, or embed another prompt."
        )
    if edits:
        name, last = list(edits.items())[-1]
        plain, before, _ = _run(points, embed, {name: HookPoint()}, {name})
        pairs = zip((prompt.embeds, prompt.deepstack), (plain.embeds, plain.deepstack), strict=True)
        same = all(a is None or b is None or torch.equal(a, b) for a, b in pairs)
        # Where the last edit restored what was there, the prompt is rightly the same.
        if same and not torch.equal(before[name][-1], last):
            raise HookError(
                f"expected an edit of {name!r} that reaches the decoder, got the same prompt to "
                "the bit: these positions become no token, the model takes an earlier block, or a "
                "norm or rounding hides it. Edit others."
            )
        prompt = replace(prompt, facts={**prompt.facts, "tower_edits": sorted(edits)})
    return prompt, {name: torch.cat(passed[name]) for name in passed if name in cached}


def _run(
    points: Points,
    embed: Callable[[], EmbeddedPrompt],
    on: Mapping[str, HookPoint],
    cached: Container[str],
) -> tuple[EmbeddedPrompt, dict[str, list[Tensor]], dict[str, Tensor]]:
    """The prompt, what passed the points (kept of the `cached`), and each one's latest edit."""
    run, handles = _Run(on, cached), []
    token = _UNDER_WAY.set(run)
    try:
        for name in on:
            modules, incoming = points[name]
            handles += (run.attach(name, module, incoming) for module in modules)
        uncompiled: Any = torch.compiler.disable(embed)
        return uncompiled(), run.passed, run.edits
    except PromptError as error:
        if not run.edits:
            raise
        raise HookError(f"After edits at {sorted(run.edits)}: {error}") from error
    finally:
        _UNDER_WAY.reset(token)
        for handle in handles:
            handle.remove()


class _Run:
    """What passes the hook points of one run of the towers, and what is edited there."""

    def __init__(self, on: Mapping[str, HookPoint], cached: Container[str]) -> None:
        self.on, self.cached = on, cached
        self.passed: dict[str, list[Tensor]] = {}
        self.edits: dict[str, Tensor] = {}

    def attach(self, name: str, module: nn.Module, incoming: bool) -> Any:
        """The handle of a hook on `module`, on what comes in or goes out."""

        # Another thread may call a hook that is just being removed, and then without `rest`.
        def called(_module: nn.Module, args: tuple[Any, ...], rest: Any = None) -> Any:
            if _UNDER_WAY.get() is not self:
                return None
            if incoming:
                return (self._through(name, args[0]), *args[1:]), rest
            if isinstance(rest, Tensor):
                return self._through(name, rest)
            if isinstance(rest, tuple):
                return self._through(name, rest[0]), *rest[1:]
            rest.pooler_output = self._through(name, rest.pooler_output)
            return rest

        if incoming:
            return module.register_forward_pre_hook(called, with_kwargs=True)
        # Before the hooks by which transformers collects hidden states: it must get the edited.
        return module.register_forward_hook(called, prepend=True)

    def _through(self, name: str, tensor: Tensor) -> Tensor:
        inner = _UNDER_WAY.set(None)  # what a hook embeds is no part of this run
        try:
            edited, changed = self.on[name].edit(tensor)
        finally:
            _UNDER_WAY.reset(inner)
        if changed and not torch.equal(edited, tensor):
            self.edits.pop(name, None)  # the latest is the last
            self.edits[name] = edited
        self.passed.setdefault(name, []).extend([edited.clone()] if name in self.cached else [])
        return edited
