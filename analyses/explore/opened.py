"""What is there of a study, and which of its stages are missing?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.judge.record import COLUMNS as SCORE_COLUMNS
from analyses.running import results
from analyses.running.sources import Sources, read_sources
from analyses.study.config import EVERY, STAGES
from analyses.study.judging import scores_path, with_events
from data_prep.manifest import Sample, read_manifest
from hooked_omni.errors import FileError, ManifestError, ResultsError
from hooked_omni.families import FAMILIES
from hooked_omni.files import file_hash
from hooked_omni.inputs.media import MediaSettings

DRAWN = (*STAGES, "attention_map")
"""The stages of which something is drawn for single samples."""
PARTS = {"attention_map": "attention"}


@dataclass(frozen=True, eq=False)
class OpenStudy:
    """A study's folder as it is.

    Attributes:
        folder: Where it is.
        tables: Of each stage that is finished.
        runs: The `run.json` of each.
        scores: The judge's, of no rows if there are none.
        sources: Where its clips lie, if that is known.
        manifest: With the samples; None if it is not there.
        samples: By id, of the manifest.
        missing: Why each part of the page that is not there is missing.
        name: On the page: the folder's own.
    """

    folder: Path
    tables: Mapping[str, pd.DataFrame]
    runs: Mapping[str, dict[str, Any]]
    scores: pd.DataFrame
    sources: Sources | None
    manifest: Path | None
    samples: Mapping[str, Sample]
    missing: Mapping[str, str]
    name: str

    @property
    def model(self) -> str:
        """As the study names it."""
        first = next(iter(self.tables.values()))
        name = str(first.attrs.get("model", "a model"))
        return self.sources.model if self.sources else Path(name).name

    @property
    def twins(self) -> dict[str, str]:
        """The factual twin of each sample that has one."""
        return {k: v for t in self.tables.values() for k, v in t.attrs.get("twins", {}).items()}

    @property
    def media(self) -> MediaSettings:
        """How the model got frames and sound."""
        return MediaSettings(**next(iter(self.runs.values()))["facts"]["model"]["media"])

    @property
    def hears(self) -> bool:
        """Whether its model does; its clips' sounds are not shown if not."""
        family = next(iter(self.runs.values()))["facts"]["model"]["family"]
        return family not in {one.name for one in FAMILIES if not one.hears}

    @cached_property
    def kinds_of(self) -> dict[str, str]:
        """Every sample of any table, and its kind, in order."""
        found: dict[str, str] = {}
        for table in self.tables.values():
            for sample, kind in zip(table["sample"], table["kind"], strict=True):
                found.setdefault(str(sample), str(kind))
        return found


def open_study(folder: Path, judge: str | None = None, data: Path | None = None) -> OpenStudy:
    """Read a study's folder, finished or not; `data` is its manifest, if that was moved.

    Raises:
        ResultsError: For a folder of no study, one without any finished stage, damage, another
            version's files, several judges of which none is named, and another manifest.
    """
    if not (folder / "recipe.json").is_file():
        raise ResultsError(
            f"expected the folder of a study, got {folder} without recipe.json. Name a folder that "
            "`python -m analyses study` has written."
        )
    kinds: dict[str, type] = dict(analysis=str, config=dict, facts=dict)
    recipe = results.read_json(folder / "recipe.json", **kinds)
    if recipe["analysis"] != "study":
        raise ResultsError(
            f"expected the folder of a study, got one of {recipe['analysis']} at {folder}. Name "
            "the folder above it, if it is part of a study."
        )
    tables, runs, missing = {}, {}, {}
    for name in EVERY:
        if why := _unfinished(folder / name):
            missing |= {PARTS.get(name, name): why} if name in DRAWN else {}
            continue
        tables[name], runs[name] = results.load(folder / name), results.read_run(folder / name)
    if not tables:
        raise ResultsError(
            f"expected a finished stage in {folder}, got none: {missing}. Give the study's command "
            "again: it goes on where it was."
        )
    scores = _scores(folder, judge)
    if scores is None:
        missing["judge"] = "not judged yet: give the study's command again"
        scores = pd.DataFrame(columns=[*SCORE_COLUMNS])
    elif "captions" in tables:
        tables = with_events(tables, scores, runs["captions"]["config"]["own"])
    sources = read_sources(folder)
    path, samples = _manifest(recipe, data or (sources.data if sources else None), data is not None)
    if path is None:
        missing["clips"] = (
            "the manifest is not where the study found it: give it with --data"
            if sources
            else "the study does not say where its manifest is: give it with --data"
        )
    name = folder.resolve().name
    return OpenStudy(folder, tables, runs, scores, sources, path, samples, missing, name)


def _unfinished(folder: Path) -> str:
    """Why a stage cannot be shown; "" for one that can."""
    if not (folder / "recipe.json").is_file():
        return "not among the study's `analyses`: add it there, and give its command again"
    if not (folder / "run.json").is_file():
        n_done = len([*(folder / "parts").glob("*.parquet")])
        return f"not finished, {n_done} cases done: give the study's command again"
    return ""


def _scores(folder: Path, judge: str | None) -> pd.DataFrame | None:
    there = [*(folder / "scores").glob("*.parquet")]
    if judge is not None and not scores_path(folder, judge).is_file():
        names = [results.read_table(path).attrs["judge"]["name"] for path in there]
        raise ResultsError(f"expected scores of {judge!r} in {folder}, got those of {names}.")
    chosen = there if judge is None else [scores_path(folder, judge)]
    if len(chosen) > 1:
        names = sorted(results.read_table(path).attrs["judge"]["name"] for path in chosen)
        raise ResultsError(
            f"expected one judge's scores in {folder}, got {names}. Name one with --judge."
        )
    return results.read_table(chosen[0]) if chosen else None


def _manifest(
    recipe: Mapping[str, Any], path: Path | None, given: bool
) -> tuple[Path | None, dict[str, Sample]]:
    """The manifest, if it is there and is the study's."""
    if path is None or not (path.is_file() or given):
        return None, {}
    known = [one["sha256"] for one in recipe["facts"]["data"]]
    if file_hash(path) not in known:
        raise ResultsError(
            f"expected the manifest that the study was made of, got another at {path}. Name that "
            "one with --data."
        )
    try:
        return path, {sample.id: sample for sample in read_manifest(path)}
    except (FileError, ManifestError) as error:
        raise ResultsError(f"{error} It is the study's manifest.") from error
