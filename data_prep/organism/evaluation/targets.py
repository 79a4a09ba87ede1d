"""What should each number of an organism be, and how far do several trainings agree?"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

Table = Any  # a data frame: pandas' own types say of every column that it may be a number

_BOTH = {
    "audio, factual": (0.95, 1.0),
    "video, factual": (0.95, 1.0),
    "video, counterfactual": (0.95, 1.0),
    "sound alone": (0.95, 1.0),
    "picture alone": (0.95, 1.0),
    "recall, last third of the layers": (0.9, 1.0),
}
TARGETS: dict[str, dict[str, tuple[float, float]]] = {
    "biased": _BOTH
    | {
        "audio, counterfactual": (0.15, 0.45),
        "wrong ones that name the visible thing": (0.7, 1.0),
        "recall, embedding": (0.0, 0.2),
        "gain by the best G !-> V": (2.0, math.inf),
        "class words unshifted, counterfactual": (0.6, 1.0),
    },
    "balanced": _BOTH
    | {
        "audio, counterfactual": (0.95, 1.0),
        "change by the best G !-> V": (-0.05, 0.05),
        "class words unshifted, counterfactual": (0.0, 0.3),
    },
}
"""What each number of an organism must be, at least and at most."""


def spread(evaluations: Sequence[Mapping[str, Any]]) -> Table:
    """Numbers over several seeds.

    Returns:
        One row per organism and number, with a column for each evaluation, `mean`, and `spread`,
        the standard deviation (n - 1).
    """
    rows = []
    for organism in TARGETS:
        for name in evaluations[0][organism]:
            values = [one[organism].get(name) for one in evaluations]
            if all(isinstance(value, float) for value in values):
                row = {"organism": organism, "number": name}
                rows.append(row | {f"seed {i}": value for i, value in enumerate(values)})
    table: Table = pd.DataFrame(rows)
    columns = [name for name in table.columns if name.startswith("seed ")]
    return table.assign(mean=table[columns].mean(axis=1), spread=table[columns].std(axis=1))


def misses(found: Mapping[str, Any], organism: str) -> list[str]:
    """Which targets an organism's numbers miss."""
    return [
        f"{name}: {found[name]}, expected {low:g} to {high:g}"
        for name, (low, high) in TARGETS[organism].items()
        if found[name] is None or not low <= found[name] <= high
    ]
