"""The decoder of an audio-visual LLM, with TransformerLens's hook points.

Weights are the checkpoint's own tensors, and every operation is the Hugging Face model's, in its
order: logits can be equal to the bit. `hook_embed` takes precomputed embeddings, so audio and video
need no towers here.
"""

from itertools import islice
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked_omni.decoder.attention import CausalContext
from hooked_omni.decoder.components import Block, Context, Resid, RMSNorm
from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.decoder.hooked_runs import HookedRuns, Input
from hooked_omni.decoder.key_value_cache import KeyValueCache
from hooked_omni.decoder.rotary import Rotary
from hooked_omni.decoder.shared_prefix import RowsContext, SharedPrefix
from hooked_omni.decoder.text import TextTokens
from hooked_omni.decoder.weights import WeightViews
from hooked_omni.errors import CheckpointError, HookError, NotFiniteError, PromptError
from hooked_omni.hooks.hook_point import ForwardState, HookPoint
from hooked_omni.hooks.turns import in_turn
from hooked_omni.inputs.precision import require_no_autocast
from hooked_omni.inputs.prompt import EmbeddedPrompt


class HookedDecoder(TextTokens, WeightViews, HookedRuns):
    """Decoder with hook points; see `HookedTransformer`, which adds captions, scores and lenses."""

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

    @in_turn
    def forward(
        self,
        input: Input,
        return_type: Literal["logits", "loss", "both"] | None = "logits",
        loss_per_token: bool = False,
        stop_at_layer: int | None = None,
    ) -> Any:
        """Logits of every position, for an embedded prompt, for plain text or for its tokens.

        Args:
            input: Prompt, text or texts of one length, or tokens `[batch, pos]`.
            return_type: "logits" `[batch, pos, d_vocab]`, "loss" (see `loss_fn`), "both", or None.
            loss_per_token: The loss of each next token, not their mean.
            stop_at_layer: Return the residual stream before this layer in place of all these,
                `[batch, pos, d_model]`; negative ones count from the end.

        Raises:
            HookError: If a hook cannot act on this run, lies after the stop, or makes a NaN.
            NotFiniteError: For NaN or infinity that no hook made.
            PromptError: As `as_prompt`.
        """
        if return_type not in ("logits", "loss", "both", None):
            raise PromptError(
                f"expected return_type 'logits', 'loss', 'both', None, got {return_type!r}"
            )
        prompt = self.as_prompt(input)
        window = range(prompt.n_pos)
        self.require_runnable(self.active_hooks(), window, prompt.spans)
        stop = None if stop_at_layer is None else self._stop(stop_at_layer)
        final = self.run_pass(prompt.embeds, self.context(prompt, window), window, stop)
        if stop is not None or return_type is None:
            return final if stop is not None else None
        logits = self.logits_of(final, None if prompt.mask is None else prompt.mask != 0)
        if return_type == "logits":
            return logits
        of_text = isinstance(input, EmbeddedPrompt)
        loss = self.loss_fn(logits, prompt if of_text else prompt.tokens, loss_per_token)
        return loss if return_type == "loss" else (logits, loss)

    def _stop(self, layer: int) -> int:
        """The layer to stop before, from 0 to all; refuses hooks after it."""
        n_layers = self.cfg.n_layers
        stop = layer + n_layers if layer < 0 else layer
        if not 0 <= stop <= n_layers:
            raise HookError(
                f"expected stop_at_layer from {-n_layers} to {n_layers}, got {layer}. Count from 0."
            )
        reached = self._live(stop)
        hooked = (name for name, point in self.hook_dict.items() if point.hooked)
        late = [name for name in hooked if name not in reached]
        if late:
            raise HookError(
                f"expected hooks before layer {stop}, where the run stops, got {late}: they would "
                "do nothing. Stop later, or leave them out."
            )
        return stop

    def context(
        self,
        prompt: EmbeddedPrompt,
        window: range,
        cache: KeyValueCache | SharedPrefix | None = None,
    ) -> Context:
        """How `window` reads the positions up to itself; `PromptError` past `cfg.rope_limit`."""
        limit, positions = self.cfg.rope_limit, prompt.position_ids_at(window)
        long = len(self.cfg.inv_freqs) > 1 and bool(prompt.position_ids.max() >= (limit or 0))
        # By ids, as Hugging Face decides: in time, a clip may take more of them than it has tokens.
        if limit is not None and not long and (n := int(positions.max()) + 1) > limit:
            raise PromptError(
                f"expected at most {limit} positions, got {n}: after them this model "
                "turns all of them by other rotary frequencies, not computed here. Use fewer "
                "frames or tokens."
            )
        cos, sin = self.rotary(positions, long)
        real = _real(prompt.mask, window)
        if isinstance(cache, SharedPrefix):
            context: Context = RowsContext(cache, cos, sin, window, real)
        else:
            context = CausalContext(cos, sin, window, real, cache)
        context.deepstack = prompt.deepstack_at(window)
        return context

    @in_turn
    def run_pass(
        self, embeds: Resid, context: Context, window: range, stop: int | None = None
    ) -> Resid:
        """What the unembedding reads, or the residual stream before layer `stop`.

        Raises:
            CheckpointError: Under `torch.autocast`.
            HookError: For NaN or infinity after an edit, at a position that is no padding.
            NotFiniteError: For the same without an edit.
        """
        require_no_autocast(embeds.device)
        if self.cfg.quantized:
            self._require_no_gradient(embeds)
        now, real = self.current, context.real
        before = now.window, now.edits, now.watched, now.real
        now.window, now.edits, now.watched = window, [], []
        now.real = None if real is None else real[:, window.start : window.stop]
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.cfg.quantized):
                final = self._run_blocks(embeds, context, stop)
            now.watch(final)
            watched = [t.to(final.device) for t in now.watched] if self.cfg.devices else now.watched
            self._require_finite(torch.cat(watched))
            return final
        finally:  # a hook may run the model itself
            now.window, now.edits, now.watched, now.real = before

    def _require_no_gradient(self, embeds: Resid) -> None:
        if torch.is_grad_enabled() and (embeds.requires_grad or self.has_backward_hooks()):
            raise HookError(
                f"expected a run without gradients of a quantized model ({self.cfg.quantized}), "
                "got embeddings or hooks that need some: rounding has none. Load the original."
            )

    def _run_blocks(self, embeds: Resid, context: Context, stop: int | None) -> Resid:
        resid = self.hook_embed(embeds)
        for layer, block in enumerate(islice(self.blocks, stop)):
            if resid.device != (own := self.cfg.device_of(layer)):
                resid = resid.to(own)
                _move(context, own)
            resid = block(context.enter(layer, resid), context)
        resid = context.leave(resid)
        return (self.normed(resid) if stop is None else resid).to(self.cfg.device)

    def normed(self, resid: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos d_model"]:
        """After the final norm, on its device."""
        return self.ln_final(resid.to(self.ln_final.weight.device))

    def unembedded(self, final: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos d_vocab"]:
        """Logits, on the prompt's device."""
        return self.unembed(final.to(self.unembed.weight.device)).to(self.cfg.device)

    def logits_of(
        self, final: Float[Tensor, "*pos d_model"], real: Bool[Tensor, "*pos"] | None = None
    ) -> Float[Tensor, "*pos d_vocab"]:
        """Logits; `NotFiniteError` for NaN or infinity among those of `real` positions."""
        logits = self.unembedded(final)
        self._require_finite(logits if real is None else logits[real])
        return logits

    def _require_finite(self, numbers: Tensor) -> None:
        if bool(torch.stack(numbers.detach().aminmax()).isfinite().all()):
            return
        weights = [n for n, p in self.named_parameters() if not bool(p.isfinite().all())]
        edits = sorted(set(self.current.edits))
        raise (HookError if edits else NotFiniteError)(
            f"expected numbers, got NaN or infinity. Edited here: {edits}; weights with some: "
            f"{weights[:3]}. Check what these hooks return, load these weights again, or check the "
            "prompt's embeddings and position ids. If all is well there, float16 is too narrow."
        )

    def as_prompt(self, input: Input) -> EmbeddedPrompt:
        """`input` as this decoder's input: checked, on its device, plain text embedded.

        Raises:
            CheckpointError: If parts of the model were retyped, or moved but for whole layers.
            PromptError: For a prompt of another width or dtype, and for unknown tokens.
        """
        weight, blocks = self.embed.weight, [b.get_parameter("ln1.weight") for b in self.blocks]
        kinds = {(w.dtype, w.device.type) for w in (weight, *blocks, self.unembed.weight)}
        if len(kinds) > 1 or weight.is_meta:
            raise CheckpointError(
                "expected weights of one dtype on one device, or whole layers on several of a "
                f"kind, got {kinds}. Move the whole model."
            )
        placed = (self.cfg.dtype, self.cfg.device, self.cfg.devices)
        if placed != (weight.dtype, weight.device, self._devices()):
            self.follow_weights()
        if isinstance(input, EmbeddedPrompt):
            return self._checked(input)
        return self.text_prompt(self.to_tokens(input) if isinstance(input, str | list) else input)

    def _checked(self, prompt: EmbeddedPrompt) -> EmbeddedPrompt:
        expected, came = (self.cfg.d_model, self.cfg.dtype), prompt.embeds
        if (came.shape[-1], came.dtype) != expected:
            raise PromptError(
                f"expected embeddings of width {expected[0]} and {expected[1]}, got width "
                f"{came.shape[-1]} and {came.dtype}. Use this model's, or `prompt.to(dtype=...)`."
            )
        layers = 0 if prompt.deepstack is None else len(prompt.deepstack)
        if layers not in (0, self.cfg.n_deepstack):
            raise PromptError(
                f"expected vision features for {self.cfg.n_deepstack} blocks, got some for "
                f"{layers}. Embed the prompt with this model."
            )
        return prompt if came.device == self.cfg.device else prompt.to(self.cfg.device)

    @in_turn
    def _apply(self, fn: Any, recurse: bool = True) -> "HookedDecoder":
        moved = super()._apply(fn, recurse)
        self.follow_weights()
        return moved

    def follow_weights(self) -> None:
        """Take dtype and devices from the weights, which are shared: others may move them."""
        self.cfg.dtype, self.cfg.device = self.embed.weight.dtype, self.embed.weight.device
        self.cfg.devices = self._devices()
        self.rotary = Rotary(self.cfg)

    def _devices(self) -> tuple[torch.device, ...]:
        """Of each layer; empty if all are on the embedding's."""
        own = tuple(block.get_parameter("ln1.weight").device for block in self.blocks)
        return own if {*own} != {self.embed.weight.device} else ()


def _real(mask: Int[Tensor, "batch pos"] | None, window: range) -> Tensor | None:
    if mask is None or bool((mask != 0).all()):
        return None
    later = mask.new_ones(mask.shape[0], max(window.stop - mask.shape[1], 0))
    return torch.cat([mask, later], dim=1) != 0


def _move(context: Context, device: torch.device) -> None:
    """Take what layers share to the device of the next one."""
    context.cos, context.sin = context.cos.to(device), context.sin.to(device)
    context.real = None if context.real is None else context.real.to(device)
    context.deepstack = None if context.deepstack is None else context.deepstack.to(device)
