"""What does the model say?

Greedy decoding with cached keys and values. A position behind the prompt gets the rotary position
that follows from the prompt's delta, and hooks fire at every step.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.cache import KeyValueCache
from hooked_omni.errors import PromptError
from hooked_omni.interventions import Condition, as_hooks, reaches, require_reach
from hooked_omni.prompt import EmbeddedPrompt

if TYPE_CHECKING:
    from hooked_omni.transformer import HookedTransformer

__all__ = ["Generation", "generate", "one_prompt"]


@dataclass(frozen=True, eq=False)
class Generation:
    """A greedy caption.

    Attributes:
        tokens: New tokens, the end token included if it came.
        text: `tokens` without special ones; None for a model without a tokenizer.
        logits: What each new token was chosen from, if asked for.
    """

    tokens: Int[Tensor, " n"]
    text: str | None
    logits: Float[Tensor, "n d_vocab"] | None = None


@torch.no_grad()
def generate(
    model: "HookedTransformer",
    prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
    max_new_tokens: int = 64,
    fwd_hooks: Condition = (),
    stop_at_eos: bool = True,
    return_logits: bool = False,
) -> Generation:
    """Greedy caption of one prompt.

    Args:
        model: The decoder.
        prompt: An embedded prompt, or tokens of plain text.
        max_new_tokens: At most this many.
        fwd_hooks: Hooks and interventions; they see the prompt once, then one position at a time.
        stop_at_eos: End with the first of `model.cfg.eos_tokens`.
        return_logits: Keep the logits of each new token, `[n, d_vocab]`.

    Raises:
        HookError: For a hook that cannot act on this run, or whose edit made a NaN.
        PromptError: For a batch of prompts, or no tokens asked for.
    """
    prompt = one_prompt(model, prompt, max_new_tokens)
    hooks = as_hooks(fwd_hooks, prompt.spans)
    for hook in hooks:
        require_reach([hook], range(prompt.n_pos + max_new_tokens - 1), model.cfg)
    cache = KeyValueCache(model.cfg, 1, prompt.n_pos + max_new_tokens - 1)
    tokens: list[int] = []
    kept: list[Tensor] = []
    window, embeds = range(prompt.n_pos), prompt.embeds
    while True:
        # A hook for generated positions alone would open the prompt's attention for nothing.
        with model.hooks(hook for hook in hooks if reaches(hook, window)):
            final = model.run_pass(embeds, model.context(prompt, window, cache), window)
        cache.length = window.stop
        logits = model.unembed(final[:, -1:])[0, -1]
        tokens.append(int(logits.argmax()))
        kept += [logits] if return_logits else []
        ended = stop_at_eos and tokens[-1] in model.cfg.eos_tokens
        if ended or len(tokens) == max_new_tokens:
            return finished(model, tokens, kept)
        window = range(window.stop, window.stop + 1)
        embeds = model.embed(torch.tensor([tokens[-1:]], device=model.cfg.device))


def finished(model: "HookedTransformer", tokens: list[int], logits: list[Tensor]) -> Generation:
    """The caption that `tokens` are."""
    decode = None if model.tokenizer is None else model.tokenizer.decode
    return Generation(
        tokens=torch.tensor(tokens, dtype=torch.long),
        text=None if decode is None else decode(tokens, skip_special_tokens=True),
        logits=torch.stack(logits) if logits else None,
    )


def one_prompt(
    model: "HookedTransformer", prompt: EmbeddedPrompt | Int[Tensor, "1 pos"], max_new_tokens: int
) -> EmbeddedPrompt:
    """`prompt` at the decoder's door, if it is one and something is asked for.

    Raises:
        PromptError: Otherwise.
    """
    if max_new_tokens < 1:
        raise PromptError(f"expected at least one new token, got {max_new_tokens}.")
    prompt = model.as_prompt(prompt)
    if prompt.embeds.shape[0] != 1:
        raise PromptError(
            f"expected one prompt, got a batch of {prompt.embeds.shape[0]}. Embed and caption "
            "prompts one at a time; `generate_many` batches conditions, not prompts."
        )
    return prompt
