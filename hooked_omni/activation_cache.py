"""TransformerLens's `ActivationCache`, for norms whose gain is not folded into the weights.

TransformerLens divides by the cached scale and leaves the gain to the weights it has folded it
into. Here weights are the checkpoint's own, so `apply_ln` must apply the gain: only then do the
parts that it normalizes add up to the logits.
"""

from typing import Any

import transformer_lens
from jaxtyping import Float
from torch import Tensor
from transformer_lens.utilities.slice import Slice

from hooked_omni import names
from hooked_omni.hook_point import LiveHook

__all__ = ["ActivationCache", "Keep"]


class Keep(LiveHook):
    """A hook that keeps what it sees, and changes nothing."""

    def __init__(self, kept: dict[str, Tensor], device: Any, pos_slice: Any) -> None:
        self.kept, self.device = kept, device
        self.cut = None if pos_slice is None else Slice.unwrap(pos_slice)

    def __call__(self, tensor: Tensor, hook: Any) -> None:
        """Keep `tensor`, or the positions of it that were asked for."""
        stored = tensor.detach()
        if self.cut is not None:
            # A copy, or the slice would keep the whole tensor alive.
            stored = self.cut.apply(stored, dim=names.position_axis(hook.name) - stored.ndim)
            stored = stored.clone()
        elif hook.name == names.EMBED:
            stored = stored.clone()  # the prompt's own embeddings
        self.kept[hook.name] = stored if self.device is None else stored.to(self.device)


class ActivationCache(transformer_lens.ActivationCache):
    """Cached activations by hook name, with TransformerLens's methods."""

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "component *batch_pos d_model"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Float[Tensor, "component *batch_pos_out d_model"]:
        """As in TransformerLens, with the norm's gain: scale by the cached norm, then multiply."""
        scaled = super().apply_ln_to_stack(
            residual_stack, layer, mlp_input, pos_slice, batch_slice, has_batch_dim, recompute_ln
        )
        # TransformerLens recomputes through the whole norm, which has applied the gain already.
        if recompute_ln and self._is_final(layer):
            return scaled
        return scaled * self._gain(layer, mlp_input)

    def _stack_neuron_results_apply_ln_projected(
        self,
        layer: int,
        pos_slice: Any,
        neuron_slice: Any,
        project_2d: Float[Tensor, "d_model n_out"],
        mlp_input: bool = False,
    ) -> Tensor:
        gained = project_2d * self._gain(layer, mlp_input)[:, None]
        return super()._stack_neuron_results_apply_ln_projected(
            layer, pos_slice, neuron_slice, gained, mlp_input
        )

    def _is_final(self, layer: int | None) -> bool:
        return layer in (None, -1, self.model.cfg.n_layers)

    def _gain(self, layer: int | None, mlp_input: bool) -> Float[Tensor, " d_model"]:
        if layer is None or self._is_final(layer):
            norm: Any = self.model.ln_final
        else:
            block = self.model.blocks[layer]
            norm = block.ln2 if mlp_input else block.ln1
        return norm.w
