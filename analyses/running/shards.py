"""How do the shards of a run, made on several machines, become one result?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.running import results
from analyses.running.runs import analysis, finish, part_path
from analyses.running.type_check import make_config
from hooked_omni.errors import ResultsError
from hooked_omni.files import exclusive


def merge_shards(out: Path, shards: Sequence[Path]) -> pd.DataFrame:
    """One finished folder of all shards of a run: the tables of the run without shards.

    An unfinished shard, one missing or there twice, or of another run, is a `ResultsError`.
    """
    made = {folder: results.read_run(folder) for folder in shards}
    by_number = {made[folder]["facts"].get("shard"): folder for folder in shards}
    n = len(shards)
    expected = [f"{i}/{n}" for i in range(1, n + 1)]
    if not shards or len(set(shards)) < n or sorted(map(str, by_number)) != sorted(expected):
        raise ResultsError(
            f"expected the shards {expected}, each once, got "
            f"{[made[folder]['facts'].get('shard') for folder in shards]}. Name every shard's "
            "folder once."
        )
    ordered = [by_number[name] for name in expected]
    recipe = _unsharded(made[ordered[0]])
    for folder in ordered[1:]:
        if _unsharded(made[folder]) != recipe:
            raise ResultsError(
                f"expected shards of one run, got {ordered[0]} and {folder} of different ones: "
                "model, data or config differ (see their run.json)."
            )
    listed = [list(made[folder]["cases"].items()) for folder in ordered]
    places = [(k % n, k // n) for k in range(sum(map(len, listed)))]
    of_one = [len(cases) for cases in listed] == [len(places[i::n]) for i in range(n)]
    cases = [listed[shard][i] for shard, i in places] if of_one else []
    if not of_one or len(dict(cases)) < len(cases):
        raise ResultsError(
            f"expected shards of the same cases, each in one shard, got {[*map(len, listed)]} of "
            "them. Give every shard the same --limit."
        )
    marks = {
        part_path(ordered[shard], case[0]): {"cases": dict([case])}
        for (shard, _), case in zip(places, cases, strict=True)
    }
    with exclusive(out):
        results.require_same(out, recipe)
        table = results.gather(marks)
        config = make_config(analysis(recipe["analysis"]).Config, recipe["config"])
        finish(out, recipe["analysis"], table, config, recipe["facts"])
    return results.load(out)


def _unsharded(made: dict[str, Any]) -> dict[str, Any]:
    facts = {**made["facts"], "shard": "1/1"}
    return {**{name: made[name] for name in ("schema", "analysis", "config")}, "facts": facts}
