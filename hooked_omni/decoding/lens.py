"""What would each layer say at each position?

A logit lens unembeds the residual stream after every block. "norm" puts the final norm before the
unembedding, as the model itself does behind its last block; "raw" leaves it out, as the released
scripts of arXiv 2604.02605 do. Everything is reduced at once, inside the hooks of one pass or from
what a prefilled prompt has kept, a few positions at a time: logits of all layers and positions
never exist together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni import names
from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoding.generate import one_prompt
from hooked_omni.decoding.prefill import prefill_state
from hooked_omni.errors import PromptError
from hooked_omni.hooks.hook_point import LiveHook
from hooked_omni.inputs.prompt import EmbeddedPrompt

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
    model: HookedDecoder, resid: Float[Tensor, "pos d_model"], kind: LensKind = "norm"
) -> Float[Tensor, "pos d_vocab"]:
    """Logits of a residual stream."""
    return model.unembed(model.ln_final(resid) if kind == "norm" else resid)


@torch.no_grad()
def read_lens(
    model: HookedDecoder,
    prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
    span: str = "audio",
    kinds: Sequence[LensKind] = LENSES,
    top_k: int = 1,
    asked: Sequence[Sequence[int]] = (),
) -> dict[LensKind, Readout]:
    """Read every layer at the positions of a span, in one pass over the prompt.

    Args:
        model: The decoder.
        prompt: An embedded prompt, or tokens of plain text. Where `prefill` has kept the residual
            streams of the span, no pass is made.
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
    sizes = (model.cfg.n_layers, len(positions), top_k, len(asked))
    read: dict[LensKind, Readout] = {kind: _empty(*sizes) for kind in kinds}
    layers, reader = range(model.cfg.n_layers), _Reader(model, positions, asked, read)
    passed = prefill_state(model, prompt)
    if passed is not None and bool(torch.isin(positions, passed.kept).all()):
        reader.rows = torch.searchsorted(passed.kept, positions)
        for layer in layers:
            reader.read_layer(layer, passed.residuals[layer])
        return read
    window = range(prompt.n_pos)  # all of it, so that every bit is as in the model's own pass
    with model.hooks((names.resid_post(layer), reader) for layer in layers):
        model.run_pass(prompt.embeds, model.context(prompt, window), window)
    return read


def _empty(n_layers: int, n_pos: int, top_k: int, n_groups: int) -> Readout:
    """Room for all that will be read.

    Small tensors that are kept between large ones that are freed would tear holes into memory,
    gigabytes of them, so nothing is kept but what is written into these.
    """
    top, asked = (n_layers, n_pos, top_k), (n_layers, n_pos, n_groups)
    return Readout(
        tokens=torch.empty(top, dtype=torch.long),
        logprobs=torch.empty(top),
        asked_tokens=torch.empty(asked, dtype=torch.long),
        asked_logprobs=torch.empty(asked),
        asked_ranks=torch.empty(asked, dtype=torch.long),
    )


class _Reader(LiveHook):
    """Reads the layers, one after the other, a few positions at a time."""

    def __init__(
        self,
        model: HookedDecoder,
        positions: Int[Tensor, " pos"],
        asked: Sequence[Sequence[int]],
        read: Mapping[LensKind, Readout],
    ) -> None:
        self.model, self.rows, self.read = model, positions, read
        self.asked = [torch.as_tensor(group, device=model.cfg.device) for group in asked]

    def __call__(self, resid: Tensor, hook: Any) -> None:
        """Reduce `[1, pos, d_model]`."""
        self.read_layer(names.layer_of(hook.name) or 0, resid[0])

    def read_layer(self, layer: int, resid: Float[Tensor, "pos d_model"]) -> None:
        """Reduce the rows of one layer."""
        rows = self.rows.to(resid.device)
        size = max(1, CHUNK_BYTES // (_BYTES_A_LOGIT * self.model.cfg.d_vocab))
        for start in range(0, len(rows), size):
            chunk = resid[rows[start : start + size]]
            for kind, readout in self.read.items():
                logits = lens_logits(self.model, chunk, kind).float()
                self._reduce(logits, readout, (layer, slice(start, start + size)))

    def _reduce(self, logits: Float[Tensor, "pos d_vocab"], into: Readout, at: Any) -> None:
        total = logits.logsumexp(-1, keepdim=True)
        best, tokens = logits.topk(into.tokens.shape[-1])
        into.tokens[at], into.logprobs[at] = tokens.cpu(), (best - total).cpu()
        above = torch.empty_like(logits)  # sums of floats are ten times faster than of booleans
        for i, group in enumerate(self.asked):
            value, index = logits[:, group].max(-1)
            rank = 1 + torch.gt(logits, value[:, None], out=above).sum(-1)
            into.asked_tokens[(*at, i)] = group[index].cpu()
            into.asked_logprobs[(*at, i)] = (value - total[:, 0]).cpu()
            into.asked_ranks[(*at, i)] = rank.long().cpu()
