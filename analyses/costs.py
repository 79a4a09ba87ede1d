"""What does a stage of a study take of memory and work, by the sizes of prompts and decoder?"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analyses.knockout.table import chosen_windows
from hooked_omni.decoder import memory
from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.decoding.conditions import most_rows, row_bytes
from hooked_omni.decoding.lens import CHUNK_BYTES

Taken = tuple[int | float, int | float]
"""Bytes, and work."""

_STEP = 50  # positions of a pass that cost as much as reading all weights once, on one CPU thread
_REFERENCE = 12  # tokens of a reference caption, up to its last word for a sound
_LENS_ROW = 1_500  # bytes of a row of the lens's table, as made and as kept
_MODALITIES = ("audio", "video", "image")


@dataclass(frozen=True)
class PromptSizes:
    """Positions of one prompt, "prompt", and of its spans, and of the base's prompt; 0 for none."""

    counts: Mapping[str, int]
    n_base: int = 0

    @property
    def n_pos(self) -> int:
        """All of them."""
        return self.counts["prompt"]

    def n_of(self, span: str) -> int:
        """At most how many a span has, such as "audio", "video@3-4s", or a union."""
        own = (re.split(r"[.@]", part.strip())[0] for part in span.split("+"))
        return min(sum(self.counts.get(name, self.n_pos) for name in own), self.n_pos)

    def has(self, spans: Sequence[str]) -> bool:
        """Whether no modality among these spans is missing."""
        return all(self.counts.get(name, 0) for name in spans if name in _MODALITIES)


@dataclass(frozen=True)
class Costs:
    """What each stage takes of these models: `n_bytes` are of all weights, towers included.

    Bytes are beside those that are `standing`. Work is in positions of a pass: what one costs
    without what it reads.
    """

    cfg: DecoderConfig
    n_bytes: int = 0
    base: DecoderConfig | None = None

    def standing(self, sizes: PromptSizes) -> int:
        """Bytes of weights, and of a case that is `prefilled`: what it is made of, and keeps."""
        heard = self.cfg.n_layers * sizes.counts.get("audio", 0)
        streams = (2 + self.cfg.n_deepstack) * sizes.n_pos + heard
        own = streams * self.cfg.d_model * self.cfg.dtype.itemsize
        return self.n_bytes + memory.keys_values_bytes(self.cfg, sizes.n_pos) + own

    def prefill(self, n_pos: int) -> Taken:
        """Bytes and work of a pass over a prompt."""
        return memory.pass_bytes(self.cfg, n_pos), n_pos * self._position(n_pos / 2)

    def answer(self, n_pos: int, n_new: int) -> Taken:
        """Bytes and work of decoding a plain caption after it."""
        grown = memory.keys_values_bytes(self.cfg, n_pos + n_new)
        logits = n_new * self.cfg.d_vocab * self.cfg.dtype.itemsize
        return grown + logits, n_new * (_STEP + self._position(n_pos))

    def caption(self, sizes: PromptSizes, n_new: int) -> float:
        """Work of a plain caption."""
        return self.prefill(sizes.n_pos)[1] + self.answer(sizes.n_pos, n_new)[1]

    def analysis(self, name: str, config: Any, sizes: PromptSizes) -> Taken:
        """Bytes and work of an analysis of a case whose answer, as long as it may be, is known."""
        cfg, n_pos = self.cfg, sizes.n_pos
        if name == "logit_lens":
            return self._lens(config, sizes)
        if name == "choice":
            # Every option is read after the prompt, and after it again where a rule changes that.
            n = 1 + len(config.conditions)
            passes = sum(map(_edits_prompt, config.conditions.values()))
            passes += config.calibrate != "none"
            n_bytes, whole = self.prefill(n_pos)
            work = _STEP + n * _REFERENCE * self._position(n_pos)
            return max(self._rows(n, 1, n_pos, _REFERENCE, config), n_bytes), work + passes * whole
        m: int = config.max_new_tokens
        total, own = n_pos + m, m * self._position(n_pos)
        grown = memory.keys_values_bytes(cfg, total)
        forced = (
            grown + memory.opened_bytes(cfg, 0, total) + 2 * m * cfg.d_vocab * cfg.dtype.itemsize
        )
        if name in ("attention_share", "attention_map"):
            return grown + memory.opened_bytes(cfg, m, total), own
        if name == "knockout":
            n = 1 + len(config.keys) * len(chosen_windows(config, cfg.n_layers))
            # Decoded; scored by the baseline's caption, and by references heard and seen.
            scored = own + config.references * _REFERENCE * self._position(n_pos)
            n_bytes = max(self._rows(n, at_once, n_pos, m, config) for at_once in (1, m))
            return n_bytes, m * _STEP + 2 * n * scored
        if name == "distribution_shift" and self.base is not None:
            theirs = Costs(self.base)
            n_bytes, work = theirs.prefill(sizes.n_base)
            n_bytes += theirs.standing(PromptSizes({"prompt": sizes.n_base + m}))
            return max(forced, n_bytes), own + work + m * theirs._position(sizes.n_base)
        if name == "modality_reliance":
            n_bytes, work = self.prefill(n_pos)
            other = n_pos * cfg.d_model * cfg.dtype.itemsize + memory.keys_values_bytes(cfg, n_pos)
            n = len(config.variants) + 2 * (config.swap_with is not None)
            return other + max(forced, n_bytes), n * (work + own)
        return 0, 0

    def _lens(self, config: Any, sizes: PromptSizes) -> Taken:
        cfg, n_read = self.cfg, sizes.n_of(config.span)
        read, logits = len(config.lenses) * n_read, min(CHUNK_BYTES, 16 * cfg.d_vocab * n_read)
        work = read * cfg.d_vocab * cfg.d_model / _layer_weights(cfg)
        kept = all(part.strip().startswith("audio") for part in config.span.split("+"))
        passing, again = (0, 0) if kept else self.prefill(sizes.n_pos)  # only audio is kept
        return max(passing + logits, _LENS_ROW * cfg.n_layers * read * config.top_k), again + work

    def _rows(self, n: int, n_query: int, n_pos: int, n_new: int, config: Any) -> int:
        """Bytes of as many of `n` rows as fit the budget, of which so many queries run at once."""
        cfg, total = self.cfg, n_pos + n_new
        # Scores twice, or the MLP, whichever is more: it comes when they are gone.
        passing = n_query * max(2 * cfg.n_heads * total, 4 * cfg.d_mlp + 8 * cfg.d_model)
        one = row_bytes(cfg, total, n_pos, 0) + passing * cfg.dtype.itemsize
        return min(most_rows(cfg, total, n_pos, n_query, config.memory_budget), n) * one

    def _position(self, n_keys: int | float) -> float:
        return 1 + 2 * self.cfg.n_heads * self.cfg.d_head * n_keys / _layer_weights(self.cfg)


def _edits_prompt(rules: Sequence[str]) -> bool:
    """Whether any of these rules is about positions before the last of the prompt."""
    queries = {q.strip() for rule in rules for q in rule.partition("!->")[0].split("+")}
    return not queries <= {"last", "G", "generated"}


def _layer_weights(cfg: DecoderConfig) -> int:
    """Weights of a layer that each position meets."""
    heads = 2 * (cfg.n_heads + cfg.n_key_value_heads) * cfg.d_head
    width = cfg.d_mlp if cfg.experts is None else cfg.experts.n_active * cfg.experts.d_mlp
    return cfg.d_model * (heads + 3 * width)
