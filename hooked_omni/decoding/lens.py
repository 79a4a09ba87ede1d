"""Which tokens can be read off each layer, at each position?

A logit lens unembeds the residual stream after every block. "norm" puts the final norm before the
unembedding, as the model does after its last block; "raw" leaves it out, as the released scripts of
arXiv 2604.02605 do. Everything is reduced at once, a few positions at a time: logits of all layers
and positions never exist together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni import names
from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.hooked_runs import Input
from hooked_omni.decoding.prefill import one_prompt, prefill_state
from hooked_omni.errors import PromptError
from hooked_omni.hooks.hook_point import LiveHook
from hooked_omni.hooks.turns import in_turn
from hooked_omni.names import LENSES, LensKind

CHUNK_BYTES = 2**27
"""Logits of one chunk, with what is computed from them."""
_BYTES_A_LOGIT = 16  # in the model's dtype, as float32, and twice more for sums and ranks


@dataclass(frozen=True, eq=False)
class Readout:
    """What a lens read, on the CPU."""

    tokens: Int[Tensor, "layer pos k"]  # the likeliest, best first
    logprobs: Float[Tensor, "layer pos k"]  # in nats
    group_tokens: Int[Tensor, "layer pos group"]  # the likeliest of each group given
    group_logprobs: Float[Tensor, "layer pos group"]  # in nats
    group_ranks: Int[Tensor, "layer pos group"]  # how many tokens are likelier than it, plus one


def lens_logits(
    model: HookedDecoder, resid: Float[Tensor, "pos d_model"], kind: LensKind = "norm"
) -> Float[Tensor, "pos d_vocab"]:
    """Logits of a residual stream."""
    return model.logits_of(model.normed(resid) if kind == "norm" else resid)


@in_turn
@torch.no_grad()
def read_lens(
    model: HookedDecoder,
    prompt: Input,
    span: str = "audio",
    kinds: Sequence[LensKind] = LENSES,
    top_k: int = 1,
    groups: Sequence[Sequence[int]] = (),
) -> dict[LensKind, Readout]:
    """Read every layer at the positions of a span, in one pass over the prompt.

    Args:
        model: The decoder.
        prompt: An embedded prompt, or tokens of plain text. If it is prefilled and holds
            `hook_resid_post` of every layer at the span, no pass is made.
        span: Where to read.
        kinds: Which lenses.
        top_k: How many of the likeliest tokens to keep.
        groups: Groups of tokens, such as the spellings of a word; of each group the likeliest is
            kept, at every layer and position.

    Raises:
        PromptError: For a batch of prompts, an unknown kind of lens or token, or an empty group.
        SpanError: For a span that is not in the prompt.
    """
    prompt = one_prompt(model, prompt)
    d_vocab = model.cfg.d_vocab
    unknown = [t for group in groups for t in group if not 0 <= t < d_vocab]
    if not kinds or set(kinds) - set(LENSES) or not 1 <= top_k <= d_vocab:
        raise PromptError(
            f"expected lenses among {LENSES}, a top_k from 1 to {d_vocab}, got {kinds!r}, {top_k}."
        )
    if unknown or not all(len(group) for group in groups):
        raise PromptError(
            f"expected groups of tokens from 0 to {d_vocab - 1}, got {unknown or 'an empty group'}."
            " Use this model's tokens, or leave it out."
        )
    positions = prompt.spans[span]
    layers = [names.resid_post(layer) for layer in range(model.cfg.n_layers)]
    sizes = (len(layers), len(positions), top_k, len(groups))
    read: dict[LensKind, Readout] = {kind: _empty(*sizes) for kind in kinds}
    reader = LensReader(model, positions, groups, read)
    state = prefill_state(model, prompt)
    if state is not None and state.holds(dict.fromkeys(layers, positions)):
        for layer, name in enumerate(layers):
            rows = state.rows(name, positions)
            reader.read_layer(layer, state.activations[name][0], rows)
        return read
    window = range(prompt.n_pos)  # all of it, so that every bit is as in the model's own pass
    model.require_runnable(model.active_hooks(), window, prompt.spans)
    with model.hooks((name, reader) for name in layers):
        model.run_pass(prompt.embeds, model.context(prompt, window), window)
    return read


def _empty(n_layers: int, n_pos: int, top_k: int, n_groups: int) -> Readout:
    """Room for all that will be read, and nothing else is kept.

    Small tensors between large ones that are freed would tear holes of gigabytes into memory.
    """
    top, of_groups = (n_layers, n_pos, top_k), (n_layers, n_pos, n_groups)
    return Readout(
        tokens=torch.empty(top, dtype=torch.long),
        logprobs=torch.empty(top),
        group_tokens=torch.empty(of_groups, dtype=torch.long),
        group_logprobs=torch.empty(of_groups),
        group_ranks=torch.empty(of_groups, dtype=torch.long),
    )


class LensReader(LiveHook):
    """Reads one layer after the other, a few positions at a time."""

    def __init__(
        self,
        model: HookedDecoder,
        positions: Int[Tensor, " pos"],
        groups: Sequence[Sequence[int]],
        read: Mapping[LensKind, Readout],
    ) -> None:
        self.model, self.positions, self.read = model, positions, read
        self.groups = [torch.as_tensor(group, device=model.cfg.device) for group in groups]

    def __call__(self, resid: Tensor, hook: Any) -> None:
        """Reduce `[1, pos, d_model]`."""
        self.read_layer(names.layer_of(hook.name) or 0, resid[0], self.positions)

    def read_layer(
        self, layer: int, resid: Float[Tensor, "pos d_model"], rows: Int[Tensor, " n"]
    ) -> None:
        """Reduce these rows of one layer."""
        rows = rows.to(resid.device)
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
        for i, group in enumerate(self.groups):
            value, index = logits[:, group].max(-1)
            rank = 1 + torch.gt(logits, value[:, None], out=above).sum(-1)
            into.group_tokens[(*at, i)] = group[index].cpu()
            into.group_logprobs[(*at, i)] = (value - total[:, 0]).cpu()
            into.group_ranks[(*at, i)] = rank.long().cpu()
