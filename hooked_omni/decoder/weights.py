"""Weights under the names that `ActivationCache`, `patching`, `head_detector` look for."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import FactoredMatrix

from hooked_omni.decoder.adapters import merged
from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.errors import CheckpointError
from hooked_omni.inputs.precision import has_scheme, is_quantized

_OF_ATTENTION = frozenset({"W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"})
_OF_MLP = frozenset({"W_gate", "W_in", "W_out", "b_out"})


def matrix(projection: nn.Module) -> Float[Tensor, "out in"]:
    """Weights of a projection, as peft would merge its; `CheckpointError` for a quantized one."""
    weight: Any = getattr(merged(projection), "weight", None)
    if is_quantized(weight) or has_scheme(projection):
        raise CheckpointError(
            f"expected floating-point weights to view, got a {type(projection).__name__}, which is "
            "quantized: there is no one matrix. Load the original checkpoint."
        )
    return weight


class WeightViews(nn.Module):
    """What a decoder with `embed`, `blocks` and `unembed` is to TransformerLens."""

    cfg: DecoderConfig
    to_single_token: Callable[[str], int]
    embed: nn.Embedding
    blocks: nn.ModuleList
    unembed: nn.Linear

    def tokens_to_residual_directions(
        self, tokens: str | int | Int[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape d_model"]:
        """Unembedding direction of each token, to be read after the final norm."""
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        tokens = torch.as_tensor(tokens, device=self.unembed.weight.device)
        return self.unembed.weight[tokens].to(self.cfg.device)

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Sum of the output biases before `layer`: zero, these decoders have none."""
        return self.unembed.weight.new_zeros(self.cfg.d_model)

    def blocks_with(self, name: str) -> list[tuple[int, nn.Module]]:
        """Layer and block of every block that has a part of this name, such as "attn"."""
        return [(layer, b) for layer, b in enumerate(self.blocks) if hasattr(b, name)]

    @property
    def QK(self) -> FactoredMatrix:
        """`[layer, head, d_model, d_model]`, `W_Q W_K^T` of every query head, before rotation."""
        return FactoredMatrix(self.W_Q, self._of_query_heads(self.W_K).transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """`[layer, head, d_model, d_model]`, `W_V W_O` of every query head."""
        return FactoredMatrix(self._of_query_heads(self.W_V), self.W_O)

    def _of_query_heads(
        self, weights: Float[Tensor, "layer kv_head d_model d_head"]
    ) -> Float[Tensor, "layer head d_model d_head"]:
        groups = self.cfg.n_heads // self.cfg.n_key_value_heads
        return weights.repeat_interleave(groups, dim=1)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.embed.weight

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.unembed.weight.T

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """Unembedding bias: zero, these decoders have none."""
        return self.unembed.weight.new_zeros(self.cfg.d_vocab)

    def __getattr__(self, name: str) -> Any:
        """`W_Q` ... `W_out`, `b_Q` ... `b_out` of all layers, stacked into a new tensor."""
        if name in _OF_ATTENTION:
            parts = [block.attn for block in self.blocks]
        elif name in _OF_MLP:
            parts = [block.mlp for block in self.blocks]
        else:
            return super().__getattr__(name)
        return torch.stack([getattr(part, name).to(self.cfg.device) for part in parts])
