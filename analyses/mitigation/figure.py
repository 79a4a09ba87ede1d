"""Which mitigations give most back for what they take?"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analyses.configs import PLAIN
from analyses.plots import figures
from analyses.plots.numbers import note
from analyses.plots.statistics import in_words, mean_band, require_rows

MOST_LOST = 0.05
"""Share of the answers about the picture that a chosen setting may lose on the first half."""


def reported(table: pd.DataFrame) -> Any:
    """The chosen setting of each mitigation, on clips that it was not chosen on.

    Chosen is the one with most answers about the sound right, among those that lose no more than
    `MOST_LOST` of those about the picture; if all lose more, the one that loses least. Counted are
    counterfactual clips if there are any. Where a half has none, the first setting stands, of all
    clips.

    Returns:
        One row per mitigation, and one for its random counterpart: `setting`, `held_out` (whether
        clips of the second half alone count), and a point of `mean_band` of `seen` and `heard`
        (percent of right answers, to "see" and to all others), `fluency` (plain log p, nats a
        token) and `cost` (plain captions); None for a question that is not asked.
    """
    require_rows(table)
    chosen = table[table["kind"] == "counterfactual"]
    own: Any = chosen if len(chosen) else table
    first, second = (own[own["half"] == name] for name in ("first", "second"))
    held_out = len(first) > 0 and len(second) > 0
    rows, of = [], second if held_out else own
    for name, settings in own.groupby("mitigation", sort=False):
        real = settings[~settings["random"]]
        texts = list(dict.fromkeys(real["setting"]))
        best = _best(first, name, texts) if held_out else 0
        pairs = settings[["setting", "random"]].drop_duplicates()
        beside = _beside(pairs, texts[best])
        for setting, random in [(texts[best], False), *((one, True) for one in beside)]:
            same = (of["mitigation"] == name) & (of["setting"] == setting)
            rows.append(_points(of[same & (of["random"] == random)], own.attrs))
            rows[-1] |= dict(mitigation=name, random=random, setting=setting, held_out=held_out)
    return pd.DataFrame(rows)


def _beside(pairs: Any, setting: str) -> list[str]:
    """The random one of a setting, which follows it."""
    listed = list(pairs.itertuples(index=False))
    at = next(i for i, one in enumerate(listed) if one.setting == setting and not one.random)
    return [one.setting for one in listed[at + 1 : at + 2] if one.random]


def _best(first: Any, name: Any, texts: list[str]) -> int:
    def right(rows: Any, question: str) -> float:
        return float(rows.loc[(rows["question"] == "see") == (question == "see"), "right"].mean())

    plain = right(first[first["mitigation"] == PLAIN], "see")
    real = first[(first["mitigation"] == name) & ~first["random"]]
    scores = []
    for i, text in enumerate(texts):
        rows = real[real["setting"] == text]
        lost = max(plain - right(rows, "see"), 0.0)
        beyond = max(lost - MOST_LOST, 0.0) if lost == lost else 0.0
        heard = right(rows, "hear")
        scores.append((-beyond, heard if heard == heard else 0.0, -i))
    return -max(scores)[2]


def _points(rows: Any, attrs: Any) -> dict[str, Any]:
    points: dict[str, Any] = {}
    about = rows["question"] == "see"
    parts = {"heard": (rows[~about], "right"), "seen": (rows[about], "right")}
    parts |= {"fluency": (rows, "plain_logprob"), "cost": (rows, "cost")}
    for point, (own, column) in parts.items():
        unit = 100 if column == "right" else 1
        clips = own.groupby("sample", as_index=False).agg(value=(column, "mean"))
        clips = clips.assign(value=unit * clips["value"], one="")
        clips.attrs = attrs
        points[point] = dict(mean_band(clips, "value", by=["one"]).iloc[0]) if len(own) else None
    return points


def plot(table: pd.DataFrame) -> Figure:
    """Answers about the sound against those about the picture, a point for each mitigation.

    Where one of them is not asked, against how fluent answers are. Crosses are 95 % bands, hollow
    points the random counterparts, and the line joins those that no other beats in both.
    """
    found = reported(table)
    y = "heard" if found["heard"].notna().any() else "seen"
    x = "seen" if y == "heard" and found["seen"].notna().any() else "fluency"
    figure, (axes,) = figures.panels(1, f"right about what is {y}, %")
    figure.set_size_inches(figures.WIDTH, 4.2)
    shades = [color for name, color in figures.COLORS.items() if name not in ("kl", "shifted")]
    names = [name for name in dict.fromkeys(found["mitigation"]) if name != PLAIN]
    for row in found.to_dict("records"):
        name, up, across = row["mitigation"], row[y], row[x]
        if up is None:
            continue
        shade = "black" if name == PLAIN else shades[names.index(name) % len(shades)]
        label = figures.as_written(f"{name} (costs {row['cost']['mean']:.2f})")
        style: Any = dict(color=shade, fmt="o", fillstyle="none" if row["random"] else "full")
        spread = [
            [[max(0.0, one["mean"] - one["low"])], [max(0.0, one["high"] - one["mean"])]]
            for one in (across, up)
        ]
        ends = dict(xerr=spread[0], yerr=spread[1], elinewidth=0.6)
        axes.errorbar(
            across["mean"], up["mean"], **ends, **style, label="" if row["random"] else label
        )
        note(axes, "line", str(name), [across["mean"]], [up])
    best = _front(found, x, y)
    axes.plot([p[0] for p in best], [p[1] for p in best], ":", color="black", linewidth=1, zorder=0)
    unit = "right about what is seen, %" if x == "seen" else "plain log p, nats a token"
    counts = pd.DataFrame([one for one in found[y] if one is not None])
    axes.set(xlabel=unit, title=figures.counted(counts))
    figures.legend(figure)
    return figure


def _front(found: Any, x: str, y: str) -> list[tuple[float, float]]:
    """The points that no other is better than in one of both, and as good in the other."""
    real: Any = found[~found["random"] & found[y].notna()]
    points = {(row[x]["mean"], row[y]["mean"]) for row in real.to_dict("records")}
    beaten = {p for p in points for q in points if q != p and q[0] >= p[0] and q[1] >= p[1]}
    return sorted(points - beaten)


def headline(table: pd.DataFrame) -> list[str]:
    """What each mitigation gives and costs, and what its random counterpart does."""
    found = reported(table)
    lines = list(_lines(found))
    if not found["held_out"].all():
        lines.append("A half has no clips: the first settings, on all clips; nothing was chosen.")
    return lines


def _lines(found: Any) -> Iterator[str]:
    for row in found.to_dict("records"):
        name = f"{row['mitigation']}, at random" if row["random"] else row["mitigation"]
        setting = f" ({row['setting']})" if row["setting"] else ""
        parts = [
            f"{what} {in_words(row[what])}" if row[what]["n"] else f"{what}: no references"
            for what in ("heard", "seen")
            if row[what] is not None
        ]
        fluency, cost = in_words(row["fluency"], "nats a token", 2), row["cost"]["mean"]
        parts += [f"plain log p {fluency}", f"costs {cost:.2f} plain captions"]
        yield f"{name}{setting}: {'; '.join(parts)}."
