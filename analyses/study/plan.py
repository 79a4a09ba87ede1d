"""What will a study take? `python -m analyses plan --config study.toml`, before anything is loaded.

Positions are those that the model's own processor writes for the headers of the clips; memory and
work follow from them and from config.json. Reading media and the towers are not planned.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from analyses.asking import without_sound
from analyses.cases import Case
from analyses.knockout.table import chosen_windows
from analyses.running.elsewhere import Bundles
from analyses.running.options import ModelOptions
from analyses.running.request import given_bundles
from analyses.study.config import NEEDS_BASE, Study
from analyses.study.run import study_cases
from hooked_omni import EmbeddedPrompt, Prompt
from hooked_omni.decoder import memory
from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.decoding.conditions import most_rows, row_bytes
from hooked_omni.decoding.lens import CHUNK_BYTES
from hooked_omni.errors import CheckpointError, MediaError, ResultsError
from hooked_omni.hf.checkpoint import stored_tensors
from hooked_omni.hf.config_file import file_source, is_quantized_by
from hooked_omni.hf.loading import unloaded
from hooked_omni.hf.placement import bytes_by_place, placement
from hooked_omni.hf.towers import Towers

Stages = Mapping[str, tuple[Any, Sequence[Case]]]
"""By analysis, its config and its cases."""
Taken = tuple[int | float, int | float]
"""Bytes, and work."""
COLUMNS = ("stage", "n_cases", "n_pos", "n_bytes", "captions")
_STEP = 50  # positions of a pass that cost as much as reading all weights once, on one CPU thread
_REFERENCE = 12  # tokens of a reference caption, up to its last word for a sound
_LENS_ROW = 1_500  # bytes of a row of the lens's table, as made and as kept
_MODALITIES = ("audio", "video", "image")
_NEEDS: Mapping[str, Callable[[Any], Sequence[str]]] = {
    "logit_lens": lambda config: (config.span,),
    "knockout": lambda config: config.keys,
    NEEDS_BASE: lambda config: ("audio", "video"),
}


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


def plan(stages: Stages, models: ModelOptions) -> pd.DataFrame:
    """What each stage takes, in the order in which they run.

    Returns:
        One row per stage with `n_cases` that will not be skipped; `n_pos` of the longest prompt;
        `n_bytes`, the peak of memory at that one, weights and all; `captions`, the work of all
        cases, in plain captions of theirs. `attrs` has "weights" in bytes, those of the model by
        device in "places" if there is a `device_map`, "dtype", and "skipped".

    Raises:
        UnknownModelError, CheckpointError: As `load`, by the config, and as `unloaded`.
        ResultsError: For no clip that can be read.
    """
    every = {case.id: case for _, cases in stages.values() for case in cases}
    of_base = stages[NEEDS_BASE][1] if models.base and NEEDS_BASE in stages else []
    compared = {case.id for case in of_base}
    given = given_bundles(models, [*every.values()]), given_bundles(models, of_base, True)
    how = models.dtype, models.decoder_only
    loaded = [unloaded(models.model, *how, models.allow_quantized)]
    loaded += [unloaded(models.base, *how)] if models.base else []
    tables = [towers.family.decoder_config(towers.hf) for towers in loaded]
    costs = Costs(tables[0], sum(_weight_bytes(towers.hf) for towers in loaded), *tables[1:])
    hf, places = loaded[0].hf, dict[Any, int]()
    if models.device_map is not None and not is_quantized_by(hf.config.to_dict()):
        places = bytes_by_place(hf, placement(hf, models.device_map))
    sizes, skipped = dict[str, PromptSizes](), dict[str, str]()
    for case in every.values():
        prompt: Any = case.prompt  # not embedded, as of a manifest or a clip
        try:
            counts = _counts(loaded[0], prompt, given[0])
            with_base = case.id in compared
            theirs = _counts(loaded[1], without_sound(prompt), given[1]) if with_base else {}
            sizes[case.id] = PromptSizes(counts, theirs.get("prompt", 0))
        except MediaError as error:
            skipped[case.id] = str(error)
    if not sizes:
        raise ResultsError(f"expected a clip that can be read, got {[*skipped.items()][:3]}.")
    table = pd.DataFrame(_rows(costs, stages, sizes), columns=[*COLUMNS])
    facts: dict[Any, Any] = dict(weights=costs.n_bytes, dtype=str(costs.cfg.dtype), skipped=skipped)
    facts["places"] = {str(place): n for place, n in places.items()}
    table.attrs = facts
    return table


def _counts(towers: Towers, prompt: Prompt, given: Bundles | None) -> Mapping[str, int]:
    if given is None:
        return towers.count_positions(prompt)
    if not (path := given[prompt]).is_file():
        raise MediaError(f"expected a prompt embedded elsewhere, got none at {path}.")
    bundle = EmbeddedPrompt.load(path)
    positions = {name: len(at) for name, at in bundle.spans.positions.items()}
    return positions | {"prompt": bundle.n_pos}


def _weight_bytes(hf: Any) -> int:
    """Of a quantized model as in its files, whose headers alone are read."""
    if is_quantized_by(hf.config.to_dict()):
        name = hf.name_or_path
        held = stored_tensors(name, file_source(name, None), "a quantized model", True)
        if not held:
            raise CheckpointError(
                f"expected safetensors files of the quantized {name!r}, got none. Download it: "
                "how large it is stands in their headers alone."
            )
        return sum(tensor.n_bytes(None) for tensor in held.values())
    return sum(tensor.nbytes for tensor in {id(one): one for one in hf.parameters()}.values())


def _rows(
    costs: Costs, stages: Stages, sizes: Mapping[str, PromptSizes]
) -> Iterator[tuple[Any, ...]]:
    """Of each stage; the pass and the answer are made once for all analyses of a case."""
    ways: dict[str, tuple[Any, Callable[[PromptSizes], Taken]]] = {
        "pass": ([*sizes], lambda s: costs.prefill(s.n_pos))
    }
    longest = max(getattr(config, "max_new_tokens", 1) for config, _ in stages.values())
    answered = [
        c.id for config, own in stages.values() for c in own if hasattr(config, "max_new_tokens")
    ]
    ways["answer"] = dict.fromkeys(answered), lambda s: costs.answer(s.n_pos, longest)
    for name, (config, cases) in stages.items():
        if name != "captions":
            ways[name] = [c.id for c in cases], partial(costs.analysis, name, config)
    for name, (ids, way) in ways.items():
        needs = _NEEDS[name](stages[name][0]) if name in _NEEDS else ()
        own = [sizes[key] for key in ids if key in sizes and sizes[key].has(needs)]
        found = [
            (costs.standing(s) + way(s)[0], way(s)[1] / costs.caption(s, longest)) for s in own
        ]
        if own:
            n_bytes, captions = (list(values) for values in zip(*found, strict=True))
            yield name, len(own), max(s.n_pos for s in own), int(max(n_bytes)), sum(captions)


def printed(table: pd.DataFrame) -> None:
    """Show a plan."""
    shown = Table("stage", "cases", "longest prompt", "peak memory", "plain captions", box=None)
    rows: list[dict[str, Any]] = table.to_dict("records")
    for row in rows:
        n_pos, size = f"{row['n_pos']} positions", memory.in_words(row["n_bytes"])
        shown.add_row(row["stage"], str(row["n_cases"]), n_pos, size, f"{row['captions']:.2f}")
    peak, total = max(row["n_bytes"] for row in rows), sum(row["captions"] for row in rows)
    shown.add_row("media and towers", "", "", "not planned", "not planned")
    shown.add_row("all of these", "", "", memory.in_words(peak), f"{total:.2f}", style="bold")
    console = Console(highlight=False)
    console.print(f"weights: {memory.in_words(table.attrs['weights'])}, {table.attrs['dtype']}")
    for place, n_bytes in table.attrs["places"].items():
        console.print(f"of the model on {place}: {memory.in_words(n_bytes)}")
    console.print(shown)
    console.print("Media and towers come on top, not estimated; of answers as long as they may be.")
    for case, reason in [*table.attrs["skipped"].items()][:10]:
        console.print(f"skipped: {case}: {reason}", markup=False)


def plan_of_study(study: Study) -> None:
    """Show what a study takes; errors as `plan`."""
    stages = {name: (study.config(name), study_cases(study, name)) for name in study.analyses}
    printed(plan(stages, study.models()))
