"""How do several models compare? `python -m analyses compare STUDY STUDY ... --out DIR`.

From the files of finished studies of the same data: one page, with figures. No model is loaded.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analyses.plots import figures
from analyses.plots.statistics import in_words
from analyses.running import results
from analyses.study import answers, side_by_side
from analyses.study.claims import CLAIMS, check
from analyses.study.finished import FinishedStudy, read_finished, require_comparable
from analyses.study.report import as_text
from hooked_omni.files import remove, write_whole

_BARS = {
    "fidelity": ("Fidelity (figure 2)", side_by_side.fidelities),
    "heard_and_said": ("What can be read, and what is said (D.1)", side_by_side.heard_and_said),
    "shift": ("Distance from the base (D.3)", side_by_side.shifts),
    "choice": ("Preferred answers", side_by_side.choices),
}

# Whether the judge is fair is a claim about the judge, and rests on files that are elsewhere.
_OF_MODELS = [claim for claim in CLAIMS if claim.measure is not answers.judge_is_fair]


def compare_studies(folders: Sequence[Path], out: Path, judge: str | None = None) -> Path:
    """Write `compare.md` and its figures into `out`; return the page's path.

    Raises:
        ResultsError: For less than two studies, an unfinished or damaged one, several judges of
            which none is named, and studies of different data, words or judges.
    """
    results.require_folder(out)
    studies = [read_finished(folder, judge) for folder in folders]
    require_comparable(studies)
    named = by_name(studies)
    lines = [f"# {as_text(', '.join(named))}, side by side\n", *_conditions(named)]
    for file, (title, points_of) in _BARS.items():
        rows = [dict(model=n, **p) for n, study in named.items() for p in points_of(study.evidence)]
        lines += [f"\n## {title}\n", *_figure(out / file, side_by_side.bars(rows)), *_numbers(rows)]
    cut = side_by_side.knockouts({name: study.evidence for name, study in named.items()})
    lines += ["\n## Knockouts (figures 6 and 12)\n", *_figure(out / "knockouts", cut)]
    lines += ["\n## The paper's claims\n", *_checklist(named)]
    write_whole(out / "compare.md", ("\n".join(lines) + "\n").encode())
    return out / "compare.md"


def by_name(studies: Sequence[FinishedStudy]) -> dict[str, FinishedStudy]:
    """Each by its model, and by its number too where models have one name."""
    alone = len({study.model for study in studies}) == len(studies)
    return {s.model if alone else f"{i}: {s.model}": s for i, s in enumerate(studies, 1)}


def _conditions(named: Mapping[str, FinishedStudy]) -> Iterator[str]:
    """What is the same in all studies, and what is not."""
    first = next(iter(named.values()))
    samples = next(iter(first.evidence.tables.values())).groupby("kind")["sample"].nunique()
    kinds = sorted(samples.index, key=figures.place)
    counts = ", ".join(f"{samples[kind]} {as_text(kind)}" for kind in kinds)
    judge = as_text(first.conditions["judge"]["name"])
    yield f"{counts} samples, the same questions and longest answer, and one judge, {judge}."
    yield "Published numbers are of the same model.\n"
    rows = []
    for name, study in named.items():
        tables, facts = study.evidence.tables, study.facts
        base = tables["distribution_shift"].attrs["base"] if "distribution_shift" in tables else "-"
        width = "-"
        if "knockout" in tables:
            cut = tables["knockout"].dropna(subset=["first_layer"])
            widths = sorted({int(n) for n in 1 + cut["last_layer"] - cut["first_layer"]})
            width = f"{', '.join(map(str, widths))} of {cut['n_layers'].iloc[0]}"
        system = facts["system"] or "its own"
        order = next(iter(tables.values())).attrs.get("order", "-")
        how = facts["model"]["dtype"], facts["rope"], system, order
        rows.append([name, study.folder, base, *how, width])
    head = ["model", "folder", "base", "dtype", "rope", "system prompt", "order", "window"]
    yield from _table(head, rows)


def _figure(path: Path, figure: Figure | None) -> Iterator[str]:
    """Write it, and its line for the page; without one, remove what a page before had."""
    for ending in ("png", "pdf"):
        remove(path.with_name(f"{path.name}.{ending}"))
    if figure is None:
        yield "Nothing to draw.\n"
    else:
        results.write_figure(path, figure, dpi=200)
        yield f"![{path.name}]({path.name}.png)\n"


def _numbers(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The points of a figure as a table, a row for each model; and why some have none."""
    cells: dict[str, dict[str, str]] = {}
    without = dict.fromkeys((row["model"], row["panel"]) for row in rows if not row["n"])
    for model, panel in without:
        yield f"* {as_text(model)}: no numbers: {as_text(panel)}.\n"
    for row in (row for row in rows if row["n"]):
        theirs, digits = row["published"], 1 if row["unit"] == "%" else 3
        note = "" if theirs is None else f"; published {theirs:g}"
        column = cells.setdefault(", ".join(filter(None, (row["panel"], row["name"]))), {})
        column[row["model"]] = in_words(row, row["unit"], digits) + note
    models = dict.fromkeys(row["model"] for row in rows if row["n"])
    body = [[m, *(column.get(m, "-") for column in cells.values())] for m in models]
    yield from _table(["model", *cells], body) if body else ()


def _checklist(named: Mapping[str, FinishedStudy]) -> Iterator[str]:
    every = [study.evidence for study in named.values()]
    rows = []
    for findings in zip(*(check(e.tables, e.scores, (), _OF_MODELS) for e in every), strict=True):
        claim, row = findings[0].claim, []
        for one in findings:
            row.append(f"{one.verdict}: {one.observed.means if one.observed else one.why_not}")
        rows.append([claim.sentence, f"{claim.published} ({claim.source})", *row])
    yield from _table(["claim", "published, of Qwen2.5-Omni-3B", *named], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield f"| {' | '.join(map(as_text, head))} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(map(as_text, row))} |" for row in rows)
