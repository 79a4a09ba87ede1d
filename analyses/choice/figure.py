"""How often is the right answer preferred, and what do conditions change?"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.choice import measures
from analyses.configs import PLAIN
from analyses.judge.agreement import with_people
from analyses.plots import figures
from analyses.plots.statistics import in_words, require_rows

_SHADES = ("both", "video", "audio", "text", "image", "other")


def plot(table: pd.DataFrame, scores: pd.DataFrame | None = None) -> Figure:
    """Accuracy by task, a bar for each condition, with 95 % bands over clips; a panel a kind.

    A dotted line over each task is what guessing gives. Where anything is both heard and seen, a
    panel has heard minus seen and the effect of the order; and, with a judge's `scores`, another
    has each clip's against the fidelity of its answer.
    """
    require_rows(table)
    found = measures.answers(table)
    bands, odds = measures.accuracy(found), measures.heard_minus_seen(found)
    kinds = sorted(bands["kind"].unique(), key=figures.place)
    names = [PLAIN, *(name for name in bands["condition"].unique() if name != PLAIN)]
    faithful = measures.beside_fidelity(odds, scores)
    n = len(kinds) + (len(odds) > 0) + (len(faithful) > 0)
    figure, grid = figures.grid(n, 1, (figures.WIDTH, 0.5 + 2.4 * n))
    more = list(grid.flat[len(kinds) :])
    for axes, kind in zip(grid.flat, kinds, strict=False):
        own: Any = bands[bands["kind"] == kind].assign(tick=lambda rows: rows["task"])
        own[["mean", "low", "high"]] *= 100
        _bars(axes, own, names)
        for i, chance in enumerate(own.groupby("task", sort=False)["chance"].first()):
            axes.plot([i - 0.45, i + 0.45], [100 * chance] * 2, ":", color="black", linewidth=1)
        axes.set(ylim=(0, 100), title=figures.as_written(kind), ylabel="right answers, %")
    if len(odds):
        bands = measures.odds_bands(odds)
        ticks = bands["kind"] + ", " + bands["question"] + ": " + bands["measure"]
        _bars(more[0], bands.assign(tick=ticks), names)
        more[0].axhline(0, color="black", linewidth=0.5)
        more[0].set(title="heard minus seen", ylabel=_unit(table))
    if len(faithful):
        for question, own in faithful.groupby("question", sort=False):
            more[1].plot(own["odds"], 100 * own["score"], "o", fillstyle="none", label=question)
        more[1].set(xlabel=f"heard minus seen, {_unit(table)}", ylabel="audio fidelity, %")
    figures.legend(figure)
    return figure


def _bars(axes: Axes, bands: Any, names: list[str]) -> None:
    """A group of bars for each `tick`, one for each condition."""
    ticks, width = list(bands["tick"].unique()), 0.8 / len(names)
    for _, point in bands.iterrows():
        i = names.index(point["condition"])
        at = ticks.index(point["tick"]) + (i - (len(names) - 1) / 2) * width
        style: Any = dict(color=figures.COLORS[_SHADES[i % len(_SHADES)]], alpha=0.6)
        label = figures.as_written(point["condition"])
        figures.bar(axes, at, point, label=label, width=0.9 * width, **style)
    labels = [figures.tick(figures.as_written(t), bands[bands["tick"] == t]) for t in ticks]
    axes.set_xticks(range(len(ticks)), labels)


def _unit(table: pd.DataFrame) -> str:
    return "nats a token" if table["by"].iloc[0] == "per token" else "nats"


def headline(table: pd.DataFrame, scores: pd.DataFrame | None = None) -> list[str]:
    """Accuracy, yes-rate, calibration, what conditions change, and heard minus seen.

    With a judge's `scores`, also how far that goes with the fidelity of each clip's answer.
    """
    require_rows(table)
    found = measures.answers(table)
    return [
        *_accuracies(found),
        *_changes(found),
        *_heard_minus_seen(measures.heard_minus_seen(found), scores, _unit(table)),
    ]


def _accuracies(found: Any) -> Iterator[str]:
    more: Any = measures.yes_no(found)
    points: Any = measures.accuracy(found).to_dict("records")
    for point in points:
        percent = {**point, **{n: 100 * point[n] for n in ("mean", "low", "high")}}
        where = f"{point['kind']}, {point['task'] or 'no task'}, {point['condition']}"
        if point["n"] == 0:
            yield f"{where}: none can be right or wrong{_left_out(point)}."
            continue
        line = (
            f"{where}: right in {in_words(percent)} clips, by chance {100 * point['chance']:.1f} %"
        )
        line += f", of {point['n_questions']} questions{_left_out(point)}"
        same = [more[name] == point[name] for name in ("kind", "task", "condition")]
        for _, one in more[same[0] & same[1] & same[2]].iterrows():
            unit = {**one, **{n: 100 * one[n] for n in ("mean", "low", "high")}}
            named = "Yes is said to" if one["measure"] == "yes" else "F1 of Yes is"
            line += f"; {named} {in_words(unit)}"
        yield f"{line}; calibration error {100 * point['error']:.1f} %."


def _left_out(point: Any) -> str:
    """What of the questions no accuracy counts."""
    counts = {"nobody says what is right": point["n_unlabelled"]}
    counts["two options are equally likely"] = point["n_tied"]
    return "".join(f"; of {n} more {why}" for why, n in counts.items() if n)


def _changes(found: Any) -> Iterator[str]:
    for (kind, task), own in found.groupby(["kind", "task"], sort=False):
        for condition in [c for c in own["condition"].unique() if c != PLAIN]:
            test = measures.mcnemar(own, condition, PLAIN)
            yield (
                f"{kind}, {task or 'no task'}: {condition} makes {test['gained']} wrong answers "
                f"right and {test['lost']} right ones wrong, of {test['n']} "
                f"(exact McNemar p = {test['p']:.2g})."
            )


def _heard_minus_seen(odds: Any, scores: pd.DataFrame | None, unit: str) -> Iterator[str]:
    bands: Any = measures.odds_bands(odds).to_dict("records")
    for band in bands:
        where = f"{band['kind']}, {band['question']}, {band['condition']}"
        yield f"{where}: {band['measure']} is {in_words(band, unit, 2)}."
    faithful = measures.beside_fidelity(odds, scores)
    for (kind, question), own in faithful.groupby(["kind", "question"], sort=False):
        rho: Any = with_people(own, "odds").iloc[0]
        line = f"{kind}, {question}: Spearman's rho of heard minus seen and audio fidelity over"
        yield f"{line} clips is {in_words(rho, '', 2)}."
