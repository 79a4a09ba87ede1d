"""How many tokens would the base have chosen too, next to the published shares?"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.cases import KEYS
from analyses.distribution_shift.table import SHIFTS
from analyses.plots import figures, published
from analyses.plots.statistics import in_words, mean_band

_COLORS = {"unshifted": "tab:blue", "marginal": "tab:orange", "shifted": "tab:red"}
_POINT = ["kind", "question", "tokens", "measure"]
_THEIRS = "published,\nQwen2.5-Omni-3B"


def plot(table: pd.DataFrame) -> Figure:
    """Unshifted, marginal and shifted tokens: all, and those that name sound events; divergence.

    Means over samples, with their confidence band; the paper's numbers stand beside, paler.
    """
    bands = mean_band(_shares(table), "value", by=_POINT)
    figure, ((left, middle, right),) = figures.grid(1, 3, (13.0, 3.8))
    left.set_title("all tokens")
    _bars(left, bands.query("tokens == 'all'"), {})
    middle.set_title("tokens that name sound events")
    theirs = {shift: _published(f"audio_tokens_{shift}") for shift in SHIFTS}
    _bars(middle, bands.query("tokens == 'events'"), theirs)
    figure.legend(*middle.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    right.set(title="divergence, all tokens", ylabel="KL(base || model), nats")
    _divergences(right, bands.query("tokens == 'all' and measure == 'kl_base_model'"))
    return figure


def _shares(table: pd.DataFrame) -> pd.DataFrame:
    """Percent of each sample's tokens in each class, and its mean divergence and rank."""
    rows = []
    groups: Any = table.groupby(list(KEYS), sort=False)
    for key, group in groups:
        for tokens, part in (("all", group), ("events", group[group["events"].str.len() > 0])):
            known = dict(zip(KEYS, key, strict=True)) | dict(tokens=tokens)
            measures = {shift: 100 * (part["shift"] == shift).mean() for shift in SHIFTS}
            measures |= {name: part[name].mean() for name in ("kl_base_model", "base_rank")}
            rows += [known | dict(measure=name, value=v) for name, v in measures.items()]
    return pd.DataFrame(rows)


def _bars(axes: Axes, bands: pd.DataFrame, theirs: Mapping[str, float]) -> None:
    axes.set(ylabel="tokens, %", ylim=(0, 100))
    ticks = []
    for x, (kind, question, group) in enumerate(figures.by_panel(bands)):
        points = group.set_index("measure")
        own = {shift: points.loc[shift] for shift in SHIFTS}
        _stack(axes, x, own, label=x == 0)
        ticks.append(f"{kind},\n{question}\n({figures.counted(group)})")
    if theirs:
        same = {shift: dict(mean=v, low=v, high=v) for shift, v in theirs.items()}
        _stack(axes, len(ticks), same, alpha=0.35)
        ticks.append(_THEIRS)
    axes.set_xticks(range(len(ticks)), ticks, fontsize="small")


def _stack(
    axes: Axes, x: int, points: Mapping[str, Any], label: bool = False, **style: Any
) -> None:
    below = 0.0
    for shift, point in points.items():
        style |= dict(bottom=below, color=_COLORS[shift], label=shift if label else None)
        figures.bar(axes, x, point, **style)
        below += point["mean"]


def _divergences(axes: Axes, bands: pd.DataFrame) -> None:
    ticks = []
    for x, point in enumerate(bands.to_dict("records")):
        figures.bar(axes, x, point, color="tab:gray")
        ticks.append(f"{point['kind']},\n{point['question']}\n(n = {point['n']})")
    axes.bar(len(ticks), _published("kl_divergence"), color="tab:gray", alpha=0.35)
    axes.set_xticks(range(len(ticks) + 1), [*ticks, _THEIRS], fontsize="small")


def _published(quantity: str) -> float:
    return published.number(quantity, "qwen2.5-omni-3b|qwen2.5-vl")


def headline(table: pd.DataFrame) -> list[str]:
    """How many of the words for sounds the base would have chosen too, by kind and question."""
    bands = mean_band(_shares(table), "value", by=_POINT)
    lines = []
    for kind, question, group in figures.by_panel(bands):
        point = {(p["tokens"], p["measure"]): p for p in group.to_dict("records")}
        named: Any = table[table["events"].str.len() > 0]
        ranks = named.query("kind == @kind and question == @question")["base_rank"]
        divergence = in_words(point["all", "kl_base_model"], "nats", 3)
        title = f"{kind}, {question}: KL(base || model) is {divergence} over all tokens"
        if not len(ranks):
            lines.append(f"{title}; no answer names a sound event.")
            continue
        shifts = ", ".join(f"{in_words(point['events', shift])} {shift}" for shift in SHIFTS)
        lines.append(
            f"{title}; of those that name sound events, {shifts}; their median rank in the base is "
            f"{ranks.median():g}."
        )
    theirs = ", ".join(f"{_published(f'audio_tokens_{s}')} % {s}" for s in SHIFTS)
    return [*lines, f"Published for Qwen2.5-Omni-3B: {theirs}, KL {_published('kl_divergence')}."]
