"""Sheets for people, and how far judges agree: `python -m analyses agreement`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hooked_omni.endings import say

_HELP = "Does the judge agree with people, and with another judge?"
app = typer.Typer(help=_HELP, no_args_is_help=True, add_completion=False)

Scores = Annotated[Path, typer.Argument(help="Table of scores (Parquet), as the study writes it.")]


@app.command("sheet")
def sheet(
    scores: Scores,
    out: Annotated[Path, typer.Option(help="CSV to write; the HTML page lies beside it.")],
    n: Annotated[int | None, typer.Option(min=1, help="Captions of each point [200].")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
    only: Annotated[str | None, typer.Option(help="untouched: no answers under knockouts.")] = None,
    per_kind: Annotated[
        int | None, typer.Option(min=1, help="In place of --n: so many of each point and kind.")
    ] = None,
) -> None:
    """Make a sheet for people to rate: CSV, and an HTML form that needs no network."""
    from analyses.judge.sheet import choose, write_sheet
    from analyses.running.results import read_table

    if only not in (None, "untouched") or (n is not None and per_kind is not None):
        raise typer.BadParameter("expected --only untouched, and --n or --per-kind, one of them")
    wanted = per_kind or n or 200
    chosen = choose(read_table(scores), wanted, seed, only is not None, per_kind is not None)
    page = out.with_suffix(".html")
    write_sheet(chosen, out, page)
    say(f"{len(chosen)} captions on {out} and {page}: one copy for each person")


@app.command("people")
def people(
    scores: Scores,
    empty: Annotated[Path, typer.Argument(help="The sheet as it was made.")],
    filled: Annotated[list[Path], typer.Argument(help="What came back, a file for each person.")],
    out: Annotated[Path | None, typer.Option(help="CSV for the worst disagreements.")] = None,
) -> None:
    """Judge against people: Spearman's rho, people among themselves, worst disagreements."""
    from analyses.judge.agreement import between_raters, rated, worst
    from analyses.running.results import read_table

    table = rated(read_table(scores), empty, filled)
    _report(table, "people")
    for row in between_raters(table).to_dict("records") if len(filled) > 1 else ():
        say(
            f"{row['what']}: {row['raters']} people among themselves: rho = {row['rho']:.3f}, "
            f"alpha = {row['alpha']:.3f}, {row['difference']:.3f} apart on average"
        )
    _list(worst(table), "people", out)


@app.command("judges")
def judges(
    first: Scores,
    second: Scores,
    out: Annotated[Path | None, typer.Option(help="CSV for the worst disagreements.")] = None,
) -> None:
    """Judge against judge, on the same captions."""
    from analyses.judge.agreement import joined, worst
    from analyses.running.results import read_table

    table = joined(read_table(first), read_table(second))
    if any(alone := table.attrs["alone"]):
        say(f"missing: {alone[0]} captions only in {first}, {alone[1]} only in {second}")
    _report(table, "other")
    _list(worst(table, "other"), "other", out)


def _report(table: Any, other: str) -> None:
    from analyses.judge.agreement import with_people
    from analyses.plots.statistics import in_words

    for _, row in with_people(table, other).iterrows():
        say(f"{row['what']}: rho = {in_words(row, '', 3)}")


def _list(table: Any, other: str, out: Path | None) -> None:
    from hooked_omni.files import write_whole

    for row in table.head(3).to_dict("records"):
        say(
            f"furthest apart: {row['sample']}, {row['what']}: judge {row['score']:.2f}, {other} "
            f"{row[other]:.2f}: {row['text']}"
        )
    if out is not None:
        table = table.assign(references=table["references"].map("\n".join))
        write_whole(out, table.to_csv(index=False).encode())
        say(f"{len(table)} disagreements on {out}")
