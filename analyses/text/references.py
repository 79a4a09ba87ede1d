"""How likely are the words that a reference caption has for a sound?

The caption is scored in place of an answer (teacher forcing), and the log-probabilities of those
words that name a sound event are kept. This needs no caption of the model's own, so it is defined
under every condition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.text.events import Events
from analyses.text.pieces import pieces
from hooked_omni import EmbeddedPrompt, HookedTransformer
from hooked_omni.hooks.interventions import Condition


@dataclass(frozen=True, eq=False)
class ReferenceCaption:
    """A caption to score; `words` are the tokens that spell each of its words for a sound event."""

    tokens: Int[Tensor, " n"]
    words: tuple[tuple[int, ...], ...]


def references(
    tokenizer: Any,
    captions: Sequence[str],
    most: int = 1,
    own: Mapping[str, Sequence[str]] | None = None,
    first_too: bool = False,
) -> list[ReferenceCaption]:
    """The first `most` captions that name a sound event; none without a tokenizer.

    `own` is as in `Events.of`. With `first_too` a word that opens the caption counts: it is chosen
    at the last prompt position, which no intervention on generated positions reaches.
    """
    if tokenizer is None:
        return []
    found: list[ReferenceCaption] = []
    events = Events.of(captions, own)
    for caption in captions:
        tokens = tokenizer.encode(caption)
        words = tuple(w for w in _spelled(tokenizer, tokens, events) if first_too or w[0] > 0)
        if words and len(found) < most:
            found.append(ReferenceCaption(torch.tensor(tokens), words))
    return found


def word_logprobs(
    model: HookedTransformer,
    prompt: EmbeddedPrompt,
    captions: Sequence[ReferenceCaption],
    conditions: Sequence[Condition],
    memory_budget: int | None = None,
) -> Float[np.ndarray, " condition"]:
    """Mean log-probability of a reference word under each condition, nats a word; NaN without."""
    words: list[Float[Tensor, " condition"]] = []
    for reference in captions:
        stop = 1 + max(token for word in reference.words for token in word)
        scores = model.score(prompt, reference.tokens[:stop], conditions, memory_budget)
        by_token = torch.stack(scores).double().cpu()
        words += [by_token[:, list(word)].sum(1) for word in reference.words]
    if not words:
        return np.full(len(conditions), np.nan)
    return torch.stack(words).mean(0).numpy()


def _spelled(tokenizer: Any, tokens: Sequence[int], events: Events) -> list[tuple[int, ...]]:
    """The tokens of each word that names an event, in the order of the caption."""
    read = pieces(tokenizer, tokens)
    stops = np.cumsum([len(piece) for piece in read], dtype=int)
    starts = stops - [len(piece) for piece in read]
    spans = sorted({(match.start, match.stop) for match in events.matches("".join(read))})
    return [
        tuple(int(i) for i in np.flatnonzero((stops > start) & (starts < stop)))
        for start, stop in spans
    ]
