"""By which number is a run judged, without a judge?

Functions of logits, as TransformerLens's patching tools take them; differentiable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_omni.decoding.continued import continued
from hooked_omni.errors import PromptError
from hooked_omni.inputs.prompt import EmbeddedPrompt
from hooked_omni.transformer import HookedTransformer

Logits = Float[Tensor, "batch pos d_vocab"]
Metric = Callable[[Logits], Float[Tensor, ""]]


def heard_minus_seen(model: HookedTransformer, heard: str, seen: str) -> Metric:
    """Log-odds of the word for what is heard against that for what is seen, as the next word.

    ```python
    metric = heard_minus_seen(model, "dog", "bell")
    begun = continued(model, prompt, "the sound of a")
    metric(model(begun))                  # nats; below 0: the picture's word is likelier
    ```

    Of words of several tokens, the first ones are compared, as the words are written: inside a
    sentence most vocabularies, such as Qwen's, have them with their space, so write `" dog"`.

    Returns:
        From logits to nats at the last position, in float32 at least; the mean over a batch.

    Raises:
        PromptError: For words that begin with the same token, or that the vocabulary lacks.
    """
    ours, theirs = first_token(model, heard), first_token(model, seen)
    if ours == theirs:
        raise PromptError(
            f"expected words that begin differently, got {heard!r} and {seen!r}, which share "
            f"token {ours}. Put what they share into the prompt, with `continued`."
        )
    return log_odds(ours, theirs)


def log_odds(heard: int, seen: int) -> Metric:
    """Log-odds of one token against another, as `heard_minus_seen`."""

    def metric(logits: Logits) -> Float[Tensor, ""]:
        last = logits[:, -1].to(torch.promote_types(logits.dtype, torch.float32))
        return (last[:, heard] - last[:, seen]).mean()

    return metric


@dataclass(frozen=True, eq=False)
class Fork:
    """Where two answers part.

    Attributes:
        prompt: Continued with what both answers begin with.
        heard, seen: The token with which each goes on.
    """

    prompt: EmbeddedPrompt
    heard: int
    seen: int

    @property
    def metric(self) -> Metric:
        """Heard minus seen, from logits of `prompt`."""
        return log_odds(self.heard, self.seen)


def fork(model: HookedTransformer, prompt: EmbeddedPrompt, heard: str, seen: str) -> Fork:
    """Where an answer that names what is heard parts from one that names what is seen.

    ```python
    at = fork(model, prompt, "a dog is barking", "a bell is ringing")
    at.metric(model(at.prompt))  # after "a": nats; below 0, "bell" is likelier than "dog"
    ```

    Raises:
        PromptError: For answers of which one begins the other, or that the vocabulary lacks.
    """
    ours, theirs = (known_tokens(model.tokenizer, text) for text in (heard, seen))
    pairs = zip(ours, theirs, strict=False)
    n = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    if n == min(len(ours), len(theirs)):
        raise PromptError(
            f"expected answers that part, got {heard!r} and {seen!r}, of which one begins the "
            "other. Choose other words."
        )
    shared = torch.tensor(ours[:n])
    return Fork(continued(model, prompt, shared) if n else prompt, ours[n], theirs[n])


def first_token(model: HookedTransformer, text: str) -> int:
    """The token that a text begins with; `PromptError` for none, or an unknown one."""
    return known_tokens(model.tokenizer, text)[0]


def known_tokens(tokenizer: object, text: str) -> list[int]:
    """The tokens of a text; `PromptError` for none, unknown words, special tokens, no tokenizer."""
    if tokenizer is None:
        raise PromptError("expected a model with a tokenizer, got none. Compare logits by token.")
    of: Callable[..., list[int]] = getattr(tokenizer, "encode")  # noqa: B009
    tokens = of(text, add_special_tokens=False)
    unknown = getattr(tokenizer, "unk_token_id", None)
    special = {*getattr(tokenizer, "all_special_ids", ())} - {unknown}
    if not tokens or unknown in tokens or special & {*tokens}:
        raise PromptError(
            f"expected words of the model's vocabulary, got {text!r}, of tokens {tokens}. Choose "
            "other words."
        )
    return tokens
