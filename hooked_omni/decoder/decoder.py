"""The decoder of an audio-visual LLM, with TransformerLens's hook points.

Weights are the checkpoint's own tensors, never copied, and every operation is the one the Hugging
Face model runs, in its order: logits can be equal to the bit. `hook_embed` takes a prompt's
precomputed embeddings, so audio and video need no towers here.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedRootModule

from hooked_omni.decoder.attention import CausalContext
from hooked_omni.decoder.components import Block, Context, RMSNorm, Rotary
from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.decoder.key_value_cache import KeyValueCache
from hooked_omni.decoder.shared_prefix import RowsContext, SharedPrefix
from hooked_omni.decoder.weights import WeightViews
from hooked_omni.errors import HookError, PromptError
from hooked_omni.hooks.activation_cache import ActivationCache, Keep
from hooked_omni.hooks.hook_point import ForwardState, HookFunction, HookPoint
from hooked_omni.hooks.interventions import Condition, Hook, as_hooks, require_reach
from hooked_omni.inputs.prompt import EmbeddedPrompt, NoSpans
from hooked_omni.inputs.spans import Spans

__all__ = ["HookedDecoder", "NamesFilter"]

Logits = Float[Tensor, "batch pos d_vocab"]
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None


class HookedDecoder(WeightViews, HookedRootModule):
    """Decoder with hook points; takes an `EmbeddedPrompt`, or tokens for plain text.

    ```python
    logits = model(prompt)                                       # [1, pos, d_vocab]
    logits, cache = model.run_with_cache(prompt, names_filter="blocks.3.attn.hook_pattern")
    logits = model.run_with_hooks(prompt, fwd_hooks=[(name, hook_function)])
    ```
    """

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.tokenizer: Any = None
        self.current: Any = ForwardState()
        self.embed = nn.Embedding(cfg.d_vocab, cfg.d_model)
        self.hook_embed = HookPoint()  # [batch, pos, d_model]
        self.blocks = nn.ModuleList([Block(cfg, layer) for layer in range(cfg.n_layers)])
        self.ln_final = RMSNorm(cfg.d_model, cfg.eps)
        self.unembed = nn.Linear(cfg.d_model, cfg.d_vocab, bias=False)
        self.rotary = Rotary(cfg)
        self.setup()
        for point in self.hook_dict.values():
            point.current = self.current
        self.eval()

    # --- passes -----------------------------------------------------------------------------

    def forward(self, input: EmbeddedPrompt | Int[Tensor, "batch pos"]) -> Logits:
        """Logits of every position, for an embedded prompt or for tokens of plain text.

        Raises:
            HookError: If a hook cannot reach these positions, or its edit made a NaN.
            PromptError: For a prompt of another width or dtype, and for unknown tokens.
        """
        prompt = self.as_prompt(input)
        window = range(prompt.n_pos)
        self._require_reach(self.active_hooks(), window, prompt.spans)
        embeds = prompt.embeds
        if self.has_backward_hooks():
            if not torch.is_grad_enabled():
                raise HookError(
                    "expected gradients for backward hooks, got a run without. Leave `no_grad` and "
                    "`inference_mode`."
                )
            # Frozen weights record no graph, and without one a backward hook never fires.
            embeds = embeds if embeds.requires_grad else embeds.detach().requires_grad_()
        return self.unembed(self.run_pass(embeds, self.context(prompt, window), window))

    def has_backward_hooks(self) -> bool:
        """Whether any hook waits for gradients."""
        return any(point.bwd_hooks for point in self.hook_dict.values())

    def context(
        self,
        prompt: EmbeddedPrompt,
        window: range,
        cache: KeyValueCache | SharedPrefix | None = None,
    ) -> Context:
        """How the positions of `window` read the ones up to themselves.

        Raises:
            PromptError: Behind the longest sequence that this decoder computes exactly.
        """
        limit = self.cfg.rope_limit
        if limit is not None and window.stop > limit:
            raise PromptError(
                f"expected at most {limit} positions, got {window.stop}: behind them this model "
                "turns by other rotary frequencies, which are not computed here. Use fewer frames "
                "or a shorter caption."
            )
        cos, sin = self.rotary(prompt.position_ids_at(window))
        real = _real(prompt.mask, window)
        if isinstance(cache, SharedPrefix):
            context: Context = RowsContext(cache, cos, sin, window, real)
        else:
            context = CausalContext(cos, sin, window, real, cache)
        context.deepstack = prompt.deepstack_at(window)
        return context

    def run_pass(
        self, embeds: Float[Tensor, "batch pos d_model"], context: Context, window: range
    ) -> Float[Tensor, "batch pos d_model"]:
        """One pass through the blocks: what the unembedding reads at each position.

        Raises:
            HookError: If an edit made a NaN.
        """
        before = self.current.window, self.current.edits
        self.current.window, self.current.edits = window, []
        try:
            return self._run_blocks(embeds, context)
        finally:  # a hook may run the model itself
            self.current.window, self.current.edits = before

    def _run_blocks(
        self, embeds: Float[Tensor, "batch pos d_model"], context: Context
    ) -> Float[Tensor, "batch pos d_model"]:
        resid = self.hook_embed(embeds)
        for layer, block in enumerate(self.blocks):
            resid = block(context.enter(layer, resid), context)
        final = self.ln_final(context.leave(resid))
        if self.current.edits and bool(final.isnan().any()):
            raise HookError(
                f"expected numbers after the edits, got NaN in the final residual stream. Edited "
                f"here: {sorted(set(self.current.edits))}. Check what these hooks return."
            )
        return final

    def as_prompt(self, input: EmbeddedPrompt | Int[Tensor, "batch pos"]) -> EmbeddedPrompt:
        """`input` at this decoder's door: checked, on its device, plain text embedded.

        Raises:
            PromptError: For a prompt of another width or dtype, and for unknown tokens.
        """
        weight = self.embed.weight
        if (self.cfg.dtype, self.cfg.device) != (weight.dtype, weight.device):
            self._follow_weights()  # they are shared: the Hugging Face model was moved
        if isinstance(input, EmbeddedPrompt):
            expected, came = (self.cfg.d_model, self.cfg.dtype), input.embeds
            if (came.shape[-1], came.dtype) != expected:
                raise PromptError(
                    f"expected embeddings of width {expected[0]} and {expected[1]}, got width "
                    f"{came.shape[-1]} and {came.dtype}. Embed the prompt with this model, or "
                    "convert it knowingly with `prompt.to(dtype=...)`."
                )
            layers = 0 if input.deepstack is None else len(input.deepstack)
            if layers not in (0, self.cfg.n_deepstack):
                raise PromptError(
                    f"expected vision features for {self.cfg.n_deepstack} blocks, got some for "
                    f"{layers}. Embed the prompt with this model."
                )
            return input if came.device == self.cfg.device else input.to(self.cfg.device)
        if input.ndim != 2 or input.is_floating_point() or not input.numel():
            raise PromptError(
                f"expected an EmbeddedPrompt or tokens [batch, pos], got {input.dtype} of shape "
                f"{tuple(input.shape)}. Use `embed_inputs` for ready-made embeddings."
            )
        tokens = input.to(self.cfg.device)
        if int(tokens.min()) < 0 or int(tokens.max()) >= self.cfg.d_vocab:
            raise PromptError(
                f"expected tokens from 0 to {self.cfg.d_vocab - 1}, got {int(tokens.min())} to "
                f"{int(tokens.max())}. They belong to another vocabulary."
            )
        batch, n_pos = tokens.shape
        return EmbeddedPrompt(
            embeds=self.embed(tokens),
            position_ids=torch.arange(n_pos, device=tokens.device).expand(3, batch, -1),
            mask=None,
            tokens=tokens,
            spans=_text_spans(n_pos) if batch == 1 else NoSpans({}, n_pos),
            facts={"text_only": True},
        )

    # --- hooks ------------------------------------------------------------------------------

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[Hook] = (),
        bwd_hooks: Iterable[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["HookedDecoder"]:
        """Hooks that live as long as the `with` block.

        Raises:
            HookError: For a name that no live hook point has.
        """
        fwd_hooks, bwd_hooks = list(fwd_hooks), list(bwd_hooks)
        for name, _ in [*fwd_hooks, *bwd_hooks]:
            self.require_hook(name)
        with super().hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            yield self

    def add_hook(self, name: Any, hook: HookFunction, *args: Any, **kwargs: Any) -> None:
        """As in TransformerLens; the hook stays until `reset_hooks`.

        Raises:
            HookError: For a name that no live hook point has.
        """
        self.require_hook(name)
        super().add_hook(name, hook, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    def run_with_hooks(
        self,
        input: EmbeddedPrompt | Int[Tensor, "batch pos"],
        fwd_hooks: Condition = (),
        bwd_hooks: Iterable[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Logits:
        """Logits of a run with hooks or interventions, which are gone afterwards.

        Raises:
            HookError: For a hook that cannot act on this run, or whose edit made a NaN.
        """
        hooks = as_hooks(fwd_hooks, getattr(input, "spans", None))
        with self.hooks(hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self(input)

    def run_with_cache(  # pyright: ignore[reportIncompatibleMethodOverride]  # a cache, not a dict
        self,
        input: EmbeddedPrompt | Int[Tensor, "batch pos"],
        names_filter: NamesFilter = None,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        pos_slice: Any = None,
        fwd_hooks: Condition = (),
    ) -> tuple[Logits, ActivationCache]:
        """Logits, and the activations that `names_filter` names (all by default).

        Caching changes no number, except that it opens the attention of a layer whose scores or
        pattern are cached (see `cache.py`). With `fwd_hooks`, the cache holds what they made.

        Raises:
            HookError: For a name that no live hook point has, or a hook that cannot act.
        """
        kept: dict[str, Tensor] = {}
        keep = Keep(kept, device, pos_slice)
        hooks = as_hooks(fwd_hooks, getattr(input, "spans", None))
        with self.hooks([*hooks, *((name, keep) for name in self.filtered(names_filter))]):
            logits = self(input)
        cache = ActivationCache(kept, self)
        if remove_batch_dim:
            cache.remove_batch_dim(logits.shape[0])
        return logits, cache

    def require_hook(self, name: str | Callable[[str], bool]) -> None:
        """Refuse a name that no live hook point has.

        Raises:
            HookError: With the nearest name, or the flag that brings the hook point to life.
        """
        if callable(name):
            if not any(name(candidate) for candidate in self._live()):
                raise HookError("expected a filter that some hook name passes, got one none does.")
            return
        if name not in self.hook_dict:
            near = difflib.get_close_matches(str(name), self.hook_dict, n=1, cutoff=0.0)
            raise HookError(
                f"expected a hook of this {self.cfg.n_layers}-layer model, got {name!r}. "
                f"Closest is {near[0]!r}; layers count from 0."
            )
        if name.endswith("hook_result") and not self.cfg.use_attn_result:
            raise HookError(
                f"expected a live hook point, got {name!r}, which is off because it is large. "
                "Set `model.cfg.use_attn_result = True` first."
            )

    def require_runnable(self, hooks: Iterable[Hook], window: range, spans: Spans) -> None:
        """Refuse hooks that could not act on a run over `window`.

        Raises:
            HookError: For a name that no live hook point has, positions that the run does not
                reach, or a head that is not there.
        """
        for name, function in hooks:
            self.require_hook(name)
            named = [(one, function) for one in self.named(name)]
            self._require_reach(named, window, spans)

    def _require_reach(
        self, hooks: Iterable[tuple[str, HookFunction]], window: range, spans: Spans
    ) -> None:
        require_reach(hooks, window, spans, self.cfg.n_heads, self.cfg.n_key_value_heads)

    def named(self, name: str | Callable[[str], bool]) -> list[str]:
        """Names of the live hook points that `name` is, or passes."""
        return [name] if isinstance(name, str) else [n for n in self._live() if name(n)]

    def _live(self) -> list[str]:
        with_results = self.cfg.use_attn_result
        return [n for n in self.hook_dict if with_results or not n.endswith("hook_result")]

    def filtered(self, names_filter: NamesFilter) -> list[str]:
        """Names of the live hook points that a filter passes; all for None."""
        if names_filter is None:
            return self._live()
        chosen = [names_filter] if isinstance(names_filter, str) else names_filter
        if callable(chosen):
            self.require_hook(chosen)
            return [name for name in self._live() if chosen(name)]
        for name in chosen:
            self.require_hook(name)
        return list(chosen)

    def active_hooks(self) -> list[tuple[str, HookFunction]]:
        """Forward hooks that stand on the model now."""
        return [
            (name, handle.user_hook)
            for name, point in self.hook_dict.items()
            for handle in point.fwd_hooks
            if handle.user_hook is not None
        ]

    def _apply(self, fn: Any, recurse: bool = True) -> "HookedDecoder":
        moved = super()._apply(fn, recurse)
        self._follow_weights()
        return moved

    def _follow_weights(self) -> None:
        self.cfg.dtype, self.cfg.device = self.embed.weight.dtype, self.embed.weight.device
        self.rotary = Rotary(self.cfg)


def _text_spans(n_pos: int) -> Spans:
    every = torch.arange(n_pos)
    return Spans({"question": every, "text": every, "prompt": every, "last": every[-1:]}, n_pos)


def _real(mask: Int[Tensor, "batch pos"] | None, window: range) -> Tensor | None:
    if mask is None or bool((mask != 0).all()):
        return None
    behind = mask.new_ones(mask.shape[0], max(window.stop - mask.shape[1], 0))
    return torch.cat([mask, behind], dim=1) != 0
