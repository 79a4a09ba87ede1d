"""TransformerLens's `ActivationCache`, for norms whose gain is not folded into the weights.

Weights are the checkpoint's own, so `apply_ln` must apply the gain: only then do the parts that it
normalizes add up to the logits. Vision features added after the first blocks are parts as well.
"""

from typing import Any, Literal

import torch
import transformer_lens
from jaxtyping import Float
from torch import Tensor
from transformer_lens.utilities.slice import Slice

from hooked_omni import names
from hooked_omni.errors import HookError
from hooked_omni.hooks.hook_point import LiveHook


class Keep(LiveHook):
    """A hook that keeps what it sees, and changes nothing."""

    def __init__(self, kept: dict[str, Tensor], device: Any, pos_slice: Any) -> None:
        self.kept, self.device = kept, device
        self.cut = None if pos_slice is None else Slice.unwrap(pos_slice)

    def __call__(self, tensor: Tensor, hook: Any) -> None:
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

    def __repr__(self) -> str:
        held = [*self.cache_dict]
        listed = held if len(held) <= 3 else [*held[:2], "...", held[-1]]
        return f"ActivationCache({len(held)} activations: {', '.join(listed)})"

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
        gain, home = self._gain(layer, mlp_input), residual_stack.device
        # Computed again by a norm, which is where its layer is.
        stack = residual_stack.to(gain.device) if recompute_ln else residual_stack
        scaled = (
            super()
            .apply_ln_to_stack(
                stack, layer, mlp_input, pos_slice, batch_slice, has_batch_dim, recompute_ln
            )
            .to(home)
        )
        # TransformerLens recomputes through the whole norm, which has applied the gain already.
        if recompute_ln and self._is_final(layer):
            return scaled
        return scaled * gain.to(home)

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        apply_ln: bool = False,
        pos_slice: Any = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """As in TransformerLens, with vision features as parts named "0_deepstack", ..."""
        parts, labels = super().decompose_resid(
            layer, mlp_input, mode, False, pos_slice, incl_embeds, True
        )
        cfg: Any = self.model.cfg
        n_layers, n_added = cfg.n_layers, cfg.n_deepstack
        last = n_layers if layer in (None, -1) else layer
        if mode == "all" and min(n_added, last):
            added = range(min(n_added, last))
            cut = pos_slice if isinstance(pos_slice, Slice) else Slice(pos_slice)
            features = [cut.apply(self[names.deepstack(i)], dim=-2) for i in added]
            parts = torch.cat([parts, torch.stack(features)])
            labels = [*labels, *(f"{i}_deepstack" for i in added)]
        if apply_ln:
            parts = self.apply_ln_to_stack(parts, layer, mlp_input, pos_slice)
        return (parts, labels) if return_labels else parts

    def get_full_resid_decomposition(self, *args: Any, **kwargs: Any) -> Any:
        """As in TransformerLens; `HookError` if added vision features would be missing."""
        cfg: Any = self.model.cfg
        if cfg.n_deepstack:
            raise HookError(
                "expected a sum of heads, neurons and embeddings, got a model that adds vision "
                f"features after its first {cfg.n_deepstack} blocks. Use `decompose_resid`."
            )
        return super().get_full_resid_decomposition(*args, **kwargs)

    def _stack_neuron_results_apply_ln_projected(
        self,
        layer: int,
        pos_slice: Any,
        neuron_slice: Any,
        project_2d: Float[Tensor, "d_model n_out"],
        mlp_input: bool = False,
    ) -> Tensor:
        gained = project_2d * self._gain(layer, mlp_input)[:, None].to(project_2d.device)
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
