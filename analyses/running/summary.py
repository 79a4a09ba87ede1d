"""What did our runs find, in the paper's sentences?"""

from collections.abc import Iterable
from pathlib import Path

from analyses.running import results, runs


def sentences(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Headlines by title: the question, the model, and how many cases; raises as `results.load`."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        table = results.load(folder)
        made = results.read_json(folder / "run.json")
        model = made["facts"].get("model") or {}
        name = model.get("name", "unnamed") if isinstance(model, dict) else model
        n_cases, skipped = made.get("n_cases"), made.get("skipped", {})
        title = f"{folder}: {made['analysis']}, {name}, {n_cases} cases, {len(skipped)} skipped"
        found[title] = runs.analysis(made["analysis"]).headline(table)
    return found
