"""How likely is every token, while a given text is said?

The text follows the prompt, and both run in one pass (teacher forcing), so that position `t` of the
result is what the model would go on with after the first `t` tokens.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.errors import PromptError
from hooked_omni.generate import one_prompt
from hooked_omni.interventions import Condition, as_hooks
from hooked_omni.prompt import EmbeddedPrompt

if TYPE_CHECKING:
    from hooked_omni.transformer import HookedTransformer

__all__ = ["force"]


@torch.no_grad()
def force(
    model: "HookedTransformer",
    prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
    tokens: Int[Tensor, " n"],
    fwd_hooks: Condition = (),
) -> Float[Tensor, "n d_vocab"]:
    """Logits from which each token of a text is chosen.

    ```python
    logits = force(base, prompt, caption.tokens)
    ranks = 1 + (logits > logits.gather(1, caption.tokens[:, None])).sum(1)
    ```

    Args:
        model: The decoder.
        prompt: An embedded prompt, or tokens of plain text.
        tokens: The text; its last token is not read, only predicted.
        fwd_hooks: Hooks and interventions; the text's positions are `generated`.

    Raises:
        HookError: For a hook that cannot act on this run, or whose edit made a NaN.
        PromptError: For a batch of prompts, no tokens, or unknown ones.
    """
    tokens = torch.as_tensor(tokens)
    if tokens.ndim != 1:
        raise PromptError(f"expected one text [n], got tokens of shape {tuple(tokens.shape)}.")
    prompt = one_prompt(model, prompt, len(tokens))
    text = model.as_prompt(tokens[None]).embeds
    window = range(prompt.n_pos + len(tokens) - 1)
    hooks = as_hooks(fwd_hooks, prompt.spans)
    model.require_runnable(hooks, window, prompt.spans)
    embeds = torch.cat([prompt.embeds, text[:, :-1]], dim=1)
    with model.hooks(hooks):
        final = model.run_pass(embeds, model.context(prompt, window), window)
    return model.unembed(final[:, prompt.n_pos - 1 :])[0]
