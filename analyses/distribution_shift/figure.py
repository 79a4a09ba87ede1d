"""How many tokens would the base have chosen too, next to the published shares?"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.distribution_shift.sound_words import first_pieces
from analyses.distribution_shift.table import SHIFTS
from analyses.plots import figures, published
from analyses.plots.numbers import note
from analyses.plots.statistics import contrast, in_words, pooled, require_rows

_HATCHES = {"unshifted": "", "marginal": "//", "shifted": ".."}


def plot(table: pd.DataFrame) -> Figure:
    """Unshifted, marginal and shifted tokens: all, and those that name sound events; divergence.

    Means over tokens, as the paper's, with bands over samples; of a word for a sound, the first
    token alone. The paper's numbers for this model and base stand beside, paler.
    """
    bands = token_bands(table).query("over == 'tokens'").replace("kl_base_model", "kl")
    figure, ((first,), (second,), (third,)) = figures.grid(3, 1, (figures.WIDTH, 7.4))
    first.set(title="all tokens", ylabel="tokens, %", ylim=(0, 100))
    _bars(first, bands.query("tokens == 'all'"), SHIFTS, {})
    second.set(title="words that name sound events", ylabel="words, %", ylim=(0, 100))
    theirs = {f"audio_tokens_{shift}": shift for shift in SHIFTS}
    _bars(second, bands.query("tokens == 'events'"), SHIFTS, _published(table, theirs))
    third.set(title="divergence, all tokens", ylabel="KL(base || model),\nnats")
    theirs = _published(table, {"kl_divergence": "kl"})
    _bars(third, bands.query("tokens == 'all'"), ["kl"], theirs)
    figures.legend(figure)
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
    rows, twins = [], table.attrs.get("twins", {})
    for kind, question, group in figures.by_panel(pooled(table)):
        samples = group["sample"].unique()
        for tokens, part in (("all", group), ("events", first_pieces(group))):
            measures: dict[str, Any] = {shift: 100.0 * (part["shift"] == shift) for shift in SHIFTS}
            measures |= {name: 1.0 * part[name] for name in ("kl_base_model", "base_rank")}
            n: Any = 1.0 * part.groupby("sample").size()
            for measure, values in measures.items():
                known = dict(kind=kind, question=question, tokens=tokens, measure=measure)
                sums = values.groupby(part["sample"]).sum()
                answers = contrast([(sums / n).reindex(samples)], lambda mean: mean, twins)
                over = contrast([sums, n], lambda sums, n: sums / n, twins)
                rows.append(known | dict(over="answers") | answers)
                rows.append(known | dict(over="tokens") | over | dict(missing=answers["missing"]))
    return pd.DataFrame(rows)


def _bars(
    axes: Axes, bands: pd.DataFrame, measures: Sequence[str], theirs: Mapping[str, float]
) -> None:
    """A bar for each measure, side by side, so that no band covers another."""
    ticks, width = [], 0.8 / len(measures)
    offsets = {m: width * (i - (len(measures) - 1) / 2) for i, m in enumerate(measures)}
    looks: Any = {
        m: dict(color=figures.COLORS[m], edgecolor="black", width=width)
        | (dict(hatch=_HATCHES[m], label=m) if m in _HATCHES else {})
        for m in measures
    }
    for x, (kind, question, group) in enumerate(figures.by_panel(bands)):
        for name, offset in offsets.items():
            figures.bar(axes, x + offset, group.set_index("measure").loc[name], **looks[name])
        ticks.append(f"{kind}, {question}\n{figures.counted(group)}".replace(", up", ",\nup"))
    for name, number in theirs.items():
        axes.bar(len(ticks) + offsets[name], number, alpha=0.35, **looks[name] | dict(label=None))
        at = len(ticks) + offsets[name]
        note(axes, "published", looks[name].get("label", ""), [at], [{"mean": number}])
    ticks += ["published"] * bool(theirs)
    axes.set_xticks(range(len(ticks)), ticks)


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
