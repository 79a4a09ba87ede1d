"""A TransformerLens `HookPoint` that cannot lose an edit.

TransformerLens hands a hook the live tensor. A hook that edits it in place then also changes every
other holder of that tensor: a cache filled earlier, the prompt's own embeddings. Here a hook gets
a copy, and whatever it does to the copy, in place or by returning another tensor, is the edit. A
hook that does neither leaves every number as in the run without it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import transformer_lens.hook_points as tl
from torch import Tensor

from hooked_omni.errors import HookError

__all__ = ["ForwardState", "HookFunction", "HookPoint", "LiveHook", "edit_of"]

HookFunction = Callable[..., Tensor | None]
"""A TransformerLens hook, `fn(activation, hook=hook_point)`."""


class LiveHook(ABC):
    """Base of this project's own hooks, which get the live tensor instead of a copy.

    So they may not edit it in place, unless nothing else can hold it: the scores and patterns of a
    sweep's batch are the one such case (`ScoreRows`).
    """

    @abstractmethod
    def __call__(self, tensor: Tensor, hook: Any) -> Tensor | None:
        """Look at `tensor`, or return another in its place."""


@dataclass
class ForwardState:
    """What the pass through the decoder that is under way covers, and what edited it.

    Attributes:
        window: Absolute positions whose residual stream runs through the blocks.
        edits: Names of the hook points at which a hook changed something, in order.
    """

    window: range = range(0)
    edits: list[str] = field(default_factory=list)


class HookPoint(tl.HookPoint):
    """Identity that passes its tensor through hooks, and takes their edits."""

    def __init__(self) -> None:
        super().__init__()
        self.current = ForwardState()

    def __call__(self, x: Tensor) -> Tensor:
        """`x`, or what the hooks made of it."""
        # There are hundreds of hook points in a pass, and most have nothing to call.
        return super().__call__(x) if self.hooked or self._backward_pre_hooks else x

    @property
    def hooked(self) -> bool:
        """Whether anything is attached here."""
        return bool(self._forward_hooks or self._forward_pre_hooks or self._backward_hooks)

    @property
    def window(self) -> range:
        """Absolute positions of the pass under way: a decode step covers one.

        ```python
        def hook_fn(resid, hook):
            print(hook.window)       # range(0, 3250), then range(3250, 3251), ...
        ```
        """
        return self.current.window

    def add_hook(
        self,
        hook: HookFunction,
        dir: Literal["fwd", "bwd"] = "fwd",
        *args: Any,
        **kwargs: Any,
    ) -> tl.LensHandle:
        """As in TransformerLens; a forward hook works on a copy, and its edit is checked."""
        called = hook if dir == "bwd" else self._checked(hook)
        handle = super().add_hook(called, dir, *args, **kwargs)
        handle.user_hook = hook
        return handle

    def _checked(self, function: HookFunction) -> HookFunction:
        def checked(tensor: Tensor, hook: tl.HookPoint) -> Tensor | None:
            edit = edit_of(function, tensor, hook)
            if edit is not None:
                self.current.edits.append(str(self.name))
            return edit

        return checked


def edit_of(function: HookFunction, tensor: Tensor, hook: Any) -> Tensor | None:
    """What `function` makes of `tensor`, or None if it only looked."""
    if isinstance(function, LiveHook):
        return function(tensor, hook=hook)
    # Tensors made in inference mode count no versions, and versions reveal an edit in place.
    inference = tensor.is_inference() or torch.is_inference_mode_enabled()
    with torch.inference_mode(False) if inference else nullcontext():
        copy = tensor.clone()
    version = copy._version
    returned = function(copy, hook=hook)
    edited = copy if returned is None else returned
    if edited is copy and copy._version == version and torch.equal(copy, tensor):
        return None
    if not isinstance(edited, Tensor):
        raise HookError(
            f"expected the hook on {hook.name!r} to return a tensor or None, got "
            f"{type(edited).__name__}. Return the edited activation."
        )
    for what in ("shape", "dtype", "device"):
        expected, came = getattr(tensor, what), getattr(edited, what)
        if expected != came:
            expected, came = (tuple(v) if what == "shape" else v for v in (expected, came))
            raise HookError(
                f"expected the hook on {hook.name!r} to return {what} {expected}, got {came}. "
                "Return a tensor like the one that came in."
            )
    return edited
