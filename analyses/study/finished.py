"""What did a finished study measure? Its tables and scores, from its files alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses import fidelity
from analyses.running import results
from analyses.running.options import require_finished
from analyses.study.config import EVERY, FINISHED
from analyses.study.evidence import Evidence
from analyses.study.judging import scores_path, with_events
from hooked_omni.errors import ResultsError

_COMPARED = ("captions", "choice")  # their settings are the same in studies that are compared


@dataclass(frozen=True, eq=False)
class FinishedStudy:
    """A study's folder, model, and tables with scores.

    `conditions` must be equal in studies that are compared; `facts` are those of its captions.
    """

    folder: Path
    model: str
    evidence: Evidence
    conditions: Mapping[str, Any]
    facts: Mapping[str, Any]


def read_finished(folder: Path, judge: str | None = None) -> FinishedStudy:
    """A study as its last run left it, with the scores of `judge`, or of its only one.

    Raises:
        ResultsError: For an unfinished or damaged one, and unless there is one judge.
    """
    require_finished(folder, *FINISHED)
    recipe = results.read_json(folder / "recipe.json", analysis=str, config=dict, facts=dict)
    there = {path.parent.name for path in folder.glob("*/recipe.json")}
    tables = {n: results.load(folder / n) for n in EVERY if n in there}
    chosen = [scores_path(folder, judge)] if judge else [*(folder / "scores").glob("*.parquet")]
    if not tables or len(chosen) != 1:
        raise ResultsError(
            f"expected a study with analyses and one judge's scores in {folder}, got {[*tables]} "
            f"and {len(chosen)} judges. Name one with --judge."
        )
    every = {name: results.read_run(folder / name) for name in tables}
    scores, run = results.read_table(chosen[0]), next(iter(every.values()))
    _require_whole(folder, tables, scores, every)
    if "captions" in tables:
        tables = with_events(tables, scores, run["config"]["own"])
    facts = recipe["facts"]
    model = Path(next(iter(tables.values())).attrs["model"]).name
    compared = {n: made["config"] for n, made in every.items() if n in _COMPARED}
    conditions = {
        "data": [file["sha256"] for file in facts["data"]],
        **{name: facts[name] for name in ("clips", "kinds", "wording")},
        **{"cases": sorted(run["cases"]), **compared},
        **{name: scores.attrs.get(name) for name in ("judge", "first_only")},
    }
    return FinishedStudy(folder, model, Evidence(tables, scores), conditions, run["facts"])


def require_comparable(studies: Sequence[FinishedStudy]) -> None:
    """Refuse, as a `ResultsError`, less than two studies, and studies of different data."""
    if len({study.folder.resolve() for study in studies}) < max(len(studies), 2):
        raise ResultsError(
            "expected two finished studies or more, each once, got "
            f"{[str(study.folder) for study in studies]}."
        )
    first = studies[0]
    for study in studies[1:]:
        for name, there in first.conditions.items():
            here = study.conditions.get(name, there)  # not every one has a choice
            if name == "cases" and there != here:
                there, here = (sorted({*a} - {*b})[:3] for a, b in ((there, here), (here, there)))
            if there != here:
                raise ResultsError(
                    f"expected studies of the same data, questions and judge, got {name} "
                    f"{there!s:.150} in {first.folder} and {here!s:.150} in {study.folder}. What "
                    "differs between them would not be the model alone."
                )


def _require_whole(
    folder: Path, tables: Mapping[str, Any], scores: Any, every: Mapping[str, dict[str, Any]]
) -> None:
    """Refuse a study that was begun again, and of which some parts are newer than others."""
    samples = [{case.rpartition("/")[0] for case in t.attrs["cases"]} for t in tables.values()]
    expected = [samples[0] - _not_asked(made["facts"]) for made in every.values()]
    known = [tables["captions"], fidelity.plain(scores)] if "captions" in tables else [scores] * 2
    answered, scored = (set(zip(own["sample"], own["question"], strict=True)) for own in known)
    if answered != scored or samples != expected:
        raise ResultsError(
            f"expected one set of samples in all of {folder}, got {[*map(len, samples)]} in "
            f"{[*tables]}, {len(answered)} answers and scores of {len(scored)}. Give its command "
            "again: it goes on where it was."
        )


def _not_asked(facts: Mapping[str, Any]) -> set[str]:
    """Samples of which none of an analysis's questions can be asked."""
    if not (lists := facts.get("not_asked")):
        return set()
    return set.intersection(*({*lists.get(one, ())} for one in facts["questions"]))
