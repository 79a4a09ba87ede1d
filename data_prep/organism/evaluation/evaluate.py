"""Are the organisms what they are said to be?

Numbers on clips that no training has seen, an exact test that the two listeners differ, and what
each number should be.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from data_prep.organism.evaluation.answers import Exam, answers, base_ranks
from hooked_omni import HookedOmni, load
from hooked_omni.files import to_json, write_whole

__all__ = ["TARGETS", "evaluate", "mcnemar", "misses", "numbers", "spread"]

Table = Any  # a data frame: pandas' own types say of every column that it may be a number

TARGETS: dict[str, dict[str, tuple[float, float]]] = {
    "biased": {
        "audio, factual": (0.95, 1.0),
        "audio, counterfactual": (0.15, 0.45),
        "wrong ones that name the visible thing": (0.7, 1.0),
        "video, factual": (0.95, 1.0),
        "video, counterfactual": (0.95, 1.0),
        "sound alone": (0.95, 1.0),
        "picture alone": (0.95, 1.0),
        "recall, last third of the layers": (0.9, 1.0),
        "recall, embedding": (0.0, 0.2),
        "gain by the best G !-> V": (2.0, math.inf),
        "class words unshifted, counterfactual": (0.6, 1.0),
    },
    "balanced": {
        "audio, factual": (0.95, 1.0),
        "audio, counterfactual": (0.95, 1.0),
        "video, factual": (0.95, 1.0),
        "video, counterfactual": (0.95, 1.0),
        "sound alone": (0.95, 1.0),
        "picture alone": (0.95, 1.0),
        "recall, last third of the layers": (0.9, 1.0),
        "change by the best G !-> V": (-0.05, 0.05),
        "class words unshifted, counterfactual": (0.0, 0.3),
    },
}
"""What each number of an organism must be, at least and at most."""


def evaluate(
    folder: Path,
    exam: Exam,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
    out: Path | None = None,
) -> dict[str, Any]:
    """Examine the organisms in `folder`, and write `evaluation.json` and the answers to `out`.

    Args:
        folder: Holds `organism-base`, `organism-biased` and `organism-balanced`.
        exam: Clips, none of which was trained on.
        progress: Shows how far it is.
        out: Where to; None means `folder`.
    """
    base, result, said = load(folder / "organism-base"), {}, {}
    for name in ("biased", "balanced"):
        omni = load(folder / f"organism-{name}")
        said[name], read = answers(omni, exam, progress)
        result[name] = numbers(said[name], read, _ranks(base, exam, said[name]))
    right = {name: _right(table, "counterfactual", "hear") for name, table in said.items()}
    clips = len(exam.clips)
    result |= {"clips of each kind": clips, "mcnemar": mcnemar(right["balanced"], right["biased"])}
    out = out or folder
    table = pd.concat([one.assign(organism=name) for name, one in said.items()])
    write_whole(out / "answers.csv", table.to_csv(index=False).encode())
    text = to_json(result, "evaluation.json", indent=2)
    write_whole(out / "evaluation.json", (text + "\n").encode())
    return json.loads(text)


def numbers(said: Table, read: Table, ranks: Table) -> dict[str, Any]:
    """The numbers of one listener; shares from 0 to 1 unless said otherwise.

    Args:
        said: From `answers`.
        read: Likewise.
        ranks: From `base_ranks`, of counterfactual answers about the sound.
    """
    plain: Table = said[said["condition"] == "none"]
    hear: Table = plain[(plain["kind"] == "counterfactual") & (plain["question"] == "hear")]
    heard: Table = read.groupby("layer")["heard"].mean()
    n_layers = len(heard) - 1
    deep = range(n_layers - round(n_layers / 3) + 1, n_layers + 1)
    ranks = ranks["rank"]
    wrong: Table = hear[~hear["audio"].astype(bool)]
    found: dict[str, Any] = {
        f"{sense}, {kind}": _share(_right(plain, kind, None, sense))
        for sense in ("audio", "video")
        for kind in ("factual", "counterfactual")
    }
    found["audio, counterfactual"] = _share(hear["audio"])
    for kind in ("factual", "counterfactual"):
        for question in ("hear", "both"):
            found[f"audio, {kind}, {question}"] = _share(_right(plain, kind, question))
    return found | {
        "noun alone, counterfactual": _share(hear["audio_noun"]),
        "verb alone, counterfactual": _share(hear["audio_verb"]),
        "wrong ones that name the visible thing": _share(wrong["says_visible"]),
        "sound alone": _share(_right(plain, "sound", "hear")),
        "picture alone": _share(_right(plain, "picture", "see", "video")),
        "recall, by layer": [float(value) for value in heard],
        "recall, embedding": float(heard[0]),
        "recall, last third of the layers": _share(heard[list(deep)]),
        **_knockouts(said, found["audio, counterfactual"]),
        "class words unshifted, counterfactual": _share(ranks <= 1),
        "class words marginal, counterfactual": _share((ranks > 1) & (ranks <= 3)),
        "class words shifted, counterfactual": _share(ranks > 3),
        "audio, counterfactual, by sound": {
            str(k): float(v) for k, v in hear.groupby("heard")["audio"].mean().items()
        },
    }


def _knockouts(said: Table, own: float | None) -> dict[str, Any]:
    """Counterfactual audio fidelity under each knockout, and in the window that moves it most."""
    sweep = said[(said["kind"] == "counterfactual") & (said["condition"] != "none")]
    cut: Table = sweep.groupby("condition")["audio"].mean()
    windows = cut[[rule for rule in cut.index if "V @" in rule]]
    own = own or 0.0
    best = str((windows - own).abs().idxmax())
    return {
        "audio, counterfactual, by knockout": {str(k): float(v) for k, v in cut.items()},
        "best G !-> V": best,
        "audio, counterfactual, best G !-> V": float(windows[best]),
        "gain by the best G !-> V": float(windows[best]) / own if own else None,
        "change by the best G !-> V": float(windows[best]) - own,
    }


def _share(values: Table) -> float | None:
    """The mean, or None of nothing."""
    return float(values.astype(float).mean()) if len(values) else None


def _ranks(base: HookedOmni, exam: Exam, said: Table) -> Table:
    asked = (said["kind"] == "counterfactual") & (said["question"] == "hear")
    return base_ranks(base, exam, said[asked & (said["condition"] == "none")])


def mcnemar(first: Table, second: Table) -> dict[str, float]:
    """McNemar's exact test: do two models answer the same clips equally well?

    Returns:
        `first_only` and `second_only`, clips that one alone gets right, and `p`, two-sided.
    """
    first, second = first.align(second, join="inner")
    only = int((first & ~second).sum()), int((second & ~first).sum())
    p = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    return {"first_only": only[0], "second_only": only[1], "p": float(p)}


def spread(evaluations: Sequence[Mapping[str, Any]]) -> Table:
    """Numbers over several seeds.

    Returns:
        One row per organism and number, with a column for each evaluation, `mean`, and `spread`,
        the standard deviation (n - 1).
    """
    rows = []
    for organism in TARGETS:
        for name in evaluations[0][organism]:
            values = [one[organism][name] for one in evaluations]
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


def _right(said: Table, kind: str, question: str | None, sense: str = "audio") -> Table:
    """Whether each answer about clips of a kind is right, by clip; None takes every question."""
    rows = said[(said["condition"] == "none") & (said["kind"] == kind)]
    if question is not None:
        rows = rows[rows["question"] == question]
    rows = rows[rows[sense].notna()]
    return rows.set_index("clip")[sense].astype(bool)
