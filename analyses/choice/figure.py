"""How often is the right answer preferred, and what do conditions change?"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analyses.choice import measures
from analyses.configs import PLAIN
from analyses.plots import figures
from analyses.plots.statistics import in_words, mean_band, require_rows

_SHADES = ("both", "video", "audio", "text", "image", "other")


def plot(table: pd.DataFrame) -> Figure:
    """Accuracy by task, a bar for each condition, with 95 % bands over clips; a panel a kind.

    A dotted line over each task is what guessing gives.
    """
    require_rows(table)
    bands = measures.accuracy(measures.answers(table))
    kinds = sorted(bands["kind"].unique(), key=figures.place)
    names = [PLAIN, *(name for name in bands["condition"].unique() if name != PLAIN)]
    figure, panels = figures.panels(len(kinds), "right answers, %", n_columns=1)
    for axes, kind in zip(panels, kinds, strict=True):
        own: Any = bands[bands["kind"] == kind]
        tasks, width = list(own["task"].unique()), 0.8 / len(names)
        for (_, point), at in zip(own.iterrows(), _places(own, tasks, names, width), strict=True):
            shade = figures.COLORS[_SHADES[names.index(point["condition"]) % len(_SHADES)]]
            percent = {name: 100 * point[name] for name in ("mean", "low", "high")}
            style: Any = dict(color=shade, alpha=0.6, width=0.9 * width)
            label = figures.as_written(point["condition"])
            figures.bar(axes, at, percent, label=label, **style)
        for i, task in enumerate(tasks):
            chance = 100 * own[own["task"] == task]["chance"].iloc[0]
            axes.plot([i - 0.45, i + 0.45], [chance] * 2, ":", color="black", linewidth=1)
        labels = [figures.tick(figures.as_written(t), own[own["task"] == t]) for t in tasks]
        axes.set_xticks(range(len(tasks)), labels)
        axes.set(ylim=(0, 100), title=figures.as_written(kind))
    figures.legend(figure)
    return figure


def _places(own: Any, tasks: list[str], names: list[str], width: float) -> Iterator[float]:
    for _, point in own.iterrows():
        offset = (names.index(point["condition"]) - (len(names) - 1) / 2) * width
        yield tasks.index(point["task"]) + offset


def headline(table: pd.DataFrame) -> list[str]:
    """Accuracy, yes-rate, calibration, what conditions change, and heard minus seen."""
    require_rows(table)
    found = measures.answers(table)
    return [
        *_accuracies(found),
        *_changes(found),
        *_heard_minus_seen(found, str(table["by"].iloc[0])),
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


def _heard_minus_seen(found: Any, by: str) -> Iterator[str]:
    odds, unit = measures.heard_minus_seen(found), "nats a token" if by == "per token" else "nats"
    for (kind, question, condition), own in odds.groupby(["kind", "question", "condition"]):
        own = own.assign(kind=kind)
        own.attrs = odds.attrs
        line = in_words(mean_band(own, "odds", by=["condition"]).iloc[0], unit, 2)
        effect = ""
        if own["order_effect"].notna().any():
            point = mean_band(own, "order_effect", by=["condition"]).iloc[0]
            effect = f"; naming the heard one first adds {in_words(point, unit, 2)}"
        yield f"{kind}, {question}, {condition}: heard minus seen is {line}{effect}."
