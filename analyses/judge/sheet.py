"""Which captions do people rate, and what are their ratings?

A sheet is a choice of judged captions, as even as can be over points, kinds, questions, conditions
and thirds of the judge's scores, which raters do not see: CSV, and one HTML page that saves the
same CSV. What comes back is read strictly: a wrong rating is refused with its row.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from data_prep.table import titled
from hooked_omni.errors import ResultsError
from hooked_omni.files import digest, write_whole

KEYS = ("sample", "kind", "question", "condition", "what")
"""What tells two judged captions apart."""

_COLUMNS = (*KEYS, "text", "references", "score", "reason")
_STRATA = ("what", "kind", "question", "condition")
_MOST_LISTED = 8


def choose(
    scores: pd.DataFrame,
    n: int = 200,
    seed: int = 0,
    untouched: bool = False,
    by_kind: bool = False,
) -> pd.DataFrame:
    """Captions for people to rate: `n` of each point that was judged, or all, if fewer.

    With `untouched` only plain answers are chosen, made under no knockout; with `by_kind`, `n` of
    each kind of sample, and no fewer.

    Returns:
        The chosen rows, shuffled, with the columns of `scores` and `id`. Without (enough) scores to
        choose from it is a `ResultsError`.
    """
    require_scores(scores)
    if untouched:
        scores = cast(pd.DataFrame, scores[scores["condition"] == ""])
    scored = cast(pd.DataFrame, scores[scores["score"].notna()])
    if scored.empty or n < 1:
        raise ResultsError(
            f"expected scores, and at least one caption to choose, got {len(scores)} rows with "
            f"{len(scored)} scores, and n = {n}. Judge the captions first."
        )
    if by_kind:
        _require_enough(scores, n)
    rng = np.random.default_rng(seed)
    scored = identified(scored).assign(third=np.floor(scored["score"] * 2.999))
    chosen: list[int] = []
    for _, part in cast(Any, scored.groupby([*_STRATA[: 1 + by_kind]], sort=True)):
        groups = part.groupby([*_STRATA, "third"], sort=True).indices.values()
        piles = [list(part.index[rng.permutation(places)]) for places in groups]
        chosen += _in_turn(piles, n)
    shuffled = rng.permutation(np.asarray(chosen))
    return scored.loc[shuffled].drop(columns="third").reset_index(drop=True)


def _require_enough(scores: pd.DataFrame, n: int) -> None:
    # Nobody can judge without references, such as the sound of a silent control.
    known: Any = scores[scores["references"].str.len() > 0]
    counts = known.groupby(["what", "kind"])["score"].count().to_dict()
    if min(counts.values(), default=0) < n:
        got = [f"{own} {kind} for {what}" for (what, kind), own in counts.items()]
        raise ResultsError(
            f"expected {n} captions with scores of each point and kind, got "
            f"{', '.join(got) or 'none'}. Choose fewer of each kind, or have more judged."
        )


def require_scores(table: pd.DataFrame) -> None:
    """Refuse a table that is not one of scores, with the columns that it lacks."""
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise ResultsError(
            f"expected a judge's scores, got a table without the columns {missing}. Give the table "
            "that the judge wrote."
        )


def identified(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows with an `id` that says nothing to a reader, and is no number to a spreadsheet."""
    keys = zip(*(scores[name].astype(str) for name in (*KEYS, "text")), strict=True)
    return scores.assign(id=["c" + digest(list(key))[:9] for key in keys])


def write_sheet(chosen: pd.DataFrame, csv_path: Path, html_path: Path) -> None:
    """Write the sheet as CSV and as an HTML page."""
    rows = [
        dict(id=row["id"], what=row["what"], caption=row["text"])
        | dict(references="\n".join(row["references"]), rating="", comment="")
        for row in chosen.to_dict("records")
    ]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(rows[0])
    writer.writerows([_unformulated(value) for value in row.values()] for row in rows)
    write_whole(csv_path, text.getvalue().encode("utf-8-sig"))  # so that spreadsheets know UTF-8
    environment = Environment(
        loader=PackageLoader("analyses.judge"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("sheet.html").render(rows=rows, name=csv_path.stem)
    write_whole(html_path, page.encode())


def read_ratings(path: Path, sheet: Path) -> dict[str, float]:
    """One person's ratings, 0 to 1, by id, in a filled copy of the empty `sheet`.

    Raises:
        ManifestError: For a quote that is never closed, and a missing column.
        ResultsError: For a row too long, and, with row numbers as a spreadsheet shows them, ratings
            that are no number from 0 to 1 or missing, ids that the sheet does not have or that are
            there twice, and rows of the sheet that are gone.
    """
    expected = [row["id"] for _, row in _rows(sheet)]
    wrong: list[str] = []
    ratings: dict[str, float] = {}
    first: dict[str, int] = {}
    for number, row in _rows(path):
        name, text = row["id"].strip(), row["rating"].strip()
        if name not in expected:
            wrong.append(f"row {number}: id {name!r} is not on the sheet")
        elif name in first:
            wrong.append(f"row {number}: id {name!r} is there already, in row {first[name]}")
        elif (rating := _rating(text)) is None:
            why = f"{text!r} is no rating from 0 to 1" if text else "there is no rating"
            wrong.append(f"row {number}: {why}")
        else:
            ratings[name] = rating
        first.setdefault(name, number)
    places = {name: number for number, name in enumerate(expected, 2)}
    wrong += [f"row {places[n]} of the sheet, id {n!r}: gone" for n in places if n not in first]
    if wrong:
        more = f"; and {len(wrong) - _MOST_LISTED} more" if len(wrong) > _MOST_LISTED else ""
        raise ResultsError(
            f"expected a rating from 0 to 1 for each of {len(expected)} rows in {path}, got "
            f"{'; '.join(wrong[:_MOST_LISTED])}{more}. Correct these rows."
        )
    return ratings


def _in_turn(piles: Sequence[list[int]], n: int) -> list[int]:
    """One from each pile after the other, until there are n."""
    taken: list[int] = []
    while len(taken) < n and any(piles):
        taken += [pile.pop() for pile in piles if pile][: n - len(taken)]
    return taken


def _rating(text: str) -> float | None:
    try:
        # Spreadsheets of many countries write a decimal comma.
        rating = float(text.replace(",", "."))
    except ValueError:
        return None
    return rating if 0 <= rating <= 1 else None


def _unformulated(text: str) -> str:
    """A caption that begins like a formula must not be run by a spreadsheet."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Rows of a sheet, numbered as a spreadsheet does: the header is row 1."""
    header, table = titled(path, ("id", "rating"), delimiters=",;\t", spanning=True)
    for number, (where, cells) in enumerate(table, 2):
        # Some spreadsheets leave out what is empty at the end of a row.
        if any(cells[len(header) :]):
            raise ResultsError(
                f"expected {len(header)} cells in {where}, got {len(cells)}. Put texts with "
                "commas in quotes."
            )
        yield number, defaultdict(str, zip(header, cells, strict=False))
