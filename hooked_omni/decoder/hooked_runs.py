"""Which hooks stand on a decoder, and runs with hooks and caches that are gone afterwards."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedRootModule

from hooked_omni import names
from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.errors import HookError
from hooked_omni.hooks.activation_cache import ActivationCache, Keep
from hooked_omni.hooks.hook_point import ForwardState, HookFunction
from hooked_omni.hooks.interventions import (
    Condition,
    Hook,
    HookName,
    NamesFilter,
    as_hooks,
    filters,
    named,
    require_reach,
)
from hooked_omni.hooks.turns import in_turn
from hooked_omni.inputs.prompt import EmbeddedPrompt
from hooked_omni.inputs.spans import Spans

Input = EmbeddedPrompt | Int[Tensor, "batch pos"] | str | list[str]


class HookedRuns(HookedRootModule):
    """Hooks by name, and runs with them; `forward` is the decoder's."""

    cfg: DecoderConfig
    current: ForwardState

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Condition = (),
        bwd_hooks: Iterable[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        prompt: EmbeddedPrompt | None = None,
    ) -> Iterator["HookedRuns"]:
        """Hooks that live as long as the `with` block; errors as `named`.

        Interventions may stand among them, with the `prompt` whose spans they are for.
        """
        with self.current.turns.block():
            spans = None if prompt is None else prompt.spans
            forward: list[Any] = self._spelled_out(as_hooks(fwd_hooks, spans))
            backward: list[Any] = self._spelled_out(bwd_hooks)
            with super().hooks(forward, backward, reset_hooks_end, clear_contexts):
                yield self

    def add_hook(
        self,
        name: Any,
        hook: HookFunction | None = None,
        *args: Any,
        prompt: EmbeddedPrompt | None = None,
        **kwargs: Any,
    ) -> None:
        """As in TransformerLens; the hook stays until `reset_hooks`. Errors as `named`.

        In place of name and hook, an intervention may stand, with `prompt` as in `hooks`.
        """
        given = [name] if hook is None else [(name, hook)]
        spans = None if prompt is None else prompt.spans
        for one, function in self._spelled_out(as_hooks(given, spans)):
            super().add_hook(one, function, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    def reset_hooks(self, *args: Any, **kwargs: Any) -> None:
        """As in TransformerLens; `HookError` for hooks of another thread that still runs."""
        self.current.turns.inherit()
        with self.current.turns.block(whole=True):
            super().reset_hooks(*args, **kwargs)

    @in_turn
    def run_with_hooks(
        self,
        input: Input,
        fwd_hooks: Condition = (),
        bwd_hooks: Iterable[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **how: Any,
    ) -> Any:
        """What `forward(input, **how)` returns with hooks or interventions, gone afterwards.

        Raises:
            HookError: For a hook that cannot act on this run, or whose edit made a NaN.
        """
        stop = how.get("stop_at_layer")
        forward = self._spelled_out(as_hooks(fwd_hooks, getattr(input, "spans", None)), stop)
        backward = self._spelled_out(bwd_hooks, stop)
        with self.hooks(forward, backward, reset_hooks_end, clear_contexts):
            return self(input, **how)

    @in_turn
    def run_with_cache(  # pyright: ignore[reportIncompatibleMethodOverride]  # a cache, not a dict
        self,
        input: Input,
        names_filter: NamesFilter = None,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        pos_slice: Any = None,
        fwd_hooks: Condition = (),
        **how: Any,
    ) -> tuple[Any, ActivationCache]:
        """What `forward(input, **how)` returns, and the activations that `names_filter` names.

        Caching changes no number, except that it opens the attention of a layer whose scores or
        pattern are cached (see `attention.py`). With `fwd_hooks`, the cache holds what they made.

        None as `names_filter` caches all that is live; as `device`, leaves it where it is, or takes
        what layers on several devices have to the prompt's.
        `remove_batch_dim` drops a batch axis of one; `pos_slice` is a TransformerLens `Slice`.

        Raises:
            HookError: For a name that no live hook point has, or a hook that cannot act.
        """
        kept: dict[str, Tensor] = {}
        together = self.cfg.device if self.cfg.devices else None  # layers can be stacked
        keep = Keep(kept, together if device is None else device, pos_slice)
        stop = how.get("stop_at_layer")
        hooks = self._spelled_out(as_hooks(fwd_hooks, getattr(input, "spans", None)), stop)
        cached = self.filtered(names_filter, stop)
        with self.hooks([*hooks, *((name, keep) for name in cached)]):
            returned = self(input, **how)
        cache = ActivationCache(kept, self)
        if remove_batch_dim:
            cache.remove_batch_dim(len(next(iter(kept.values()))) if kept else 1)
        return returned, cache

    def require_runnable(self, hooks: Iterable[Hook], window: range, spans: Spans) -> None:
        """Refuse (`HookError`) hooks of no live hook point, or without effect on `window`."""
        named = self._spelled_out(hooks)
        cfg = self.cfg
        require_reach(named, window, spans, cfg.n_heads, cfg.n_key_value_heads, cfg.windows)

    def named(self, name: HookName, stop: int | None = None) -> list[str]:
        """Names of the live hook points that `name` is, or passes, before layer `stop`.

        Raises:
            HookError: If there is none: with the nearest name, or the flag that turns it on.
        """
        points = self._live(stop) if callable(name) else self.hook_dict
        found = named(name, points, f"this {self.cfg.n_layers}-layer model")
        flag = None if callable(name) else names.flag_of(name)
        if flag is not None and not getattr(self.cfg, flag):
            raise HookError(
                f"expected a live hook point, got {name!r}. Call `model.set_{flag}(True)` first."
            )
        return found

    def active_hooks(self) -> list[tuple[str, HookFunction]]:
        """Forward hooks that stand on the model now."""
        return [
            (name, handle.user_hook)
            for name, point in self.hook_dict.items()
            for handle in point.fwd_hooks
            if handle.user_hook is not None
        ]

    def has_backward_hooks(self) -> bool:
        """Whether any hook waits for gradients."""
        return any(point.bwd_hooks for point in self.hook_dict.values())

    @in_turn
    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Whether `attn.hook_result` is live, `[batch, pos, head, d_model]`."""
        self.cfg.use_attn_result = use_attn_result

    @in_turn
    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Whether `attn.hook_q_input`, `hook_k_input` and `hook_v_input` are live."""
        self.cfg.use_split_qkv_input = use_split_qkv_input

    @in_turn
    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Whether `attn.hook_attn_in` is live, `[batch, pos, head, d_model]`."""
        self.cfg.use_attn_in = use_attn_in

    @in_turn
    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Whether `hook_mlp_in` is live, `[batch, pos, d_model]`."""
        self.cfg.use_hook_mlp_in = use_hook_mlp_in

    @contextmanager
    def every_hook_point(self) -> Iterator[None]:
        """All hook points that can be are live as long as the `with` block."""
        with self.current.turns.block():
            before = {flag: getattr(self.cfg, flag) for flag in names.FLAGS}
            try:
                for flag in before.keys() - (names.READ_WEIGHTS if self.cfg.quantized else ()):
                    setattr(self.cfg, flag, True)
                yield
            finally:
                for flag, value in before.items():
                    setattr(self.cfg, flag, value)

    def _spelled_out(
        self, hooks: Iterable[Hook], stop: int | None = None
    ) -> list[tuple[str, HookFunction]]:
        return [(one, hook) for name, hook in hooks for one in self.named(name, stop)]

    def _live(self, stop: int | None = None) -> list[str]:
        flags = {name: names.flag_of(name) for name in self.hook_dict}
        live = [name for name, flag in flags.items() if flag is None or getattr(self.cfg, flag)]
        if stop is None:
            return live
        first = range(self.cfg.n_layers)[:stop]
        return [n for n in live if n == names.EMBED or names.layer_of(n) in first]

    def filtered(self, names_filter: NamesFilter, stop: int | None = None) -> list[str]:
        """Names of the live hook points that a filter passes; all for None."""
        return [one for name in filters(names_filter) for one in self.named(name, stop)]
