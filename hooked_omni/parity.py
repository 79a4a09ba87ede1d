"""Are these the Hugging Face model's numbers, and does every hook act?

1. The prompt runs through both: logits of every position are compared.
2. Hugging Face decodes some steps greedily with its own cache and its own positions; the hooked
   decoder follows with its own, and logits, positions and tokens are compared.
3. The same with every layer's attention opened, against Hugging Face's eager attention.
   Mixtures of experts are compared with its eager experts.
4. Every pattern row sums to one, and an edit at every hook point moves the logits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from hooked_omni import names
from hooked_omni.decoder.key_value_cache import KeyValueCache
from hooked_omni.decoding.prefill import one_prompt
from hooked_omni.errors import ParityError, PromptError
from hooked_omni.hf.capture import find_decoder
from hooked_omni.hooks.hook_point import HookFunction, HookPoint
from hooked_omni.hooks.interventions import Hook
from hooked_omni.inputs.prompt import EmbeddedPrompt
from hooked_omni.omni import HookedOmni
from hooked_omni.transformer import HookedTransformer


@dataclass(frozen=True)
class ParityReport:
    """Largest differences from Hugging Face; 0 means equal to the bit."""

    prefill: float  # logits of all prompt positions, kernels as loaded
    decode: float  # logits of the cached decode steps, kernels as loaded
    prefill_opened: float  # as `prefill`, every layer opened, against eager
    decode_opened: float  # as `decode`, every layer opened, against eager
    decode_steps: int  # compared; positions and tokens are equal in all
    pattern_rows: float  # largest distance of a pattern row's sum from one
    live_hooks: int  # points at which an edit moved the logits: all there are
    tolerance: float  # largest difference that was allowed

    def __str__(self) -> str:
        return "\n".join(f"{f.name:>16}  {getattr(self, f.name):g}" for f in fields(self))


@torch.no_grad()
def prove(
    omni: HookedOmni, prompt: EmbeddedPrompt, decode_steps: int = 16, tolerance: float | None = None
) -> ParityReport:
    """Compare the hooked decoder with the Hugging Face model it came from.

    Args:
        omni: The model, with its Hugging Face half.
        prompt: Any prompt embedded by it.
        decode_steps: Cached steps to compare after the prompt.
        tolerance: Largest logit difference to accept. None accepts none on a CPU, where the
            kernels are the same, and on a GPU 32 roundings of the largest logit.

    Raises:
        ParityError: With the numbers, for anything that is not as it should be.
    """
    model, hf = omni.model, omni.hf
    prompt = one_prompt(model, prompt)
    if decode_steps < 0:
        raise PromptError(f"expected 0 decode steps or more, got {decode_steps}.")
    _require_own(model, prompt)
    with _eager(hf, attention=False):
        plain, plain_tokens = _hf_run(omni, prompt, decode_steps)
    limit = _limit(plain, tolerance)
    prefill, decode = _compare("kernels as loaded", model, prompt, plain, plain_tokens, [], limit)
    with _eager(hf):
        eager, eager_tokens = _hf_run(omni, prompt, decode_steps)
    sums: list[float] = []
    measure = _sum_rows(sums, prompt)
    opened = [(names.pattern(layer), measure) for layer in range(model.cfg.n_layers)]
    prefill_opened, decode_opened = _compare(
        "every layer opened", model, prompt, eager, eager_tokens, opened, limit
    )
    rounding = 4 * torch.finfo(model.cfg.dtype).eps
    if max(sums) > rounding * prompt.n_pos**0.5:
        raise ParityError(f"expected pattern rows that sum to 1, got one off by {max(sums):.3g}.")
    return ParityReport(
        prefill=prefill,
        decode=decode,
        prefill_opened=prefill_opened,
        decode_opened=decode_opened,
        decode_steps=decode_steps,
        pattern_rows=max(sums),
        live_hooks=_require_live(model),
        tolerance=limit,
    )


Run = list[tuple[Float[Tensor, "_ d_vocab"], Tensor]]


def _hf_run(omni: HookedOmni, prompt: EmbeddedPrompt, steps: int) -> tuple[Run, list[int]]:
    """Logits and positions of Hugging Face's prefill and its own `generate`'s steps; its tokens."""
    hf, seen = omni.hf, []
    _time, *sections = omni.model.cfg.mrope_section

    inputs = {
        "inputs_embeds": prompt.embeds,
        "position_ids": prompt.position_ids if any(sections) else prompt.position_ids[0],
        "attention_mask": torch.ones_like(prompt.tokens) if prompt.mask is None else prompt.mask,
    }

    def look_and_add(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        positions = kwargs["position_ids"]
        own = (positions if positions.ndim == 3 else positions[None])[-3:]
        seen.append(own.to(prompt.embeds.device))  # devices may differ from layer to layer
        return args, kwargs | _vision_features(prompt, positions.shape[-1])

    handle = find_decoder(hf).register_forward_pre_hook(look_and_add, with_kwargs=True)
    # Plain argmax, whatever the checkpoint sets: that is what captions here are.
    own, hf.generation_config = hf.generation_config, transformers.GenerationConfig()
    try:
        prefill = hf(**inputs).logits[0]
        seen.clear()
        out = hf.generate(
            **inputs,
            max_new_tokens=steps + 1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        handle.remove()
        hf.generation_config = own
    run = [(prefill, seen[0]), *zip(out.logits[1:], seen[1:], strict=True)]
    return run, out.sequences[0].tolist()[:-1]


def _vision_features(prompt: EmbeddedPrompt, n_pos: int) -> dict[str, Any]:
    """The features that the model's own forward hands to its decoder beside the embeddings."""
    if prompt.deepstack is None or n_pos != prompt.n_pos:
        return {}
    places = prompt.deepstack.abs().amax((0, -1)) > 0
    return {
        "visual_pos_masks": places,
        "deepstack_visual_embeds": [layer[places] for layer in prompt.deepstack],
    }


def _compare(
    what: str,
    model: HookedTransformer,
    prompt: EmbeddedPrompt,
    theirs: Run,
    tokens: list[int],
    hooks: Sequence[Hook],
    limit: float,
) -> tuple[float, float]:
    n_pos, differences = prompt.n_pos, []
    cache = KeyValueCache(model.cfg, 1, n_pos + len(tokens))
    with model.hooks(hooks):
        for step, (logits, positions) in enumerate(theirs):
            window = range(n_pos + step - 1, n_pos + step) if step else range(n_pos)
            embeds = prompt.embeds
            if step:
                if not bool((prompt.position_ids_at(window) == positions).all()):
                    raise ParityError(
                        f"expected rotary positions {positions.flatten().tolist()} at decode step "
                        f"{step}, got {prompt.position_ids_at(window).flatten().tolist()}: another "
                        "rope delta."
                    )
                embeds = model.embed(torch.tensor([tokens[step - 1 : step]], device=embeds.device))
            final = model.run_pass(embeds, model.context(prompt, window, cache), window)
            ours = model.unembedded(final)[0]
            real = slice(None) if prompt.mask is None or step else prompt.mask[0] != 0
            differences.append(float((ours[real] - logits[real]).abs().max()))
            if not differences[-1] <= limit:
                raise ParityError(
                    f"expected logits within {limit:g} of Hugging Face's ({what}), got "
                    f"{differences[-1]:g} at {f'decode step {step}' if step else 'prefill'} "
                    f"(transformers {transformers.__version__}, {model.cfg.dtype} on "
                    f"{model.cfg.device})."
                )
            if step < len(tokens) and float(ours[-1].max() - ours[-1, tokens[step]]) > 2 * limit:
                raise ParityError(
                    f"expected token {tokens[step]} after step {step} ({what}), got "
                    f"{int(ours[-1].argmax())}."
                )
    return differences[0], max(differences[1:], default=0.0)


def _require_own(model: HookedTransformer, prompt: EmbeddedPrompt) -> None:
    """Refuse a prompt that another model embedded: its words are not this model's embeddings."""
    if "text" not in prompt.spans:
        return
    words = prompt.spans["text"].to(model.cfg.device)
    if not torch.equal(prompt.embeds[0, words], model.embed(prompt.tokens[0, words])):
        raise ParityError(
            "expected a prompt embedded by this model, got words whose embeddings are not its own. "
            "Embed the prompt again with this checkpoint."
        )


def _require_live(model: HookedTransformer) -> int:
    """How many hook points there are; each must move the logits of a short text."""
    generator = torch.Generator().manual_seed(0)
    text = model.embedded_tokens(torch.arange(2, 10)[None] % model.cfg.d_vocab)
    with model.every_hook_point():
        clean = model(text)
        points = model.filtered(None)
        for name in points:

            def shake(tensor: Tensor, hook: HookPoint) -> Tensor:
                if not tensor.is_floating_point():  # which experts: the next ones
                    return (tensor + 1) % (int(tensor.max()) + 1)
                factor = (0.5 + torch.rand(tensor.shape, generator=generator)).to(tensor)
                return tensor * factor if bool(tensor.any()) else factor

            if torch.equal(model.run_with_hooks(text, fwd_hooks=[(name, shake)]), clean):
                raise ParityError(
                    f"expected an edit at {name!r} to move the logits, got the same to the bit."
                )
    return len(points)


def _sum_rows(sums: list[float], prompt: EmbeddedPrompt) -> HookFunction:
    def measure(pattern: Tensor, hook: HookPoint) -> None:
        off = (pattern.float().sum(-1) - 1).abs().amax((0, 1))
        if prompt.mask is not None and len(off) == prompt.n_pos:
            off = off[(prompt.mask[0] != 0).to(off.device)]
        sums.append(float(off.max()))

    return measure


def _limit(run: Run, tolerance: float | None) -> float:
    if tolerance is not None:
        return tolerance
    logits = run[0][0]
    if logits.device.type == "cpu":
        return 0.0
    return 32 * torch.finfo(logits.dtype).eps * float(logits.abs().max())


@contextmanager
def _eager(hf: Any, attention: bool = True) -> Iterator[None]:
    """Experts one after the other, since grouped kernels round otherwise; attention likewise."""
    config = hf.config.get_text_config()
    attn, experts = config._attn_implementation, getattr(config, "_experts_implementation", None)
    mixture = bool(getattr(config, "num_experts", 0))
    if attention:
        hf.set_attn_implementation("eager")
    if mixture:
        hf.set_experts_implementation("eager")
    try:
        yield
    finally:
        if attention:
            hf.set_attn_implementation(attn)
        if mixture:
            hf.set_experts_implementation(experts)
