"""Which run do a command's options mean? Cases of a manifest or of single clips, and models."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from analyses.asking import without_sound
from analyses.cases import Case, case_of
from analyses.running import runs
from analyses.running.elsewhere import Bundles, GivenPrompts, bundle_facts, bundles
from analyses.running.identity import KeptPrompts, clips_digest
from analyses.running.options import CaseSelection, ModelOptions, shard_of
from analyses.running.progress import progress_bars
from analyses.text.choices import CHOICES, choices
from analyses.text.wording import worded
from data_prep.manifest import read_manifest
from hooked_omni import HookedOmni, load
from hooked_omni.cluster.joining import Cluster
from hooked_omni.endings import say
from hooked_omni.errors import CheckpointError, PromptError, ResultsError
from hooked_omni.files import file_hash
from hooked_omni.hf.config_file import family_named


def cases_of(chosen: CaseSelection) -> list[Case]:
    """The cases; raises as `CaseSelection`."""
    return [case_of(one) for one in chosen.sample_questions()]


def selection_facts(chosen: CaseSelection) -> dict[str, Any]:
    """What of it makes the result: contents rather than names of files."""
    files = [f for f in (chosen.data, *chosen.clips, chosen.audio) if f is not None]
    return {
        "data": [{"file": f.name, "sha256": file_hash(f)} for f in files],
        "clips": None if chosen.data is None else clips_digest(chosen.data),
        **question_facts(chosen),
        "kinds": None if chosen.kinds is None else list(chosen.kinds),
        "rope": chosen.rope,
        "system": chosen.system,
        "order": chosen.order,
        "wording": dict(chosen.wording),
    }


def question_facts(chosen: CaseSelection) -> dict[str, Any]:
    """Which questions, and, if their answers are given, of which samples they cannot be asked."""
    questions = list(chosen.questions) if chosen.text is None else [chosen.text]
    more = {"not_asked": not_asked(chosen)} if {*questions} & {*CHOICES} else {}
    return {"questions": questions, **more}


def not_asked(chosen: CaseSelection) -> dict[str, list[str]]:
    """By each question with given answers, the samples that it cannot be asked of."""
    every = [] if chosen.data is None else read_manifest(chosen.data)
    samples = [s for s in every if chosen.kinds is None or s.kind in chosen.kinds]
    words = worded(chosen.wording)
    return {
        name: [sample.id for sample in samples if not choices(sample, name, words)]
        for name in chosen.questions
        if name in CHOICES
    }


def given_bundles(
    models: ModelOptions, cases: Sequence[Case], of_base: bool = False
) -> Bundles | None:
    """The prompts embedded elsewhere; as `elsewhere.bundles`, None if they are made here."""
    return None if models.embedded is None else bundles(models.embedded, cases, of_base)


def require_taken(models: ModelOptions, cases: Sequence[Case]) -> None:
    """Refuse, before weights are read, what the model's family does not take.

    The base skips such a case; it is refused if it takes none of them. `PromptError`.
    """
    whole: Any = lambda prompt: prompt  # noqa: E731
    wanted = [(models.model, whole, 1), (models.base, without_sound, len(cases))]
    for name, prompt_of, too_many in wanted:
        if name is None:
            continue
        family, refused = family_named(name), []
        for case in cases:
            try:
                family.require(prompt_of(case.prompt))
            except PromptError as error:
                error.add_note(f"This is case {case.id!r}, for {name}.")
                refused.append(error)
        if cases and len(refused) >= too_many:
            raise refused[0]


def load_with(
    models: ModelOptions, name: str, given: Bundles | None, adapter: Path | None = None
) -> HookedOmni:
    """One of the models, with its prompts; a base that is quantized is refused."""
    how: Any = dict(decoder_only=models.decoder_only, trust_remote_code=models.trust_remote_code)
    how |= dict(device=models.device, device_map=models.device_map, dtype=models.dtype)
    how |= dict(allow_quantized=models.allow_quantized and name == models.model)
    omni = load(name, adapter=adapter, **how)
    if given is not None:
        return GivenPrompts(omni, given)
    return omni if models.prompts is None else KeptPrompts(omni, models.prompts)


def load_both(
    models: ModelOptions, cases: Sequence[Case], of_base: Sequence[Case] | None
) -> tuple[HookedOmni, HookedOmni | None, dict[str, Any]]:
    """The model, the base if there is one, and the facts of prompts embedded elsewhere."""
    given = given_bundles(models, cases)
    theirs = None if of_base is None else given_bundles(models, of_base, of_base=True)
    require_taken(models, cases)
    omni = load_with(models, models.model, given, models.adapter)
    try:
        base = None if models.base is None else load_with(models, models.base, theirs)
    except CheckpointError as error:
        error.add_note("This is the base; adapter and allow_quantized are of the model alone.")
        raise
    return omni, base, bundle_facts(given, theirs)


def on_cluster(
    models: ModelOptions,
    cluster: Cluster | None,
    cases: Sequence[Case],
    of_base: Sequence[Case] | None,
) -> tuple[ModelOptions, runs.Workers | None]:
    """What is loaded here, on the CPU if a cluster computes, and what its workers load."""
    if cluster is None:
        return models, None
    if models.device_map is not None:
        raise ResultsError(
            f"expected one device for each worker of a cluster, got the device_map "
            f"{models.device_map!r}. Leave one of them out."
        )
    device = models.device.partition(":")[0]  # a worker sees one GPU
    there = partial(load_both, replace(models, device=device), cases, of_base)
    return replace(models, device="cpu"), runs.Workers(cluster, there, int(device != "cpu"))


def prepare(
    name: str,
    chosen: CaseSelection,
    config: Any,
    shard: tuple[int, int],
    models: ModelOptions,
    cluster: Cluster | None = None,
) -> tuple[runs.Run, runs.Workers | None]:
    """A run of an analysis; what is cheap to get wrong is checked before a model is loaded."""
    cases = cases_of(chosen)
    shard_of(cases, shard)
    every, facts = (cases, cases if models.base else None), selection_facts(chosen)
    here, workers = on_cluster(models, cluster, *every)
    omni, base, embedded = load_both(here, *every)
    return runs.Run(name, config, omni, cases, base, shard, facts | embedded), workers


def carry_out(run: runs.Run, workers: runs.Workers | None, out: Path) -> None:
    """Do a run, with a bar, and say what came of it; raises as `runs.execute`."""
    with progress_bars() as progress:
        table = runs.execute(run, out, progress, workers)
    skipped = table.attrs["skipped"]
    for case, reason in list(skipped.items())[:10]:
        say(f"skipped: {case}: {reason}")
    if len(skipped) > 10:
        say(f"and {len(skipped) - 10} more: see run.json")
    for name, samples in run.facts.get("not_asked", {}).items():
        say(f"{name} cannot be asked of {len(samples)} samples of the manifest: see run.json")
    say(f"{out}: {len(table)} rows, {len(skipped)} of {table.attrs['n_cases']} cases skipped")
