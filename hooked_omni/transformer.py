"""The decoder of an audio-visual LLM: hooks, captions, sweeps, scores and lenses in one place."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.hooked_runs import Input
from hooked_omni.decoding.generate import Decoding, Generation, generate, with_settings
from hooked_omni.decoding.lens import LensKind, Readout, read_lens
from hooked_omni.decoding.prefill import PrefilledPrompt, prefill
from hooked_omni.decoding.score import score
from hooked_omni.decoding.sweep import generate_many
from hooked_omni.errors import CheckpointError
from hooked_omni.hooks.interventions import Condition


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
        modules: Mapping[str, nn.Module] = MappingProxyType({}),
    ) -> "HookedTransformer":
        """Decoder whose parameters *are* `tensors`: shared, not copied.

        `tensor_name` goes from a parameter's name here to its name in `tensors`, which holds every
        parameter and nothing else. Without a tokenizer, only tokens are used. `modules`, quantized
        or peft's, stand in place of projections, by the names of their weights, and are shared as
        they are. Missing or extra tensors, and other shapes, are refused (`CheckpointError`).
        """
        with torch.device("meta"):
            model = cls(cfg)
        for name, own in [*model.named_modules()] if modules else ():
            if isinstance(own, nn.Linear) and (key := tensor_name(f"{name}.weight")) in modules:
                model.set_submodule(name, modules[key])
        shared = {id(p) for module in modules.values() for p in module.parameters()}
        tensors = {key: tensor for key, tensor in tensors.items() if id(tensor) not in shared}
        every = [(name, p) for name, p in model.named_parameters() if id(p) not in shared]
        wanted = {tensor_name(name): (name, p) for name, p in every}
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
        model.follow_weights()
        return model

    def __repr__(self) -> str:
        cfg, name = self.cfg, Path(self.cfg.model_name)
        where = "several devices" if cfg.devices else cfg.device
        return (
            f"HookedTransformer({name.name if name.exists() else name}: {cfg.n_layers} layers of "
            f"{cfg.n_heads} heads, d_model {cfg.d_model}, {str(cfg.dtype)[6:]} on {where})"
        )

    def generate(
        self,
        prompt: Input,
        decoding: Decoding | None = None,
        fwd_hooks: Condition = (),
        **settings: Any,
    ) -> Generation:
        """Caption with cached keys and values, greedy unless `do_sample`.

        ```python
        model.generate(prompt, max_new_tokens=32)
        model.generate(prompt, do_sample=True, temperature=0.7, top_k=20, top_p=0.8, seed=0)
        ```

        Hooks see the prompt once, then one position at a time. `settings` are fields of `Decoding`,
        or `do_sample` with those of `Sampling`.

        Raises:
            HookError: For a hook that cannot act on this run, or whose edit made a NaN.
            PromptError: For a batch of prompts, or an unknown setting.
        """
        return generate(self, prompt, with_settings(decoding, settings), fwd_hooks)

    def generate_many(
        self,
        prompt: Input,
        conditions: Iterable[Condition],
        decoding: Decoding | None = None,
        **settings: Any,
    ) -> list[Generation]:
        """A caption under each condition, in one batch; see `decoding.sweep`."""
        return generate_many(self, prompt, conditions, with_settings(decoding, settings))

    def score(
        self,
        prompt: Input,
        tokens: Int[Tensor, " n"],
        conditions: Iterable[Condition],
        memory_budget: int | None = None,
    ) -> list[Float[Tensor, " n"]]:
        """Log-probabilities of a text under each condition; see `decoding.score`."""
        return score(self, prompt, tokens, conditions, memory_budget)

    def prefill(self, prompt: Input, **kept: Any) -> PrefilledPrompt:
        """The prompt with its keys and values, for what follows; see `decoding.prefill`."""
        return prefill(self, prompt, **kept)

    def lens(self, prompt: Input, span: str = "audio", **reading: Any) -> dict[LensKind, Readout]:
        """What can be read off each layer at a span; see `decoding.lens.read_lens`."""
        return read_lens(self, prompt, span, **reading)
