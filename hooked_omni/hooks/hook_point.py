"""A TransformerLens `HookPoint` that cannot lose an edit.

TransformerLens hands a hook the live tensor: an edit in place also changes a cache filled earlier,
or the prompt's own embeddings. Here a hook gets a copy, and whatever it does to the copy, in place
or by returning another tensor, is the edit. A hook that does neither leaves every number as it was.

Where gradients are on, the copy is part of the graph, although the weights are frozen: a hook may
keep it and differentiate by it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal

import torch
import transformer_lens.hook_points as tl
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_omni.errors import HookError
from hooked_omni.hooks.turns import Turns
from hooked_omni.hooks.types import HookFunction

_IN_A_STEP = (
    "This pass is over new positions alone: the prompt's passed in the first one. Return early if "
    "`hook.window.start > 0`, or count positions from there."
)
_KEPT_WHOLE = 2**14  # numbers, such as those of a decode step: one check for all layers is faster


class LiveHook(ABC):
    """Base of this project's own hooks, which get the live tensor instead of a copy.

    They may edit it in place only where nothing else can hold it (`ScoreRows`).
    """

    @abstractmethod
    def __call__(self, tensor: Tensor, hook: Any) -> Tensor | None:
        """Look at `tensor`, or return another in its place."""


@dataclass
class ForwardState:
    """What the pass through the decoder that is under way covers, and what edited it."""

    window: range = range(0)  # absolute positions in the blocks
    edits: list[str] = field(default_factory=list)  # hook points where a hook edited
    real: Bool[Tensor, "batch pos"] | None = None  # positions that are no padding; None for all
    watched: list[Tensor] = field(default_factory=list)  # must be finite at the end of the pass
    turns: Turns = field(default_factory=Turns)

    def watch(self, tensor: Float[Tensor, "row pos *rest"]) -> None:
        """Have numbers checked when the pass ends: what reads them may hide a NaN."""
        if self.real is not None:
            tensor = tensor[self.real.expand(tensor.shape[:2]).to(tensor.device)]
        small = tensor.numel() <= _KEPT_WHOLE
        self.watched += [tensor.reshape(-1)] if small else [t.view(1) for t in tensor.aminmax()]


class HookPoint(tl.HookPoint):
    """Identity that passes its tensor through hooks, and takes their edits."""

    def __init__(self) -> None:
        super().__init__()
        self.current = ForwardState()

    def __call__(self, x: Tensor) -> Tensor:
        """`x`, or what the hooks made of it; `HookError` for a backward hook without gradients."""
        # There are hundreds of hook points in a pass, and most have nothing to call.
        if not self.hooked and not self._backward_pre_hooks:
            return x
        if len(self._forward_hooks) + len(self._forward_pre_hooks) > len(self.fwd_hooks):
            raise HookError(
                f"expected hooks put on {self.name!r} by `add_hook`, or passed to a run, got "
                "PyTorch's own, whose edits could open the future or be lost. Use one of the two."
            )
        if self._backward_hooks:
            if not torch.is_grad_enabled() or not x.is_floating_point():
                why = "numbers that are no integers" if torch.is_grad_enabled() else "gradients"
                raise HookError(
                    f"expected {why} for the backward hooks on {self.name!r}, got a run without. "
                    "Leave `no_grad` and `inference_mode`; indices of experts have no gradient."
                )
            x = _in_graph(x)
        return super().__call__(x)

    def edit(self, x: Tensor) -> tuple[Tensor, bool]:
        """`x` after the hooks, and whether one of them edited it."""
        before = len(self.current.edits)
        return self(x), len(self.current.edits) > before

    @property
    def hooked(self) -> bool:
        """Whether anything is attached here."""
        return bool(self._forward_hooks or self._forward_pre_hooks or self._backward_hooks)

    @property
    def by_query(self) -> bool:
        """Whether all hooks here take blocks of queries; see `by_query`."""
        functions = [handle.user_hook for handle in self.fwd_hooks]
        return not self.bwd_hooks and all(getattr(f, "by_query", False) for f in functions)

    @property
    def window(self) -> range:
        """Absolute positions of the pass under way: the prompt's, then one in each decode step.

        For hooks on scores and patterns `by_query`, those of the block of queries.
        """
        return self.current.window

    def add_hook(
        self, hook: HookFunction, dir: Literal["fwd", "bwd"] = "fwd", *args: Any, **kwargs: Any
    ) -> tl.LensHandle:
        """As in TransformerLens; a forward hook works on a copy, and its edit is checked."""
        called = hook if dir == "bwd" else self._checked(hook)
        with self.current.turns.block():
            self.current.turns.points.add(self)
            handle = super().add_hook(called, dir, *args, **kwargs)
        handle.user_hook = hook
        return handle

    def _checked(self, function: HookFunction) -> HookFunction:
        def checked(tensor: Tensor, hook: tl.HookPoint) -> Tensor | None:
            copy = tensor if isinstance(function, LiveHook) else _copied(tensor)
            edit = _edit(function, copy, tensor, hook)
            if edit is not None:
                self.current.edits.append(str(self.name))
                return edit
            # The run goes on from what the hook may have kept, but in memory of its own.
            return copy.clone() if copy is not tensor and copy.requires_grad else None

        return checked


def by_query(function: HookFunction) -> HookFunction:
    """`function` for scores and patterns too large to be whole: called for blocks of queries.

    ```python
    @by_query
    def measure(pattern, hook):  # [batch, head, query, key], queries at hook.window
        paid[list(hook.window)] = pattern[0, :, :, audio].sum(-1).mean(0)
    ```

    Each block has all keys. It must do the same to each query whatever others are in the block.
    """

    @wraps(function)
    def of_block(tensor: Tensor, hook: Any) -> Tensor | None:
        return function(tensor, hook=hook)

    vars(of_block)["by_query"] = True
    return of_block


def edit_of(function: HookFunction, tensor: Tensor, hook: Any) -> Tensor | None:
    """What `function` makes of `tensor`, or None if it only looked; `HookError` if unlike it."""
    copy = tensor if isinstance(function, LiveHook) else _copied(tensor)
    return _edit(function, copy, tensor, hook)


def exact_where(
    same: Bool[Tensor, "*cell"], exact: Float[Tensor, "*shape"], hooked: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """`hooked`, with the value of `exact`, to the bit, where they are the `same` but for rounding.

    The gradient is that of `hooked` everywhere, so it goes through the hook point.
    """
    return torch.where(same, exact.detach() + (hooked - hooked.detach()), hooked)


def _in_graph(tensor: Tensor) -> Tensor:
    if tensor.requires_grad:
        return tensor
    # Autograd refuses tensors that were made in inference mode.
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).requires_grad_()


def _copied(tensor: Tensor) -> Tensor:
    if torch.is_inference_mode_enabled():
        # Tensors made in inference mode count no versions, and versions reveal an edit in place.
        with torch.inference_mode(False):
            return tensor.clone().detach()
    if torch.is_grad_enabled() and tensor.is_floating_point():
        tensor = _in_graph(tensor)  # a leaf could not be edited in place: copied below
    return tensor.clone()


def _edit(function: HookFunction, copy: Tensor, tensor: Tensor, hook: Any) -> Tensor | None:
    if copy is tensor:
        return function(tensor, hook=hook)
    version = copy._version
    try:
        returned = function(copy, hook=hook)
    except (IndexError, RuntimeError) as error:
        named = type(error) is RuntimeError and any(w in str(error) for w in ("size", "shape"))
        if hook.window.start == 0 or not (named or type(error) is IndexError):
            raise
        raise HookError(
            f"expected the hook on {hook.name!r} to take shape {tuple(tensor.shape)}, got: "
            f"{error}. {_IN_A_STEP}"
        ) from error
    edited = copy if returned is None else returned
    if edited is copy and copy._version == version and torch.equal(copy, tensor):
        return None
    if not isinstance(edited, Tensor):
        raise HookError(
            f"expected the hook on {hook.name!r} to return a tensor or None, got "
            f"{type(edited).__name__}. Return the edited activation."
        )
    for what in ("layout", "shape", "dtype", "device"):
        expected, came = getattr(tensor, what), getattr(edited, what)
        if expected != came:
            expected, came = (tuple(v) if what == "shape" else v for v in (expected, came))
            step = f" {_IN_A_STEP}" if hook.window.start > 0 else ""
            raise HookError(
                f"expected the hook on {hook.name!r} to return {what} {expected}, got {came}. "
                f"Return a tensor like the one that came in.{step}"
            )
    return edited
