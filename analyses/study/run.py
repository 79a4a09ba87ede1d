"""How is the whole study carried out? `python -m analyses study --config study.toml --out DIR`.

Captions and analyses, a judge's scores of them, the paper's claims, figures and `report.md`. Every
part goes on where it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.cases import Case
from analyses.judge.points import POINTS
from analyses.plots.statistics import POOL
from analyses.running import results, runs
from analyses.running.elsewhere import bundle_facts
from analyses.running.identity import clips_digest, require_distinct
from analyses.running.progress import ProgressCallback, no_progress
from analyses.running.request import (
    cases_of,
    given_bundles,
    load_both,
    on_cluster,
    question_facts,
)
from analyses.running.sources import Sources, write_sources
from analyses.study import report
from analyses.study.claims import Finding, check
from analyses.study.config import EVERY, NEEDS_BASE, ON_REQUEST, Study
from analyses.study.judging import judge_study, require_judge, with_events
from data_prep.manifest import read_manifest
from hooked_omni.cluster.joining import Cluster
from hooked_omni.errors import ResultsError
from hooked_omni.files import file_hash
from hooked_omni.hf.config_file import family_named

_SCORED = {"captions", "logit_lens", "knockout"}


@dataclass(frozen=True, eq=False)
class StudyResult:
    """What a study found.

    Tables are those of the analyses' own commands, but for which words name sounds: that is the
    judge's word, if it has one. Findings are of the paper's claims; `report` is the page.
    """

    tables: Mapping[str, pd.DataFrame]
    scores: pd.DataFrame
    findings: list[Finding]
    report: Path


def study_cases(study: Study, name: str) -> list[Case]:
    """Cases of an analysis; raises as `CaseSelection`, and if a `limit` leaves none."""
    every = cases_of(study.selection(name))
    if not study.limit:
        return every
    kept: dict[str, list[str]] = {}
    for sample in read_manifest(study.data):
        kept.setdefault(sample.kind, []).append(sample.id)
    found = [case for case in every if case.sample in kept[case.kind][: study.limit]]
    if not found:
        raise ResultsError(
            f"expected a sample that {name} can be asked of among the first {study.limit} of each "
            f"kind, got none. Take more (`limit`), or leave {name} out."
        )
    return found


def run_study(
    study: Study,
    out: Path,
    progress: ProgressCallback = no_progress,
    cluster: Cluster | None = None,
) -> StudyResult:
    """Do the study, or what is left of it.

    Each analysis has a folder of its own in `out`, as its own command makes it. `progress` is
    called with "cases" or the judge's name, how many are done, and of how many. A `cluster`
    computes the cases.

    Raises:
        ResultsError, ClusterError: For a folder of another study, and as `runs.execute`.
        JudgeError: For a judge that cannot be used; before the model is loaded if possible.
        JudgeDownError: If the judge stops answering. The same command goes on where it stopped.
    """
    results.require_folder(out)
    cases = {name: study_cases(study, name) for name in EVERY if name in study.analyses}
    configs = {name: study.config(name) for name in cases}
    _require_references(cases)
    require_distinct(cases.get("captions", []))
    judge, reading = require_judge(study.judge, out)
    every = [case for own in cases.values() for case in own], cases.get(NEEDS_BASE, [])
    models, workers = on_cluster(study.models(), cluster, *every)
    given = given_bundles(models, every[0]), given_bundles(models, every[1], of_base=True)
    if study.base and family_named(study.base).hears:
        raise ResultsError(
            f"expected a base that only sees, got {study.base}, which hears. Name the vision-only "
            "model that this one was trained from."
        )
    facts = _facts(study) | bundle_facts(*given)
    recipe = _recipe(study, facts)
    results.require_same(out, recipe)
    omni, base, _ = load_both(models, *every)
    reading.groups(omni.model.cfg.n_layers)
    results.write_recipe(out, recipe)
    names = study.model, study.base, study.judge["name"]
    write_sources(Sources(*names, study.data, study.ratings), out)
    stages = {
        out / name: runs.Run(
            name=name,
            config=configs[name],
            omni=omni,
            cases=cases[name],
            base=base if name == NEEDS_BASE else None,
            facts={**facts, **question_facts(study.selection(name))},
        )
        for name in cases
    }
    made = runs.execute_all(stages, progress, workers=workers)
    tables = {path.name: table for path, table in made.items()}
    scores = judge_study(judge, tables, cases.get("captions", []), out, progress, reading)
    if "captions" in configs:
        tables = with_events(tables, scores, configs["captions"].own)
    findings = check(tables, scores, study.ratings)
    return StudyResult(tables, scores, findings, report.write(study, out, tables, scores, findings))


def _facts(study: Study) -> dict[str, Any]:
    """What every analysis of a study is of."""
    return {
        "data": [{"file": study.data.name, "sha256": file_hash(study.data)}],
        "clips": clips_digest(study.data),
        "kinds": list(study.kinds) or None,
        "rope": study.rope,
        "system": study.system or None,
        "order": study.order,
        "wording": dict(study.wording),
    }


def _recipe(study: Study, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What makes it this study.

    Neither who judges or rates it, nor how much of it is done, nor where, makes a study another;
    which models they are is in the folder of each analysis.
    """
    only: Any = dict(judge={}, ratings=(), limit=0, base="", device="", analyses=("captions",))
    only["device_map"] = ""
    only |= dict(embedded=None, decoder_only=False, trust_remote_code=False, adapter=None)
    only |= dict(model=Path(study.model).name, data=Path(study.data.name))
    for name in ("questions", "configs"):  # those on request are in a folder of their own
        known: Mapping[str, Any] = getattr(study, name)
        only[name] = {one: own for one, own in known.items() if one not in ON_REQUEST}
    made = results.make_recipe("study", replace(study, **only), facts)
    del made["config"]["device_map"], made["config"]["allow_quantized"]
    return made


def _require_references(cases: Mapping[str, list[Case]]) -> None:
    """Refuse a study whose answers nobody could score, before hours are spent on them."""
    known: dict[tuple[str, ...], list[bool]] = {}
    for name in [name for name in cases if name in _SCORED]:
        for case in cases[name]:
            for what in ("audio",) if name == "logit_lens" else POINTS[case.question]:
                # A control, such as silence, may have none.
                for kind in ("", case.kind) if case.kind in POOL else ("",):
                    key = name, case.question, what, kind
                    known.setdefault(key, []).append(bool(getattr(case, f"{what}_captions")))
    for (name, question, what, kind), there in known.items():
        if not any(there):
            raise ResultsError(
                f"expected samples with {what}_captions in the manifest, to score {name} of the "
                f"question {question!r} by, got none of {f'{len(there)} {kind}'.strip()} cases "
                f"with any. Add them, or use other `questions` in [{name}], or other `kinds`."
            )
