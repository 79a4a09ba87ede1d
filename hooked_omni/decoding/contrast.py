"""What does the model answer where several conditions decide together?

At each step the logits of all terms are added up, each by its weight; the token that this chooses
goes on in all of them. Terms of one prompt share a pass over it and decode as one batch, as in a
sweep. Those of other prompts, such as the clip in silence, may be of other lengths: each counts on
from its own end.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.hooked_runs import Input
from hooked_omni.decoder.shared_prefix import SharedPrefix
from hooked_omni.decoding.conditions import Batch, batches
from hooked_omni.decoding.generate import Decoding, Generation, end_tokens, generation
from hooked_omni.decoding.prefill import one_prompt
from hooked_omni.decoding.rows import run_rows
from hooked_omni.errors import PromptError
from hooked_omni.hooks.interventions import Condition
from hooked_omni.hooks.turns import in_turn
from hooked_omni.inputs.prompt import EmbeddedPrompt

Logits = Float[Tensor, " d_vocab"]


@dataclass(frozen=True, eq=False)
class Term:
    """A condition, and how much its logits count; of another `prompt`, if one is given."""

    weight: float
    condition: Condition = ()
    prompt: EmbeddedPrompt | None = None


@dataclass(frozen=True, eq=False)
class Contrast:
    """Terms that choose each token together. The first is what the gates look at.

    ```python
    # contrastive decoding against the clip in silence (form of Leng et al., arXiv 2311.16922)
    how = Contrast((Term(2.0), Term(-1.0, prompt=silent)), plausible=0.1)
    ```

    Attributes:
        terms: Of weight 0 they are left out.
        plausible: Only tokens that have at least this share of the probability of the first term's
            likeliest one may be chosen (Li et al., arXiv 2210.15097); 0 for all.
        least_entropy: Where the first term's next token is surer than this, in nats, it alone
            decides (Jung et al., arXiv 2505.20862); 0 for never.

    Raises:
        PromptError: For no first term of a weight, weights that are no numbers or add up to 0 or
            less, and gates without meaning.
    """

    terms: tuple[Term, ...]
    plausible: float = 0.0
    least_entropy: float = 0.0

    def __post_init__(self) -> None:
        weights = [term.weight for term in self.terms]
        known = bool(weights) and all(map(math.isfinite, weights))
        if not known or not weights[0] or sum(weights) <= 0:
            raise PromptError(
                f"expected finite weights that add up to more than 0, the first of them not 0, got "
                f"{weights}. The first is the plain condition's."
            )
        if not 0 <= self.plausible <= 1 or not 0 <= self.least_entropy < math.inf:
            raise PromptError(
                f"expected plausible from 0 to 1 and least_entropy from 0 on, got {self.plausible} "
                f"and {self.least_entropy}."
            )

    def combined(self, logits: Float[Tensor, "term d_vocab"]) -> Logits:
        """Logits from which a token is chosen, of those of the terms with a weight; float32."""
        logits = logits.float()
        weights = [term.weight for term in self.terms if term.weight]
        first = logits[0].log_softmax(-1)
        if self.least_entropy and float(-(first.exp() * first).nansum()) < self.least_entropy:
            return logits[0]
        total = logits[0] if weights == [1] else torch.tensor(weights).to(logits) @ logits
        if not self.plausible:
            return total
        return total.masked_fill(first < first.max() + math.log(self.plausible), -torch.inf)


@in_turn
@torch.no_grad()
def contrast(
    model: HookedDecoder, prompt: Input, how: Contrast, decoding: Decoding = Decoding()
) -> Generation:
    """A caption whose every token several conditions choose together.

    With `return_logits`, those of the sum. With no other term than the first, or where its weight
    alone is not 0, and without gates, the tokens are those of `generate`.

    Raises:
        HookError, PromptError: As `generate_many`; and for a draft.
    """
    if decoding.draft:
        raise PromptError("expected no draft of a contrast, got one. Use `generate_many`.")
    streams = _streams(model, one_prompt(model, prompt), how, decoding)
    ends, sampling = end_tokens(model, decoding), decoding.sampling
    tokens: list[int] = []
    kept: list[Tensor] = []
    generator: Any = None if sampling is None else sampling.generator(model.cfg.device)
    for step in range(decoding.max_new_tokens):
        rows = [stream.logits(model, tokens) for stream in streams]
        order = [i for stream in streams for i in stream.batch_members]
        together = torch.cat(rows)[torch.tensor(order).argsort()]
        logits = how.combined(together)
        chosen = logits.argmax(-1) if sampling is None else sampling.choose(logits[None], generator)
        tokens.append(int(chosen))
        kept += [logits.clone()] if decoding.return_logits else []
        if tokens[-1] in ends or step + 1 == decoding.max_new_tokens:
            break
    return generation(model, tokens, kept)


def positions(model: HookedDecoder, prompt: Input, how: Contrast, n_tokens: int) -> int:
    """How many positions the decoder runs for a caption of `n_tokens`, a row of a batch each.

    A plain caption takes those of the prompt, and one for each of its tokens but the last. Raises
    as `contrast`.
    """
    n = 0
    for own, batch, _ in _batches(model, one_prompt(model, prompt), how, Decoding(n_tokens)):
        rows = len(batch.members)
        n += own.n_pos - batch.last_apart + rows * (batch.last_apart + n_tokens - 1)
    return n


class _Stream:
    """The terms of one batch, as far as they have come."""

    def __init__(
        self, model: HookedDecoder, prompt: EmbeddedPrompt, batch: Batch, own: list[int], total: int
    ) -> None:
        self.prompt, self.batch = prompt, batch
        self.batch_members = [own[i] for i in batch.members]
        self.first, self.cache = batch.start(model, prompt, total)

    def logits(self, model: HookedDecoder, tokens: Sequence[int]) -> Float[Tensor, "row d_vocab"]:
        """Logits after these tokens, of which all but the last have been read."""
        if not tokens:
            return self.first
        rows, cache = len(self.batch.members), self.cache
        if isinstance(cache, SharedPrefix):
            cache.go_on(cache.rows, [tokens] * rows)
        with model.hooks(self.batch.row_hooks(model, cache)):
            last = [tokens[-1:]] * rows
            final = run_rows(model, self.prompt, cache, len(tokens) - 1, last)
        return model.logits_of(final)[:, -1]


def _streams(
    model: HookedDecoder, prompt: EmbeddedPrompt, how: Contrast, decoding: Decoding
) -> list[_Stream]:
    n_more = decoding.max_new_tokens - 1
    parts = _batches(model, prompt, how, decoding)
    return [
        _Stream(model, own, batch, members, own.n_pos + n_more) for own, batch, members in parts
    ]


def _batches(
    model: HookedDecoder, prompt: EmbeddedPrompt, how: Contrast, decoding: Decoding
) -> Iterator[tuple[EmbeddedPrompt, Batch, list[int]]]:
    """Of each prompt, the batches of its terms, and which those are."""
    terms = [term for term in how.terms if term.weight]
    prompts: dict[int, EmbeddedPrompt] = {}
    groups: dict[int, list[int]] = {}
    for i, term in enumerate(terms):
        own = prompt if term.prompt is None else one_prompt(model, term.prompt)
        key = id(term.prompt) if term.prompt is not None else 0
        prompts[key] = own
        groups.setdefault(key, []).append(i)
    for key, members in groups.items():
        own, conditions = prompts[key], [terms[i].condition for i in members]
        total = own.n_pos + decoding.max_new_tokens - 1
        for batch in batches(model, own, conditions, total, 1, decoding.memory_budget, True):
            yield own, batch, members
