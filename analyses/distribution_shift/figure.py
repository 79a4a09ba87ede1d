"""How many tokens would the base have chosen too, next to the published shares?"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.distribution_shift.sound_words import first_pieces
from analyses.distribution_shift.table import SHIFTS
from analyses.plots import figures, published
from analyses.plots.statistics import contrast, in_words, pooled, require_rows

_COLORS = {"unshifted": "tab:blue", "marginal": "tab:orange", "shifted": "tab:red"}


def plot(table: pd.DataFrame) -> Figure:
    """Unshifted, marginal and shifted tokens: all, and those that name sound events; divergence.

    Means over tokens, as the paper's, with bands over samples; of a word for a sound, the first
    token alone. The paper's numbers for this model and base stand beside, paler.
    """
    bands = token_bands(table).query("over == 'tokens'")
    figure, ((left, middle, right),) = figures.grid(1, 3, (13.0, 3.8))
    left.set_title("all tokens")
    _bars(left, bands.query("tokens == 'all'"), {})
    middle.set_title("words that name sound events")
    theirs = {f"audio_tokens_{shift}": shift for shift in SHIFTS}
    _bars(middle, bands.query("tokens == 'events'"), _published(table, theirs))
    figure.legend(*middle.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    right.set(title="divergence, all tokens", ylabel="KL(base || model), nats")
    kl = bands.query("tokens == 'all' and measure == 'kl_base_model'")
    _divergences(right, kl, _published(table, {"kl_divergence": "kl"}))
    return figure


def token_bands(table: pd.DataFrame) -> pd.DataFrame:
    """Classes, divergence and rank, as mean over answers and as mean over tokens.

    Returns:
        One row per `kind` ("all" is factual and counterfactual together), `question`, `tokens`
        ("all", or "events": the first of each word that names a sound), `measure` (percent of each
        class, nats, or rank) and `over` ("answers" or "tokens"), with `mean`, `low`, `high`, `n`
        and `missing` as `contrast` has them.
    """
    require_rows(table)
    rows = []
    for kind, question, group in figures.by_panel(pooled(table)):
        samples = group["sample"].unique()
        for tokens, part in (("all", group), ("events", first_pieces(group))):
            measures = {shift: 100.0 * (part["shift"] == shift) for shift in SHIFTS}
            measures |= {name: 1.0 * part[name] for name in ("kl_base_model", "base_rank")}
            n = 1.0 * part.groupby("sample").size()
            for measure, values in measures.items():
                known = dict(kind=kind, question=question, tokens=tokens, measure=measure)
                sums = values.groupby(part["sample"]).sum()
                answers = contrast([(sums / n).reindex(samples)], lambda mean: mean)
                over = contrast([sums, n], lambda sums, n: sums / n)
                rows.append(known | dict(over="answers") | answers)
                rows.append(known | dict(over="tokens") | over | dict(missing=answers["missing"]))
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
        ticks.append("published")
    axes.set_xticks(range(len(ticks)), ticks, fontsize="small")


def _stack(
    axes: Axes, x: int, points: Mapping[str, Any], label: bool = False, **style: Any
) -> None:
    below = 0.0
    for shift, point in points.items():
        style |= dict(bottom=below, color=_COLORS[shift], label=shift if label else None)
        figures.bar(axes, x, point, **style)
        below += point["mean"]


def _divergences(axes: Axes, bands: pd.DataFrame, theirs: Mapping[str, float]) -> None:
    ticks = []
    for x, point in enumerate(bands.to_dict("records")):
        figures.bar(axes, x, point, color="tab:gray")
        ticks.append(f"{point['kind']},\n{point['question']}\n(n = {point['n']})")
    for number in theirs.values():
        axes.bar(len(ticks), number, color="tab:gray", alpha=0.35)
        ticks.append("published")
    axes.set_xticks(range(len(ticks)), ticks, fontsize="small")


def _published(table: pd.DataFrame, names: Mapping[str, str]) -> dict[str, float]:
    """The paper's numbers of the whole set, if it has all of them for the question of the table."""
    (question, *others) = table["question"].unique()
    numbers = {n: published.number(q, table.attrs, question, "all") for q, n in names.items()}
    known = {name: number for name, number in numbers.items() if number is not None}
    return known if len(known) == len(names) and not others else {}


def headline(table: pd.DataFrame) -> list[str]:
    """How many of the words for sounds the base would have chosen too, by kind and question."""
    lines = []
    for kind, question, group in figures.by_panel(token_bands(table)):
        point = {(p["tokens"], p["measure"], p["over"]): p for p in group.to_dict("records")}
        divergence = in_words(point["all", "kl_base_model", "tokens"], "nats", 3)
        title = f"{kind}, {question}: KL(base || model) is {divergence} over all tokens"
        if not point["events", "base_rank", "tokens"]["n"]:
            lines.append(f"{title}; no answer names a sound event.")
            continue
        shifts = "; ".join(
            f"{in_words(point['events', shift, 'tokens'])} {shift} "
            f"(mean over answers {point['events', shift, 'answers']['mean']:.1f} %)"
            for shift in SHIFTS
        )
        own = pooled(table).query("kind == @kind and question == @question")
        ranks = first_pieces(own).groupby("sample")["base_rank"]
        lines.append(
            f"{title}; of the words that name sound events, {shifts}; their median rank in the "
            f"base is {ranks.obj.median():g}, mean over answers of the median "
            f"{ranks.median().mean():.2f}."
        )
    theirs = _published(table, {f"audio_tokens_{shift}": shift for shift in SHIFTS})
    kl = _published(table, {"kl_divergence": "KL"})
    numbers = [f"{v} % {name}" for name, v in theirs.items()] + [f"KL {v}" for v in kl.values()]
    note = f"All clips, {published.title(table.attrs)}: {', '.join(numbers)}."
    system = "; ".join(table.attrs.get("system", ()))
    lines += [f"System prompt: {system}."] if system else []
    return [*lines, note] if numbers else lines
