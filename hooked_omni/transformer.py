"""The decoder of an audio-visual LLM: hooks, captions, sweeps, scores and lenses in one place."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoding.generate import Capture, Generation, generate
from hooked_omni.decoding.sweep import generate_many, score_many
from hooked_omni.errors import CheckpointError
from hooked_omni.hooks.interventions import Condition
from hooked_omni.inputs.prompt import EmbeddedPrompt

__all__ = ["HookedTransformer"]


class HookedTransformer(HookedDecoder):
    """Decoder with hook points; takes an `EmbeddedPrompt`, or tokens for plain text.

    ```python
    logits = model(prompt)                                       # [1, pos, d_vocab]
    logits, cache = model.run_with_cache(prompt, names_filter="blocks.3.attn.hook_pattern")
    logits = model.run_with_hooks(prompt, fwd_hooks=[(name, hook_function)])
    caption = model.generate(prompt, max_new_tokens=64, fwd_hooks=[...]).text
    ```
    """

    @classmethod
    def from_tensors(
        cls,
        cfg: DecoderConfig,
        tensors: Mapping[str, Tensor],
        tensor_name: Callable[[str], str] = str,
        tokenizer: Any = None,
    ) -> "HookedTransformer":
        """Decoder whose parameters *are* `tensors`: shared, not copied.

        Args:
            cfg: The decoder's table.
            tensors: Every parameter of the decoder, and nothing else.
            tensor_name: From a parameter's name here to its name in `tensors`.
            tokenizer: For text and captions; None if only tokens are used.

        Raises:
            CheckpointError: For a missing or extra tensor, or one of another shape.
        """
        with torch.device("meta"):
            model = cls(cfg)
        wanted = {tensor_name(name): (name, p) for name, p in model.named_parameters()}
        missing, extra = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
        if missing or extra:
            raise CheckpointError(
                f"expected the tensors of a {cfg.n_layers}-layer decoder, got {len(missing)} "
                f"missing {sorted(missing)[:3]} and {len(extra)} extra {sorted(extra)[:3]}. Check "
                "that the checkpoint is whole, and of a variant that this decoder computes."
            )
        for key, (name, parameter) in wanted.items():
            tensor = tensors[key]
            if tensor.shape != parameter.shape:
                raise CheckpointError(
                    f"expected {key} of shape {tuple(parameter.shape)} from the config, got "
                    f"{tuple(tensor.shape)}. The config does not belong to these weights."
                )
            path, _, leaf = name.rpartition(".")
            shared = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, False)
            setattr(model.get_submodule(path), leaf, shared)
        model.tokenizer = tokenizer
        return model

    def generate(
        self,
        prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
        max_new_tokens: int = 64,
        fwd_hooks: Condition = (),
        stop_at_eos: bool = True,
        return_logits: bool = False,
        capture: Capture | None = None,
    ) -> Generation:
        """Greedy caption with cached keys and values; see `decoding.generate`."""
        return generate(
            self, prompt, max_new_tokens, fwd_hooks, stop_at_eos, return_logits, capture
        )

    def generate_many(
        self,
        prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
        conditions: Iterable[Condition],
        max_new_tokens: int = 64,
        stop_at_eos: bool = True,
        return_logits: bool = False,
        capture: Capture | None = None,
        memory_budget: int | None = None,
    ) -> list[Generation]:
        """A caption under each condition, in one batch; see `decoding.sweep`."""
        return generate_many(
            self,
            prompt,
            conditions,
            max_new_tokens,
            stop_at_eos,
            return_logits,
            capture,
            memory_budget,
        )

    def score_many(
        self,
        prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
        tokens: Int[Tensor, " n"],
        conditions: Iterable[Condition],
        memory_budget: int | None = None,
    ) -> list[Float[Tensor, " n"]]:
        """Log-probabilities of a text under each condition; see `decoding.sweep`."""
        return score_many(self, prompt, tokens, conditions, memory_budget)
