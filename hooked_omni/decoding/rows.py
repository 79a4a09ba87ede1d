"""What do the rows of a batch say, where a known caption is tried first?

1. The tokens of a draft run through all rows, each with its own hooks, several positions a pass. A
   row keeps them for as long as they are what it would have chosen.
2. Rows that part go on from there, all that have come as far as one batch, a position a step.

Passes over several rows or positions add in another order than a row's own steps: by up to 17
roundings of the largest logit in models of 4 to 36 layers. Where the two best logits are nearer
than `NEAR` roundings, a row is decoded alone, so that its tokens are those of `generate`. Half
precision rounds too much for that, and mixtures of experts may choose others: no draft is tried.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.key_value_cache import KeyValueCache
from hooked_omni.decoder.shared_prefix import SharedPrefix
from hooked_omni.decoding.conditions import Batch
from hooked_omni.decoding.generate import Decoding, Generation, end_tokens, generate, generation
from hooked_omni.hooks.interventions import SpanHook
from hooked_omni.inputs.prompt import EmbeddedPrompt

NEAR = 64
_FIRST, _AT_ONCE = 4, 256  # positions of the first pass, then of all rows together

Final = Float[Tensor, "row n d_model"]
Logits = Float[Tensor, "row d_vocab"]


def forced(
    model: HookedDecoder,
    prompt: EmbeddedPrompt,
    cache: KeyValueCache | SharedPrefix,
    text: Sequence[int],
) -> Iterator[tuple[list[int], int, Final]]:
    """Each pass over a text but its last token: of which rows, from which token on, what it made.

    Between passes the rows may become fewer. A prompt of no sweep has one pass.
    """
    start, width = 0, _FIRST
    while start < len(text) - 1:
        shared = cache if isinstance(cache, SharedPrefix) else None
        rows = [0] if shared is None else shared.rows
        width = len(text) if shared is None else min(width, max(_FIRST, _AT_ONCE // len(rows)))
        stop = min(start + width, len(text) - 1)
        if shared is not None:
            shared.go_on(rows, [text[:stop]] * len(rows))
        yield rows, start, run_rows(model, prompt, cache, start, [text[start:stop]] * len(rows))
        start, width = stop, 2 * width


def run_rows(
    model: HookedDecoder,
    prompt: EmbeddedPrompt,
    cache: KeyValueCache | SharedPrefix,
    start: int,
    tokens: Sequence[Sequence[int]],
) -> Final:
    """What is unembedded after these tokens of every row, the first of them new token `start`."""
    window = range(prompt.n_pos + start, prompt.n_pos + start + len(tokens[0]))
    embeds = model.embed(torch.tensor(tokens, device=model.cfg.device))
    return model.run_pass(embeds, model.context(prompt, window, cache), window)


def logprob(logits: Logits, token: int) -> Float[Tensor, "row 1"]:
    """Log-probability of a token, in nats, float32."""
    return logits.float().log_softmax(-1)[:, token, None]


def takes_draft(model: HookedDecoder, batch: Batch) -> bool:
    """Whether reading a text gives these conditions' numbers, to rounding, as writing it does."""
    hooks = [function for condition in batch.conditions for _, function in condition]
    alone = all(isinstance(one, SpanHook) and one.each_alone for one in hooks)
    exact = _is_wide(model.cfg.dtype) and model.cfg.experts is None
    return len(batch.members) > 1 and alone and exact


def row_captions(
    model: HookedDecoder,
    prompt: EmbeddedPrompt,
    batch: Batch,
    logits: Logits,
    shared: SharedPrefix,
    decoding: Decoding,
) -> list[Generation]:
    """Captions of a batch's rows, from their first logits on."""
    draft = decoding.draft if takes_draft(model, batch) else ()
    rows = _Rows(model, prompt, shared, decoding)
    with model.hooks(batch.row_hooks(model, shared)):
        # The pass over the prompt is each row's own, but for a last position in the batch.
        rows.take(shared.rows, logits, exact=not batch.last_apart)
        scores = rows.try_draft(logits, draft) if draft else [None] * len(rows.tokens)
        rows.go_on()
    plain, made = replace(decoding, draft=(), score_draft=False), []
    for row, own in enumerate(rows.tokens):
        if row in rows.unsure:
            caption = generate(model, prompt, plain, batch.conditions[row])
        else:
            caption = generation(model, own, rows.logits[row])
        made.append(replace(caption, draft_logprobs=scores[row]))
    return made


class _Rows:
    """Captions of rows, as far as they have come."""

    def __init__(
        self, model: HookedDecoder, prompt: EmbeddedPrompt, shared: SharedPrefix, decoding: Decoding
    ) -> None:
        self.model, self.prompt, self.shared, self.decoding = model, prompt, shared, decoding
        self.ends = end_tokens(model, decoding)
        self.tokens: list[list[int]] = [[] for _ in shared.rows]
        self.logits: list[list[Tensor]] = [[] for _ in shared.rows]
        self.unsure: set[int] = set()  # rows with two tokens that are equal but for rounding

    def take(self, rows: Sequence[int], logits: Logits, exact: bool = False) -> None:
        """The next token of each row; `exact` logits are those of `generate` to the bit."""
        near = [False] * len(rows) if exact else _near(logits).tolist()
        for i, (row, token) in enumerate(zip(rows, logits.argmax(-1).tolist(), strict=True)):
            self.tokens[row].append(token)
            if self.decoding.return_logits:
                self.logits[row].append(logits[i].clone())
            if near[i]:
                self.unsure.add(row)

    def going(self, n: int) -> list[int]:
        """Rows of `n` tokens or more whose captions go on."""
        most, every = self.decoding.max_new_tokens, enumerate(self.tokens)
        rows = [row for row, own in every if n <= len(own) < most and own[-1] not in self.ends]
        return [row for row in rows if row not in self.unsure]

    def try_draft(self, logits: Logits, draft: Sequence[int]) -> Sequence[Tensor | None]:
        """Let rows take tokens of a draft; if it is scored, its log-probabilities in each row.

        If it is not scored, rows that part leave, and if most do in one pass, it was no good draft.
        """
        scoring, scores = self.decoding.score_draft, [logprob(logits, draft[0])]
        agree = self._agree(draft, self.going(1))
        if not scoring:
            self._only(agree)
        for rows, start, final in forced(self.model, self.prompt, self.shared, draft):
            if not agree and not scoring:
                break
            for at in range(final.shape[1]):
                after = self.model.logits_of(final[:, at])
                scores += [logprob(after, draft[start + at + 1])] if scoring else []
                self.take(agree, after[[rows.index(row) for row in agree]])
                agree = self._agree(draft, agree)
            if not scoring:
                if 2 * len(agree) < len(rows):
                    break
                self._only(agree)
        return torch.cat(scores, 1).unbind() if scoring else [None] * len(self.tokens)

    def go_on(self) -> None:
        """Bring all captions to their ends."""
        for n in range(1, self.decoding.max_new_tokens):
            going = self.going(n)
            rows = [row for row in going if len(self.tokens[row]) == n]
            if rows:
                texts = [self.tokens[row] for row in rows]
                self.shared.go_on(rows, texts, [row for row in going if row not in rows])
                last = [text[-1:] for text in texts]
                final = run_rows(self.model, self.prompt, self.shared, n - 1, last)
                self.take(rows, self.model.logits_of(final)[:, -1])

    def _agree(self, draft: Sequence[int], rows: Sequence[int]) -> list[int]:
        """Those of `rows` that have said what the draft says, and go on."""
        going = set(self.going(1))
        same = [row for row in rows if self.tokens[row] == list(draft[: len(self.tokens[row])])]
        return [row for row in same if row in going]

    def _only(self, rows: list[int]) -> None:
        """Compute `rows` alone for now."""
        if rows:
            others = [row for row in self.going(1) if row not in rows]
            self.shared.go_on(rows, [self.tokens[row] for row in rows], others)


def _near(logits: Logits) -> Bool[Tensor, " row"]:
    """Whether a row's two best logits are equal but for the rounding of sums in another order."""
    if not _is_wide(logits.dtype):
        return torch.zeros(len(logits), dtype=torch.bool)
    best, second = logits.topk(2).values.unbind(-1)
    return best - second <= NEAR * torch.finfo(logits.dtype).eps * logits.abs().amax(-1)


def _is_wide(dtype: torch.dtype) -> bool:
    return torch.finfo(dtype).eps < 1e-6
