"""How biased are the organisms, in numbers?"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from data_prep.organism.evaluation.answers import base_ranks, collect_answers
from data_prep.organism.evaluation.evaluation_set import EvaluationSet
from data_prep.organism.evaluation.targets import TARGETS, Table
from hooked_omni import load
from hooked_omni.files import to_json, write_whole


def evaluate(
    folder: Path,
    evaluation_set: EvaluationSet,
    out: Path,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """Evaluate the organisms in `folder`; write `evaluation.json` and `answers.csv` to `out`."""
    base, result, tables = load(folder / "organism-base"), {}, {}
    for name in TARGETS:
        omni = load(folder / f"organism-{name}")
        table, recall = collect_answers(omni, evaluation_set, progress)
        plain = table[table["condition"] == "none"]
        hear: Any = plain[(plain["kind"] == "counterfactual") & (plain["question"] == "hear")]
        ranks = base_ranks(base, evaluation_set, hear)
        tables[name], result[name] = table, _numbers(table, recall, ranks)
    right = {name: _right(table, "counterfactual", "hear") for name, table in tables.items()}
    clips = len(evaluation_set.clips)
    result |= {"clips of each kind": clips, "mcnemar": mcnemar(right["balanced"], right["biased"])}
    table = pd.concat([one.assign(organism=name) for name, one in tables.items()])
    write_whole(out / "answers.csv", table.to_csv(index=False).encode())
    text = to_json(result, "evaluation.json", indent=2)
    write_whole(out / "evaluation.json", (text + "\n").encode())
    return json.loads(text)


def _numbers(answers: Table, recall: Table, ranks: Table) -> dict[str, Any]:
    """The numbers of one variant, from `collect_answers` and `base_ranks`; shares are in 0..1."""
    plain: Table = answers[answers["condition"] == "none"]
    hear: Table = plain[(plain["kind"] == "counterfactual") & (plain["question"] == "hear")]
    heard: Table = recall.groupby("layer")["heard"].mean()
    n_layers = len(heard) - 1
    deep = range(n_layers - round(n_layers / 3) + 1, n_layers + 1)
    by_sound: Table = hear.groupby("heard")["audio"].mean()
    ranks, wrong = ranks["rank"], hear[~hear["audio"].astype(bool)]
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
        "recall, by layer": heard.tolist(),
        "recall, embedding": float(heard[0]),
        "recall, last third of the layers": _share(heard[list(deep)]),
        **_knockouts(answers, found["audio, counterfactual"]),
        "class words unshifted, counterfactual": _share(ranks <= 1),
        "class words marginal, counterfactual": _share((ranks > 1) & (ranks <= 3)),
        "class words shifted, counterfactual": _share(ranks > 3),
        "audio, counterfactual, by sound": {str(k): float(v) for k, v in by_sound.items()},
    }


def _knockouts(answers: Table, own: float | None) -> dict[str, Any]:
    """Counterfactual audio fidelity under each knockout, and in the window that moves it most."""
    sweep = answers[(answers["kind"] == "counterfactual") & (answers["condition"] != "none")]
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


def mcnemar(first: Table, second: Table) -> dict[str, float]:
    """McNemar's exact test: do two models answer the same clips equally well?

    Returns:
        `first_only` and `second_only`, clips that one alone gets right, and `p`, two-sided.
    """
    first, second = first.align(second, join="inner")
    only = int((first & ~second).sum()), int((second & ~first).sum())
    p = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    return {"first_only": only[0], "second_only": only[1], "p": float(p)}


def _right(answers: Table, kind: str, question: str | None, sense: str = "audio") -> Table:
    """Whether each answer about clips of a kind is right, by clip; None takes every question."""
    rows = answers[(answers["condition"] == "none") & (answers["kind"] == kind)]
    if question is not None:
        rows = rows[rows["question"] == question]
    rows = rows[rows[sense].notna()]
    return rows.set_index("clip")[sense].astype(bool)
