"""Several finished studies side by side: from planted files, and of two models of another family."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.cases import read_cases
from analyses.running import results
from analyses.study.compare import compare_studies
from analyses.study.config import Study
from analyses.study.run import run_study
from data_prep.manifest import read_manifest, write_manifest
from data_prep.organism.world.dataset import write_world
from hooked_omni import load
from hooked_omni.errors import ResultsError
from tests.analyses.study.test_claims import scores as planted_scores
from tests.analyses.study.test_claims import tables as planted_tables
from tests.support.figures import no_figures
from tests.support.running import command

FACTS: dict[str, Any] = {
    "data": [{"file": "pairs.jsonl", "sha256": "1"}],
    "clips": "2",
    "kinds": None,
    "wording": {},
    "rope": "model",
    "system": None,
}
JUDGE = {"name": "planted"}


def planted(folder: Path, model: str, biased: bool, **changed: Any) -> Path:
    """The files of a finished study whose tables are those of the tests of claims."""
    facts, tables = FACTS | changed, planted_tables(biased)
    given = planted_scores(biased, tables)
    config = Study("m", Path("d"), "b").config("captions")
    for name, table in tables.items():
        cases = table[["sample", "question"]].drop_duplicates().agg("/".join, axis=1)
        table.attrs = {"model": f"org/{model}", "n_cases": len(cases), "skipped": {}}
        table.attrs |= {"cases": dict.fromkeys(cases, "x"), "twins": {}}
        if name == "distribution_shift":
            table.attrs["base"] = "org/InternVL2-8B"
        own = folder / name
        of = {**facts, "model": {"name": model, "dtype": "float32"}, "base": None}
        results.write_recipe(own, results.make_recipe(name, config, of))
        from matplotlib.figure import Figure

        results.save(own, name, table, Figure(), config, **of)
    given.attrs = {"model": f"org/{model}", "judge": JUDGE, "first_only": False}
    results.write_table(folder / "scores" / "planted.parquet", given, "scores")
    results.write_recipe(folder, results.make_recipe("study", config, facts))
    (folder / "report.md").write_text("done")
    return folder
