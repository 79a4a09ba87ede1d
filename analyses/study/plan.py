"""What will a study take? `python -m analyses plan --config study.toml`, before anything is loaded.

Positions are those that the model's own processor writes for the headers of the clips; memory and
work follow from them and from config.json. What towers take is found by their own code, on tensors
without content: kernels' own scratch comes on top. Reading media is not planned, nor the towers'
work.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from analyses.asking import without_sound
from analyses.cases import Case
from analyses.costs import Costs, PromptSizes, Taken
from analyses.running.elsewhere import Bundles
from analyses.running.options import ModelOptions
from analyses.running.request import given_bundles
from analyses.study.config import NEEDS_BASE, Study
from analyses.study.run import study_cases
from hooked_omni import EmbeddedPrompt, Prompt
from hooked_omni.decoder import memory
from hooked_omni.errors import CheckpointError, MediaError, ResultsError
from hooked_omni.hf.checkpoint import stored_tensors
from hooked_omni.hf.config_file import file_source, is_quantized_by
from hooked_omni.hf.loading import unloaded
from hooked_omni.hf.placement import bytes_by_place, placement
from hooked_omni.hf.tower_memory import tower_bytes
from hooked_omni.hf.towers import Towers

Stages = Mapping[str, tuple[Any, Sequence[Case]]]
"""By analysis, its config and its cases."""
COLUMNS = ("stage", "n_cases", "n_pos", "n_bytes", "captions")
_NEEDS: Mapping[str, Callable[[Any], Sequence[str]]] = {
    "logit_lens": lambda config: (config.span,),
    "knockout": lambda config: config.keys,
    NEEDS_BASE: lambda config: ("audio", "video"),
}


def plan(stages: Stages, models: ModelOptions) -> pd.DataFrame:
    """What each stage takes, in the order in which they run.

    Returns:
        One row per stage with `n_cases` that will not be skipped; `n_pos` of the longest prompt;
        `n_bytes`, the peak of memory at that one, weights and all; `captions`, the work of all
        cases, in plain captions of theirs. `attrs` has "weights" in bytes, those of the model by
        device in "places" if there is a `device_map`, "dtype", "skipped", and "towers", the least
        that stands at once as the longest clip is embedded, weights and all, for kernels add their
        own: None if not known, 0 for bundles.

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
    longest = max(sizes, key=lambda name: sizes[name].n_pos)
    own: Any = every[longest].prompt
    taken = 0 if given[0] else tower_bytes(loaded[0], loaded[0].header_inputs(own))
    facts["towers"] = taken and costs.n_bytes + taken
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
    towers = table.attrs["towers"]
    known = "not known" if towers is None else memory.in_words(towers)
    shown.add_row("towers, at least", "", "", known, "not planned")
    peak = max(peak, towers or 0)
    shown.add_row("all of these", "", "", memory.in_words(peak), f"{total:.2f}", style="bold")
    console = Console(highlight=False)
    console.print(f"weights: {memory.in_words(table.attrs['weights'])}, {table.attrs['dtype']}")
    for place, n_bytes in table.attrs["places"].items():
        console.print(f"of the model on {place}: {memory.in_words(n_bytes)}")
    console.print(shown)
    console.print("Reading media is not estimated; the rest is of answers as long as they may be.")
    for case, reason in [*table.attrs["skipped"].items()][:10]:
        console.print(f"skipped: {case}: {reason}", markup=False)


def plan_of_study(study: Study) -> None:
    """Show what a study takes; errors as `plan`."""
    stages = {name: (study.config(name), study_cases(study, name)) for name in study.analyses}
    printed(plan(stages, study.models()))
