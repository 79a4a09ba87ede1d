"""What would each layer say at each position?

A logit lens unembeds the residual stream after every block. "norm" puts the final norm before the
unembedding, as the model itself does behind its last block; "raw" leaves it out, as the released
scripts of arXiv 2604.02605 do. Everything is reduced inside the hooks of one pass, a few positions
at a time: logits of all layers and positions never exist together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni import names
from hooked_omni.errors import PromptError
from hooked_omni.generate import one_prompt
from hooked_omni.hook_point import LiveHook
from hooked_omni.prompt import EmbeddedPrompt

if TYPE_CHECKING:
    from hooked_omni.transformer import HookedTransformer

__all__ = ["LENSES", "LensKind", "Readout", "lens_logits", "read_lens"]

LensKind = Literal["norm", "raw"]
LENSES: tuple[LensKind, ...] = ("norm", "raw")

CHUNK_BYTES = 2**27
"""Logits of one chunk, with what is computed from them."""
_BYTES_A_LOGIT = 16  # in the model's dtype, as float32, and twice more for sums and ranks


@dataclass(frozen=True, eq=False)
class Readout:
    """What a lens reads, on the CPU.

    Attributes:
        tokens: The likeliest tokens, best first.
        logprobs: Their log-probabilities, in nats.
        asked_tokens: The likeliest token of each group that was asked for.
        asked_logprobs: Its log-probability, in nats.
        asked_ranks: How many tokens are likelier than it, plus one.
    """

    tokens: Int[Tensor, "layer pos k"]
    logprobs: Float[Tensor, "layer pos k"]
    asked_tokens: Int[Tensor, "layer pos group"]
    asked_logprobs: Float[Tensor, "layer pos group"]
    asked_ranks: Int[Tensor, "layer pos group"]


def lens_logits(
    model: "HookedTransformer", resid: Float[Tensor, "pos d_model"], kind: LensKind = "norm"
) -> Float[Tensor, "pos d_vocab"]:
    """Logits of a residual stream."""
    return model.unembed(model.ln_final(resid) if kind == "norm" else resid)


@torch.no_grad()
def read_lens(
    model: "HookedTransformer",
    prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
    span: str = "audio",
    kinds: Sequence[LensKind] = LENSES,
    top_k: int = 1,
    asked: Sequence[Sequence[int]] = (),
) -> dict[LensKind, Readout]:
    """Read every layer at the positions of a span, in one pass over the prompt.

    Args:
        model: The decoder.
        prompt: An embedded prompt, or tokens of plain text.
        span: Where to read.
        kinds: Which lenses.
        top_k: How many of the likeliest tokens to keep.
        asked: Groups of tokens, such as the spellings of a word; of each group the likeliest is
            kept, at every layer and position.

    Returns:
        A readout for each kind of lens.

    Raises:
        PromptError: For a batch of prompts, an unknown kind of lens or token, or an empty group.
        SpanError: For a span that is not in the prompt.
    """
    prompt = one_prompt(model, prompt, 1)
    d_vocab = model.cfg.d_vocab
    unknown = [t for group in asked for t in group if not 0 <= t < d_vocab]
    if not kinds or set(kinds) - set(LENSES) or not 1 <= top_k <= d_vocab:
        raise PromptError(
            f"expected lenses among {LENSES} and a top_k from 1 to {d_vocab}, got {kinds!r} and "
            f"{top_k}."
        )
    if unknown or not all(len(group) for group in asked):
        raise PromptError(
            f"expected groups of tokens from 0 to {d_vocab - 1}, got {unknown or 'an empty group'}."
        )
    positions = prompt.spans[span]
    window = range(prompt.n_pos)  # all of it, so that every bit is as in the model's own pass
    readers = [_Reader(model, positions, kinds, top_k, asked) for _ in range(model.cfg.n_layers)]
    with model.hooks((names.resid_post(i), reader) for i, reader in enumerate(readers)):
        model.run_pass(prompt.embeds, model.context(prompt, window), window)
    return {kind: Readout(*_stacked([reader.read[kind] for reader in readers])) for kind in kinds}


class _Reader(LiveHook):
    """Reads one layer: what is kept of each chunk of positions, by kind of lens."""

    def __init__(
        self,
        model: "HookedTransformer",
        positions: Int[Tensor, " pos"],
        kinds: Sequence[LensKind],
        top_k: int,
        asked: Sequence[Sequence[int]],
    ) -> None:
        self.model, self.positions, self.top_k = model, positions, top_k
        self.asked = [torch.as_tensor(group, device=model.cfg.device) for group in asked]
        self.read: dict[LensKind, list[tuple[Tensor, ...]]] = {kind: [] for kind in kinds}

    def __call__(self, resid: Tensor, hook: Any) -> None:
        """Reduce `[1, pos, d_model]`."""
        rows = max(1, CHUNK_BYTES // (_BYTES_A_LOGIT * self.model.cfg.d_vocab))
        for chunk in resid[0, self.positions.to(resid.device)].split(rows):
            for kind, read in self.read.items():
                kept = self._reduce(lens_logits(self.model, chunk, kind).float())
                read.append(tuple(tensor.cpu() for tensor in kept))

    def _reduce(self, logits: Float[Tensor, "pos d_vocab"]) -> tuple[Tensor, ...]:
        total = logits.logsumexp(-1, keepdim=True)
        best, tokens = logits.topk(self.top_k)
        above = torch.empty_like(logits)  # sums of floats are ten times faster than of booleans
        chosen, highest, ranks = [], [], []
        for group in self.asked:
            value, index = logits[:, group].max(-1)
            chosen.append(group[index])
            highest.append(value)
            ranks.append(1 + torch.gt(logits, value[:, None], out=above).sum(-1).long())
        none = tokens[:, :0]
        return (
            tokens,
            best - total,
            torch.stack(chosen, -1) if chosen else none,
            torch.stack(highest, -1) - total if chosen else best[:, :0],
            torch.stack(ranks, -1) if chosen else none,
        )


def _stacked(layers: list[list[tuple[Tensor, ...]]]) -> list[Tensor]:
    """Chunks of every layer to one tensor for each thing that was kept."""
    by_layer = [[torch.cat(parts) for parts in zip(*chunks, strict=True)] for chunks in layers]
    return [torch.stack(kept) for kept in zip(*by_layer, strict=True)]
