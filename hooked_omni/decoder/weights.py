"""Tokens and weights under the names that TransformerLens's helpers expect.

`ActivationCache`, `patching` and `head_detector` look for these on any model they are given.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.errors import PromptError

__all__ = ["WeightViews"]

_OF_ATTENTION = frozenset({"W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"})
_OF_MLP = frozenset({"W_gate", "W_in", "W_out", "b_out"})


class WeightViews(nn.Module):
    """What a decoder with `embed`, `blocks` and `unembed` is to TransformerLens."""

    cfg: DecoderConfig
    tokenizer: Any
    embed: nn.Embedding
    blocks: nn.ModuleList
    unembed: nn.Linear

    def to_tokens(
        self, text: str | list[str], prepend_bos: bool = False
    ) -> Int[Tensor, "batch pos"]:
        """Tokens of plain text of equal lengths; these models have no token to prepend.

        Raises:
            PromptError: Without a tokenizer, with `prepend_bos`, or for unequal lengths.
        """
        if prepend_bos:
            raise PromptError("expected prepend_bos=False, got True: these models have no BOS.")
        rows = [self._tokenizer().encode(t) for t in ([text] if isinstance(text, str) else text)]
        if len({len(row) for row in rows}) != 1:
            raise PromptError(
                f"expected texts of one length, got {[len(r) for r in rows]} tokens. Run them one "
                "at a time: padding would move their positions."
            )
        return torch.tensor(rows, device=self.cfg.device)

    def to_single_token(self, text: str) -> int:
        """The one token of `text`.

        Raises:
            PromptError: Without a tokenizer, or if `text` is several tokens.
        """
        tokens = self._tokenizer().encode(text)
        if len(tokens) != 1:
            raise PromptError(f"expected one token, got {len(tokens)} for {text!r}. Split it.")
        return tokens[0]

    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise PromptError(
                "expected a model with a tokenizer, got none. Pass `processor=` to `from_hf`."
            )
        return self.tokenizer

    def tokens_to_residual_directions(
        self, tokens: str | int | Int[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape d_model"]:
        """Unembedding direction of each token, to be read after the final norm."""
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        return self.unembed.weight[torch.as_tensor(tokens, device=self.cfg.device)]

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """Sum of the output biases before `layer`: zero, these decoders have none."""
        return self.unembed.weight.new_zeros(self.cfg.d_model)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Embedding."""
        return self.embed.weight

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """Unembedding, a view."""
        return self.unembed.weight.T

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """Unembedding bias: zero, these decoders have none."""
        return self.unembed.weight.new_zeros(self.cfg.d_vocab)

    def __getattr__(self, name: str) -> Any:
        """`W_Q` ... `W_out`, `b_Q` ... `b_out` of all layers, stacked into a new tensor."""
        if name in _OF_ATTENTION:
            return torch.stack([getattr(block.attn, name) for block in self.blocks])
        if name in _OF_MLP:
            return torch.stack([getattr(block.mlp, name) for block in self.blocks])
        return super().__getattr__(name)
