"""How is the next word read, once an answer has begun?"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.hooked_runs import Input
from hooked_omni.decoding.prefill import one_prompt
from hooked_omni.errors import PromptError
from hooked_omni.inputs.prompt import EmbeddedPrompt
from hooked_omni.inputs.spans import Spans


def continued(model: HookedDecoder, prompt: Input, text: str | Int[Tensor, " n"]) -> EmbeddedPrompt:
    """The prompt with the beginning of an answer behind it, at the positions it would have there.

    ```python
    begun = continued(model, prompt, "the sound of a")
    logits = model(begun)[0, -1]      # after these words; differentiable, as any prompt's
    ```

    Its words are the span "answer", and `text`; "last" is the last of them.

    Raises:
        PromptError: For a batch, no words, or tokens that the model does not have.
    """
    prompt = one_prompt(model, prompt)
    tokens = model.to_tokens(text)[0] if isinstance(text, str) else torch.as_tensor(text)
    if tokens.ndim != 1 or not len(tokens):
        raise PromptError(
            f"expected the first words of an answer, got {text!r}. Use the prompt as it is."
        )
    more = model.embedded_tokens(tokens[None])
    window = range(prompt.n_pos, prompt.n_pos + more.n_pos)
    mask, deepstack = prompt.mask, prompt.deepstack
    if mask is not None:
        mask = torch.cat([mask, torch.ones_like(more.tokens).to(mask)], 1)
    if deepstack is not None:
        deepstack = torch.nn.functional.pad(deepstack, (0, 0, 0, more.n_pos))
    return replace(
        EmbeddedPrompt(**{n: getattr(prompt, n) for n in EmbeddedPrompt.__dataclass_fields__}),
        embeds=torch.cat([prompt.embeds, more.embeds], 1),
        tokens=torch.cat([prompt.tokens, more.tokens.to(prompt.tokens)], 1),
        position_ids=torch.cat([prompt.position_ids, prompt.position_ids_at(window)], 2),
        mask=mask,
        deepstack=deepstack,
        spans=_spans(prompt.spans, torch.tensor(window)),
    )


def _spans(spans: Spans, new: Int[Tensor, " n"]) -> Spans:
    positions = {"answer": new[:0], **spans.positions, "last": new[-1:]}
    for name in ("answer", "text", "prompt"):
        if name in positions:
            positions[name] = torch.cat([positions[name], new])
    return replace(spans, positions=positions, n_prompt=int(new[-1]) + 1)
