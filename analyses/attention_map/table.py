"""Which weights of each row of attention are kept, what are their positions, and what is summed?"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from analyses.attention_map.packing import LEAST, NONE, levels, packed
from analyses.attention_share.sinks import SinkWatch
from analyses.cases import Case, Cases, Skip, embedded, plain_answer, tabulate
from analyses.configs import MODALITIES
from analyses.configs import AttentionMapConfig as Config
from analyses.text.pieces import pieces
from hooked_omni import EmbeddedPrompt, HookedOmni, HookedTransformer, names
from hooked_omni.decoding.prefill import prefill
from hooked_omni.decoding.score import forced_logits
from hooked_omni.hooks.hook_point import HookPoint
from hooked_omni.hooks.interventions import Hook, SpanHook, SpanPositions

COLUMNS = (
    *("answer", "ended", "token_text", "n_queries", "n_layers", "n_heads", "n_kept", "segments"),
    *("part_of", "part_at", "part_sink", "packed", "bound", "sum_bound", "kept_share", "sinks"),
    *("video_position", "video_frame", "video_row", "video_column", "frame_seconds"),
    *("audio_position", "audio_second", "no_grid"),
)
_SEEN = ("video", "image")
Part = tuple[str, int, bool]
"""Span, frame or second (-1 for neither), and whether it is of sinks."""


def run(omni: HookedOmni, cases: Cases, config: Config = Config()) -> pd.DataFrame:
    """The largest weights of every generated position, layer and head.

    Returns:
        One row per case, with

        * `sample`, `kind`, `question`: the case. `answer`: its text;
          `ended`: whether the model ended it, rather than the limit.
        * `token_text`: texts of its tokens, without the end token.
        * `n_queries`: generated positions that attend, of which query `q` predicts token `q + 1`:
          all but the last token, which no pass reads. `n_layers`, `n_heads`; `n_kept` weights of
          each row at most.
        * `segments`: spans of the prompt, and "generated", which add up to 1.
        * `part_of`, `part_at`, `part_sink`: what each sum is of, all together 1: a span, or
          "generated"; the frame of a picture or the whole second of a sound, -1 for what is
          neither; whether of its sinks alone, or of all but these.
        * `packed`: positions, weights and sums, as `packing.unpacked` reads them.
        * `bound`: the largest error of any weight, dropped or rounded.
        * `sum_bound`: that of a sum, of one head or a mean over all of a layer or several; of a
          mean over n heads n times less.
        * `kept_share`: percent of the attention on the prompt that is kept, by layer.
        * `sinks`: positions that are attention sinks (`attention_share/sinks.py`).
        * `video_position`, `video_frame`, `video_row`, `video_column`: of each position that is a
          cell of the picture; `frame_seconds`: when each frame starts. Empty without any, for the
          reason in `no_grid`, which is "" if there is none.
        * `audio_position`, `audio_second`: of each position of a sound, and when it starts in it.

        An answer of one token is skipped, and a prompt of 65 535 positions or more.
    """
    return tabulate(omni, lambda case: _rows(omni, case, config), cases, COLUMNS)


def _rows(omni: HookedOmni, case: Case, config: Config) -> Iterator[dict[str, Any]]:
    model = omni.model
    prompt = prefill(model, embedded(omni, case), SinkWatch.at(model))
    answer = plain_answer(omni, case, prompt, config.max_new_tokens)
    if len(answer.tokens) < 2 or prompt.n_pos >= NONE:
        raise Skip(
            f"expected an answer of two tokens or more to a prompt of less than {NONE} positions, "
            f"got {answer.text!r} to {prompt.n_pos}: no generated position attends to anything, "
            "or positions do not fit."
        )
    segments = [*(s for s in MODALITIES if s in prompt.spans), "generated"]
    grid = _grid(prompt)
    watch = SinkWatch(model, prompt)
    kept = _Kept(model, prompt, len(answer.tokens) - 1, _parts(prompt, grid), config.kept)
    forced_logits(model, prompt, answer.tokens, [*kept.hooks(), *watch.hooks()])
    parts, sums = kept.without(watch.sinks(), watch.paid())
    data, error = packed(*(one.numpy() for one in (kept.positions, kept.weights, sums)))
    ends = torch.tensor(model.cfg.eos_tokens, dtype=torch.long)
    said = answer.tokens[~torch.isin(answer.tokens, ends)].tolist()
    held = kept.weights * (kept.weights >= LEAST)
    on_prompt = [i for i, part in enumerate(parts) if part[0] != "generated"]
    whole = sums[..., on_prompt].sum((1, 2, 3)).clamp_min(1e-12)
    yield dict(
        answer=answer.text,
        ended=answer.ended,
        token_text=tuple(pieces(model.tokenizer, said)),
        n_queries=len(answer.tokens) - 1,
        n_layers=model.cfg.n_layers,
        n_heads=model.cfg.n_heads,
        n_kept=kept.weights.shape[-1],
        segments=tuple(segments),
        **dict(zip(("part_of", "part_at", "part_sink"), zip(*parts, strict=True), strict=True)),
        packed=data,
        bound=max(error, kept.dropped),
        sum_bound=2 / levels(sums.numel()),
        kept_share=tuple((100 * held.sum((1, 2, 3)) / whole).tolist()),
        sinks=tuple(watch.sinks().tolist()),
        **grid,
    )


class _Kept:
    """Reduces each layer's pattern inside a hook; no more than `[head, query, key]` exists."""

    def __init__(
        self,
        model: HookedTransformer,
        prompt: EmbeddedPrompt,
        n_queries: int,
        parts: list[Part],
        most: int,
    ) -> None:
        self.cfg, self.prompt, n_pos = model.cfg, prompt, prompt.n_pos
        self.parts = sorted(set(parts))
        self.part = torch.tensor([self.parts.index(one) for one in parts])
        self.inside = F.one_hot(self.part).float()  # the last row is for the answer
        rows = model.cfg.n_layers, model.cfg.n_heads, n_queries
        self.n_kept = min(most, n_pos)
        self.positions: Int[Tensor, "layer head query kept"] = torch.zeros(
            *rows, self.n_kept, dtype=torch.int32
        )
        self.weights: Float[Tensor, "layer head query kept"] = torch.zeros(*rows, self.n_kept)
        self.sums: Float[Tensor, "layer head query part"] = torch.zeros(*rows, len(self.parts))
        self.dropped = 0.0

    def hooks(self) -> list[Hook]:
        """On every layer's pattern."""
        look = SpanHook(SpanPositions(self.prompt.spans, "generated"), self._reduce, by_query=True)
        return [(names.pattern(layer), look) for layer in range(self.cfg.n_layers)]

    def without(
        self, sinks: Int[Tensor, " sink"], paid: Float[Tensor, "query layer head sink"]
    ) -> tuple[list[Part], Float[Tensor, "layer head query part"]]:
        """The sums, in which the sinks of a frame or second are a part of their own."""
        parts, sums = [*self.parts], self.sums.clone()
        for i in self.part[sinks].unique().tolist():
            of, at, _ = self.parts[i]
            if at >= 0:
                apart = paid[..., self.part[sinks] == i].sum(-1).permute(1, 2, 0)
                sums[..., i] = (sums[..., i] - apart).clamp_min(0)
                parts.append((of, at, True))
                sums = torch.cat([sums, apart[..., None]], -1)
        order = sorted(range(len(parts)), key=parts.__getitem__)
        return [parts[i] for i in order], sums[..., order]

    def _reduce(self, pattern: Tensor, _index: Tensor, hook: HookPoint) -> None:
        paid, n_pos = pattern[0].float(), self.prompt.n_pos  # head, query, key
        rows = slice(hook.window.start - n_pos, hook.window.stop - n_pos)
        at = names.layer_of(str(hook.name)), slice(None), rows
        members = self.inside.to(paid.device)
        sums = paid[..., :n_pos] @ members[:-1]
        sums += paid[..., n_pos:].sum(-1, keepdim=True) * members[-1]
        self.sums[at] = sums.cpu()
        best = paid[..., :n_pos].topk(min(self.n_kept + 1, n_pos), dim=-1)
        self.weights[at] = best.values[..., : self.n_kept].cpu()
        self.positions[at] = best.indices[..., : self.n_kept].int().cpu()
        rest = best.values[..., self.n_kept :]
        self.dropped = max(self.dropped, float(rest.max()) if rest.numel() else 0.0)


def _parts(prompt: EmbeddedPrompt, grid: dict[str, Any]) -> list[Part]:
    """What each position of the prompt counts to; the last is the answer."""
    spans, parts = prompt.spans, [("generated", -1, False)] * (prompt.n_pos + 1)
    for segment in MODALITIES:
        for name in spans.numbered(segment) or [segment]:
            for position in spans.positions.get(name, torch.zeros(0)).tolist():
                parts[position] = (name, -1, False)
    for times in ("video_position", "video_frame"), ("audio_position", "audio_second"):
        for position, at in zip(*(grid[name] for name in times), strict=True):
            parts[position] = (parts[position][0], int(at), False)
    return parts


def _grid(prompt: EmbeddedPrompt) -> dict[str, Any]:
    """The cells of the picture and the seconds of the sound, by position."""
    spans, found = prompt.spans, dict[str, Any]()
    names_of = [name for name in spans.grid if name.partition(".")[0] in _SEEN]
    seen, why = any(name in spans for name in _SEEN), ""
    if seen and len(names_of) != 1:
        several = f"{len(names_of)} pictures in one prompt"
        unknown = prompt.facts.get("no_grid") or "the model's tokens of a frame are no rows of it"
        why = several if names_of else unknown
    cells, frame_seconds = torch.zeros(0, 4, dtype=torch.long), ()
    if seen and not why:
        name = names_of[0]
        cells = torch.cat([spans.positions[name][:, None], spans.grid[name]], 1)
        starts = spans.seconds.get(name)
        n_frames = int(cells[:, 1].max()) + 1
        firsts = [int((cells[:, 1] == i).nonzero()[0]) for i in range(n_frames)]
        frame_seconds = () if starts is None else tuple(starts[firsts].tolist())
        cells = cells[cells[:, 2] >= 0]
    for column, row in zip(("position", "frame", "row", "column"), cells.T, strict=True):
        found[f"video_{column}"] = tuple(row.tolist())
    sounds = [name for name in spans.numbered("audio") or ["audio"] if name in spans.seconds]
    for name, of in dict(position=spans.positions, second=spans.seconds).items():
        found[f"audio_{name}"] = tuple(x for sound in sounds for x in of[sound].tolist())
    return {**found, "frame_seconds": frame_seconds, "no_grid": why}
