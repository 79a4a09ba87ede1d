"""What does the model say?

Greedy decoding with cached keys and values. A position behind the prompt gets the rotary position
that `generate` of transformers gives it, and hooks fire at every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni import names
from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.key_value_cache import KeyValueCache
from hooked_omni.decoder.shared_prefix import SharedPrefix
from hooked_omni.decoding.prefill import prefill_state, prompt_pass
from hooked_omni.errors import HookError, PromptError
from hooked_omni.hooks.hook_point import LiveHook
from hooked_omni.hooks.interventions import Condition, Hook, as_hooks
from hooked_omni.inputs.prompt import EmbeddedPrompt

__all__ = ["Capture", "Decoder", "Generation", "generate", "one_prompt"]


@dataclass(frozen=True)
class Capture:
    """What to measure while a caption is made; patterns are reduced at once, never kept.

    Attributes:
        segments: Spans whose share of the generated positions' attention is measured, for each
            generated position, layer and head.
        top_k: How many of the likeliest tokens to keep at each step, with log-probabilities.
    """

    segments: tuple[str, ...] = ()
    top_k: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.segments, str) or self.top_k < 0:
            raise PromptError(
                f"expected a tuple of spans and a top_k of at least 0, got {self.segments!r} and "
                f"{self.top_k}. Write ('audio',), with its comma."
            )


@dataclass(frozen=True, eq=False)
class Generation:
    """A greedy caption.

    Attributes:
        tokens: New tokens, the end token included if it came.
        text: `tokens` without special ones; None for a model without a tokenizer.
        logits: What each new token was chosen from, if asked for.
        shares: Attention of each generated position to each captured segment, by layer and head.
            The last new token is read by no pass, so it is no query: an answer of one token has
            none.
        top_tokens: The likeliest tokens at each step, best first.
        top_logprobs: Their log-probabilities, in nats.
    """

    tokens: Int[Tensor, " n"]
    text: str | None
    logits: Float[Tensor, "n d_vocab"] | None = None
    shares: Float[Tensor, "query layer head segment"] | None = None
    top_tokens: Int[Tensor, "n k"] | None = None
    top_logprobs: Float[Tensor, "n k"] | None = None

    @property
    def attention(self) -> Float[Tensor, "layer segment"] | None:
        """Mean of `shares` over generated positions and heads; NaN where there are none."""
        return None if self.shares is None else self.shares.double().mean((0, 2))


@torch.no_grad()
def generate(
    model: HookedDecoder,
    prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
    max_new_tokens: int = 64,
    fwd_hooks: Condition = (),
    stop_at_eos: bool = True,
    return_logits: bool = False,
    capture: Capture | None = None,
) -> Generation:
    """Greedy caption of one prompt.

    A prefilled prompt remembers its plain captions: without hooks, and with nothing else to return,
    one that is asked for again is not decoded again.

    Args:
        model: The decoder.
        prompt: An embedded prompt, or tokens of plain text.
        max_new_tokens: At most this many.
        fwd_hooks: Hooks and interventions; they see the prompt once, then one position at a time.
        stop_at_eos: End with the first of `model.cfg.eos_tokens`.
        return_logits: Keep the logits of each new token, `[n, d_vocab]`.
        capture: What to measure besides.

    Raises:
        HookError: For a hook that cannot act on this run, or whose edit made a NaN.
        PromptError: For a batch of prompts, or no tokens asked for.
    """
    prompt = one_prompt(model, prompt, max_new_tokens)
    hooks = as_hooks(fwd_hooks, prompt.spans)
    n_pos, total = prompt.n_pos, prompt.n_pos + max_new_tokens - 1
    model.require_runnable(hooks, range(total), prompt.spans)
    passed = prefill_state(model, prompt)
    plain = not (hooks or return_logits or capture)
    said = passed.said if passed and plain else {}  # else written, and never read
    asked = max_new_tokens, frozenset(model.cfg.eos_tokens if stop_at_eos else ())
    if asked in said:
        return Generation(torch.tensor(said[asked]), _text(model, said[asked]))
    final, cache = prompt_pass(model, prompt, hooks, n_pos, total)
    decoder = Decoder(model, prompt, cache, max_new_tokens, stop_at_eos, return_logits, capture)
    with model.hooks([*hooks, *decoder.hooks()]):
        caption = decoder.run(model.unembed(final)[:, -1], n_pos)[0]
    said[asked] = tuple(caption.tokens.tolist())
    return caption


class Decoder:
    """Greedy decoding of one or more rows, each over its own keys and values.

    Attributes:
        rows: Which caption each row of the batch belongs to; rows that have ended leave.
    """

    def __init__(
        self,
        model: HookedDecoder,
        prompt: EmbeddedPrompt,
        cache: KeyValueCache | SharedPrefix,
        max_new_tokens: int,
        stop_at_eos: bool,
        return_logits: bool,
        capture: Capture | None,
        n_rows: int = 1,
    ) -> None:
        self.model, self.prompt, self.cache = model, prompt, cache
        self.max_new_tokens, self.return_logits = max_new_tokens, return_logits
        self.capture = capture or Capture()
        self.ends = set(model.cfg.eos_tokens) if stop_at_eos else set()
        self.rows = list(range(n_rows))
        self.tokens: list[list[int]] = [[] for _ in range(n_rows)]
        self.kept: list[list[tuple[Tensor, ...]]] = [[] for _ in range(n_rows)]
        self.shares: list[list[Tensor]] = [[] for _ in range(n_rows)]
        self.step = torch.empty(0)  # shares of the step under way, [row, layer, head, segment]

    def hooks(self) -> list[Hook]:
        """Hooks that measure attention while decoding; none unless segments are captured."""
        if not self.capture.segments:
            return []
        members = [
            self.prompt.spans.mask(segment, range(self.prompt.n_pos + 1))
            for segment in self.capture.segments
        ]
        layers = range(self.model.cfg.n_layers)
        return [(names.pattern(layer), _Shares(self, layer, members)) for layer in layers]

    def run(self, logits: Float[Tensor, "row d_vocab"], n_pos: int) -> list[Generation]:
        """Captions that start with the token that `logits` choose, at position `n_pos`."""
        window = range(n_pos, n_pos + 1)
        while True:
            chosen = logits.argmax(-1)
            going = self._take(logits, chosen)
            if not going:
                return [self._caption(row) for row in range(len(self.tokens))]
            chosen = chosen[going]
            self.rows[:] = [self.rows[i] for i in going]
            if isinstance(self.cache, SharedPrefix):
                self.cache.advance(going, chosen.tolist())
            context = self.model.context(self.prompt, window, self.cache)
            self._open_step()
            final = self.model.run_pass(self.model.embed(chosen[:, None]), context, window)
            for row, shares in zip(self.rows, self.step, strict=False):
                self.shares[row].append(shares)
            logits = self.model.unembed(final)[:, -1]
            window = range(window.stop, window.stop + 1)

    def _open_step(self) -> None:
        if self.capture.segments:
            cfg = self.model.cfg
            shape = (len(self.rows), cfg.n_layers, cfg.n_heads, len(self.capture.segments))
            self.step = torch.empty(shape, device=cfg.device)

    def _shares_of(self, row: int) -> Tensor | None:
        if not self.capture.segments:
            return None
        cfg, steps = self.model.cfg, self.shares[row]
        none = torch.empty(0, cfg.n_layers, cfg.n_heads, len(self.capture.segments))
        return torch.stack(steps).cpu() if steps else none

    def _take(self, logits: Tensor, chosen: Tensor) -> list[int]:
        going = []
        for i, (row, token) in enumerate(zip(self.rows, chosen.tolist(), strict=True)):
            self.tokens[row].append(token)
            self.kept[row].append(self._measured(logits[i]))
            if token not in self.ends and len(self.tokens[row]) < self.max_new_tokens:
                going.append(i)
        return going

    def _measured(self, logits: Float[Tensor, " d_vocab"]) -> tuple[Tensor, ...]:
        kept: tuple[Tensor, ...] = (logits.clone(),) if self.return_logits else ()
        if self.capture.top_k:
            top_k = min(self.capture.top_k, len(logits))
            kept += tuple(logits.float().log_softmax(-1).topk(top_k))
        return kept

    def _caption(self, row: int) -> Generation:
        tokens, kept = self.tokens[row], [torch.stack(t) for t in zip(*self.kept[row], strict=True)]
        logprobs, top = kept[-2:] if self.capture.top_k else (None, None)
        return Generation(
            tokens=torch.tensor(tokens, dtype=torch.long),
            text=_text(self.model, tokens),
            logits=kept[0] if self.return_logits else None,
            shares=self._shares_of(row),
            top_tokens=top,
            top_logprobs=logprobs,
        )


class _Shares(LiveHook):
    """Sums each row's attention to the captured segments, one step's queries at a time."""

    def __init__(self, decoder: Decoder, layer: int, members: list[Tensor]) -> None:
        self.decoder, self.layer = decoder, layer
        self.of_prompt = torch.stack([mask[:-1] for mask in members], 1).float()
        self.of_answer = torch.stack([mask[-1] for mask in members]).float()

    def __call__(self, pattern: Tensor, hook: Any) -> None:
        """Reduce `[row, heads ..., 1, key]` to `[row, head, segment]`."""
        paid = pattern.float().flatten(1, -2)
        n_pos = len(self.of_prompt)
        self.of_prompt, self.of_answer = (
            of.to(paid.device) for of in (self.of_prompt, self.of_answer)
        )
        shares = paid[..., :n_pos] @ self.of_prompt
        shares += paid[..., n_pos:].sum(-1, keepdim=True) * self.of_answer
        cache = self.decoder.cache
        place = cache.place if isinstance(cache, SharedPrefix) else [0]
        self.decoder.step[:, self.layer] = shares[place]


def _text(model: HookedDecoder, tokens: Sequence[int]) -> str | None:
    """`tokens` without special ones; None for a model without a tokenizer."""
    if model.tokenizer is None:
        return None
    return model.tokenizer.decode(list(tokens), skip_special_tokens=True)


def one_prompt(
    model: HookedDecoder, prompt: EmbeddedPrompt | Int[Tensor, "1 pos"], max_new_tokens: int
) -> EmbeddedPrompt:
    """`prompt` at the decoder's door, if it is one and something is asked for.

    Raises:
        HookError: If hooks wait for gradients, of which there are none here.
        PromptError: Otherwise.
    """
    if max_new_tokens < 1:
        raise PromptError(f"expected at least one new token, got {max_new_tokens}.")
    if model.has_backward_hooks():
        raise HookError(
            "expected a model without backward hooks, got some: captions and scores have no "
            "gradients. Use `model(prompt)`, or `model.reset_hooks()`."
        )
    prompt = model.as_prompt(prompt)
    if prompt.embeds.shape[0] != 1:
        raise PromptError(
            f"expected one prompt, got a batch of {prompt.embeds.shape[0]}. Embed and caption "
            "prompts one at a time; `generate_many` batches conditions, not prompts."
        )
    return prompt
