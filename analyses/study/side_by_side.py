"""Which numbers of several models stand side by side, and how do they look as figures?

Figures 2, 7 and 12 of the paper, and the tables of its supplements D.1 and D.3, over models.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses import fidelity
from analyses.choice import measures
from analyses.distribution_shift.figure import token_bands
from analyses.distribution_shift.table import SHIFTS
from analyses.knockout.figure import draw_panel, underneath
from analyses.plots import figures, published
from analyses.plots.statistics import POOL, contrast, mean_band
from analyses.study.answers import recalls
from analyses.study.effect import Untestable
from analyses.study.evidence import Evidence
from analyses.study.judging import conditions

_HATCHES = ("", "///", "...", "xxx")
_POINT = {"see": "video", "hear": "audio"}
_OURS: dict[str, Any] = dict(published=None, color="")
_PANELS = [(kind, question) for kind in POOL for question in _POINT]  # A to D
_MEASURES = dict(kl_base_model="kl_divergence", **{s: f"audio_tokens_{s}" for s in SHIFTS})


def fidelities(study: Evidence) -> Iterator[dict[str, Any]]:
    """Points of figure 2: each with its panel, its name in it, and the published number."""
    own = fidelity.plain(study.scores)
    if own.empty:
        return
    bands: Any = mean_band(own.assign(m=100 * own["score"]), "m", by=["kind", "question", "what"])
    for name in ("kind", "question"):
        bands = bands.sort_values(name, key=lambda names: names.map(figures.place), kind="stable")
    for band in bands.to_dict("records"):
        what, place = band["what"], (band["kind"], band["question"])
        theirs = study.published(f"{what}_fidelity", *place)
        known = dict(panel=f"{band['question']}: {what} fidelity", unit="%", published=theirs)
        yield band | known | dict(name=place[0], color=what)


def heard_and_said(study: Evidence) -> Iterator[dict[str, Any]]:
    """Points of D.1, of counterfactual clips; with too few samples, only why there are none."""
    try:
        by, found = recalls(study)
        found.append(study.fidelity("audio", "counterfactual", "hear"))
    except Untestable as reason:
        yield dict(panel=str(reason), n=0)
        return
    names = ("read", "said", "read by chance", "fidelity of the answer")
    for name, quantity, own in zip(
        names, ("latent_audio_recall", "", "", "audio_fidelity"), found, strict=True
    ):
        theirs = study.published(quantity, "counterfactual")
        known = dict(panel=f"sounds, {by}", unit="%", published=theirs)
        yield contrast([own], lambda mean: mean) | known | dict(name=name, color="audio")


def shifts(study: Evidence) -> Iterator[dict[str, Any]]:
    """Points of D.3: of all clips, where there are factual and counterfactual ones."""
    if "distribution_shift" not in study.tables:
        return
    bands: Any = token_bands(study.tables["distribution_shift"]).query("over == 'tokens'")
    kind = "all" if "all" in set(bands["kind"]) else bands["kind"].iloc[0]
    of_kind = bands[bands["kind"] == kind]
    for tokens, unit, what in (
        ("events", "%", "words for sounds"),
        ("all", "nats", "KL(base || model)"),
    ):
        for band in of_kind[of_kind["tokens"] == tokens].to_dict("records"):
            measure, question = band["measure"], band["question"]
            if measure in _MEASURES and (measure in SHIFTS) == (unit == "%"):
                theirs = study.published(_MEASURES[measure], kind, question)
                known = dict(panel=f"{kind}, {question}: {what}", unit=unit, published=theirs)
                yield band | known | dict(name=measure if unit == "%" else "", color="")


def choices(study: Evidence) -> Iterator[dict[str, Any]]:
    """Accuracy by task and condition, and heard minus seen, which nobody has published."""
    if "choice" not in study.tables:
        return
    found = measures.answers(study.tables["choice"])
    for band in measures.accuracy(found).to_dict("records"):
        panel = f"{band['kind']}, {band['task'] or 'no task'}: right answers"
        percent = {name: 100 * band[name] for name in ("mean", "low", "high")}
        yield band | percent | dict(panel=panel, unit="%", name=band["condition"], **_OURS)
    unit = "nats a token" if study.tables["choice"]["by"].iloc[0] == "per token" else "nats"
    for band in measures.odds_bands(measures.heard_minus_seen(found)).to_dict("records"):
        panel = f"{band['kind']}, {band['question']}: {band['measure']}"
        yield band | dict(panel=panel, unit=unit, name=band["condition"], **_OURS)


def bars(rows: list[dict[str, Any]]) -> Figure | None:
    """A panel for each `panel`, a group of bars for each `model`, published numbers dotted."""
    points = pd.DataFrame([row for row in rows if row["n"]])
    if points.empty:
        return None
    panels, models = points.groupby("panel", sort=False), list(points["model"].unique())
    n_columns = min(panels.ngroups, 2)
    n_rows = -(-panels.ngroups // n_columns)
    figure, grid = figures.grid(n_rows, n_columns, (figures.WIDTH, 0.8 + 2.6 * n_rows))
    for axes, (title, panel) in zip(grid.flat, panels, strict=False):
        names = list(panel["name"].unique())
        width = 0.8 / len(names)
        for point in panel.to_dict("records"):
            i = names.index(point["name"])
            at = models.index(point["model"]) + width * (i - (len(names) - 1) / 2)
            color = figures.COLORS.get(point["color"], "lightgray")
            style: Any = dict(width=0.9 * width, color=color, alpha=0.8, edgecolor="black")
            figures.bar(axes, at, point, **style, hatch=_HATCHES[i % 4], label=point["name"])
            if pd.notna(point["published"]):
                line: Any = dict(color="black", ls=":", lw=2, label="published")
                axes.hlines(point["published"], at - width / 2, at + width / 2, **line)
        unit = panel["unit"].iloc[0]
        axes.set(ylabel=unit, ylim=(0, 100) if unit == "%" else None)
        axes.set_title(f"{title}\n({figures.counted(panel)})", fontsize="small")
        turned: Any = dict(rotation=20, ha="right", rotation_mode="anchor")
        axes.set_xticks(range(len(models)), models, **turned)
    for axes in grid.flat[panels.ngroups :]:
        axes.remove()
    figures.legend(figure)
    return figure


def knockouts(studies: Mapping[str, Evidence]) -> Figure | None:
    """Figure 12: a row of panels A to D for each model; the dotted line is the untouched answer."""
    studies = {name: own for name, own in studies.items() if "knockout" in own.tables}
    if not studies:
        return None
    figure, grid = figures.grid(
        len(studies), 4, (figures.WIDTH, 0.9 + 1.6 * len(studies)), sharey=True
    )
    for row, (name, study) in zip(grid, studies.items(), strict=True):
        table = study.tables["knockout"]
        table = fidelity.joined(table.assign(condition=conditions(table)), study.scores)
        for axes, letter, (kind, question) in zip(row, "ABCD", _PANELS, strict=True):
            own = table[(table["kind"] == kind) & (table["question"] == question)]
            own = own.assign(right=100 * own[f"{_POINT[question]}_fidelity"]).dropna(subset="right")
            if len(own):
                draw_panel(axes, own, "right")
                points = study.curve("figure6_knockout", kind, question)
                underneath(axes, points, published.title(table.attrs))
            title = f"{letter}: {kind},\n{question}, {axes.get_title() or 'n = 0'}"
            axes.set_title(title, fontsize="small")
            axes.set_xlabel("center, layer")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        row[0].set(ylabel=f"{name}\nfidelity, %", ylim=(-5, 105))
    figures.legend(figure)
    return figure
