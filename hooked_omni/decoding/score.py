"""How likely is every token, while a given text is said?

All of the text runs in one pass behind the prompt's (teacher forcing). Position `t` of the result
is what the model would go on with after the first `t` tokens.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoding.generate import one_prompt
from hooked_omni.decoding.prefill import prompt_pass
from hooked_omni.errors import PromptError
from hooked_omni.hooks.interventions import Condition, as_hooks, reaches
from hooked_omni.inputs.prompt import EmbeddedPrompt

__all__ = ["force"]


@torch.no_grad()
def force(
    model: HookedDecoder,
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
        prompt: An embedded prompt, or tokens of plain text. If it is prefilled, and no hook acts on
            it, there is no pass over it.
        tokens: The text; its last token is not read, only predicted.
        fwd_hooks: Hooks and interventions; they see the prompt, then all of the text at once, whose
            positions are `generated`.

    Raises:
        HookError: For a hook that cannot act on this run, or whose edit made a NaN.
        PromptError: For a batch of prompts, no tokens, or unknown ones.
    """
    tokens = torch.as_tensor(tokens)
    if tokens.ndim != 1:
        raise PromptError(f"expected one text [n], got tokens of shape {tuple(tokens.shape)}.")
    prompt = one_prompt(model, prompt, len(tokens))
    text = model.as_prompt(tokens[None]).embeds
    window = range(prompt.n_pos, prompt.n_pos + len(tokens) - 1)
    hooks = as_hooks(fwd_hooks, prompt.spans)
    model.require_runnable(hooks, range(window.stop), prompt.spans)
    final, cache = prompt_pass(model, prompt, hooks, prompt.n_pos, window.stop)
    if window:
        with model.hooks([hook for hook in hooks if reaches(hook, window)]):
            context = model.context(prompt, window, cache)
            final = torch.cat([final, model.run_pass(text[:, :-1], context, window)], dim=1)
    return model.unembed(final)[0]
