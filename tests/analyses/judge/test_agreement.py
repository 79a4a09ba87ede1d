"""Sheets come back as they were sent, or are refused; agreement is what it is by hand."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from analyses.judge.agreement import between_raters, joined, rated, spearman, with_people, worst
from analyses.judge.commands import app
from analyses.judge.sheet import choose, read_ratings, write_sheet
from analyses.running.results import write_table
from hooked_omni.errors import ResultsError


def scores(n: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [
        dict(
            sample=f"s{i}",
            kind=kind,
            question="hear",
            condition="",
            judge="lexical",
            what=what,
            score=round(rng.random(), 2) if i else np.nan,
            reason="so",
            status="judged" if i else "missing",
            words=(),
            prompt_version="",
            text=f'=A "dog", {i}\n<b>barks</b>',
            references=("A dog barks", "Barking"),
        )
        for i in range(n)
        for kind in ("factual", "counterfactual")
        for what in ("audio", "video")
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "sheet.csv"
    write_sheet(choose(scores(), 30), path, path.with_suffix(".html"))
    return path


def fill(sheet: Path, name: str, change: Any = None, noise: float = 0.0) -> Path:
    """As a person would: every rating is the judge's score with some noise."""
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    from analyses.judge.sheet import identified

    table = identified(scores()).set_index("id")["score"]
    rng = np.random.default_rng(len(name))
    for row in rows:
        row["rating"] = f"{np.clip(table[row['id']] + noise * rng.normal(), 0, 1):.3f}"
    rows = rows if change is None else change(rows)
    path = sheet.with_name(f"{name}.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_choice_is_even_and_repeatable() -> None:
    chosen = choose(scores(), 60)
    assert len(chosen) == 120
    assert chosen["what"].value_counts().to_dict() == {"audio": 60, "video": 60}
    assert min(chosen.groupby(["what", "kind"]).size().tolist()) >= 28
    assert chosen["id"].is_unique
    assert not chosen["score"].isna().to_numpy().any()
    assert chosen.equals(choose(scores(), 60))
    assert not chosen["id"].equals(choose(scores(), 60, seed=1)["id"])
    assert len(choose(scores(), 1000)) == 2 * 2 * 39
    with pytest.raises(ResultsError, match="Judge the captions first"):
        choose(scores(1))


def test_the_sheet_shows_no_score_and_runs_no_caption(sheet: Path) -> None:
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "what", "caption", "references", "rating", "comment"]
    assert rows[0]["caption"].startswith("'=A")
    assert rows[0]["references"] == "A dog barks\nBarking"
    page = sheet.with_suffix(".html").read_text()
    assert "<b>barks" not in page
    assert page.count("<article data-id") == 60
    assert "http" not in page.replace("http-equiv", "")


def test_a_filled_sheet_comes_back(sheet: Path) -> None:
    ratings = read_ratings(fill(sheet, "anna"), sheet)
    assert len(ratings) == 60
    german = sheet.with_name("german.csv")
    text = fill(sheet, "b", lambda rows: [{k: r[k] for k in ("id", "rating")} for r in rows])
    german.write_text(text.read_text().replace(",", ";").replace(".", ","))
    assert read_ratings(german, sheet) == ratings


def _change(place: int, **values: str) -> Any:
    return lambda rows: [r | values if i == place else r for i, r in enumerate(rows)]


@pytest.mark.parametrize(
    "change, message",
    [
        (_change(2, rating="1.2"), r"row 4: '1.2' is no rating from 0 to 1"),
        (_change(2, rating="-0.1"), r"row 4: '-0.1' is no rating"),
        (_change(2, rating="nan"), r"row 4: 'nan' is no rating"),
        (_change(2, rating="good"), r"row 4: 'good' is no rating"),
        (_change(2, rating=" "), r"row 4: there is no rating"),
        (_change(0, id="nobody"), r"row 2: id 'nobody' is not on the sheet; row 2 of the sheet"),
        (lambda rows: rows[:-1], r"row 61 of the sheet, id '\w+': gone"),
        (lambda rows: [*rows, rows[0]], r"row 62: id '\w+' is there already, in row 2"),
        (lambda rows: [{"id": r["id"]} for r in rows], "expected the columns id and rating"),
        (lambda rows: [r | {"rating": ""} for r in rows], "row 9: there is no rating; and 52 more"),
    ],
)
def test_a_wrong_sheet_is_refused(sheet: Path, change: Any, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        read_ratings(fill(sheet, "anna", change), sheet)


def test_rho_is_scipys(sheet: Path) -> None:
    filled = [fill(sheet, "anna", noise=0.1), fill(sheet, "otto99", noise=0.3)]
    table = rated(scores(), sheet, filled)
    points = with_people(table)
    for point in points.to_dict("records"):
        part = table[table["what"] == point["what"]]
        expected = float(np.asarray(spearmanr(part["score"], part["people"]))[0])
        assert point["mean"] == pytest.approx(expected)
        assert point["low"] < point["mean"] < point["high"]
        assert (point["n"], point["missing"]) == (30, 0)
    people = between_raters(table)
    assert people["raters"].tolist() == [2, 2]
    assert max(people["rho"].tolist()) < 1
    assert max(people["alpha"].tolist()) < 1


def test_planted_agreement(sheet: Path) -> None:
    same = rated(scores(), sheet, [fill(sheet, "anna"), fill(sheet, "otto")])
    assert with_people(same)["mean"].tolist() == [1.0, 1.0]
    assert between_raters(same)["alpha"].tolist() == pytest.approx([1.0, 1.0])
    assert between_raters(same)["difference"].tolist() == [0.0, 0.0]
    against = same.assign(people=1 - same["score"])
    assert with_people(against)["mean"].tolist() == [-1.0, -1.0]
    one = same.copy()
    one.loc[7, "people"] = 1.0 if one["score"].tolist()[7] < 0.5 else 0.0
    assert worst(one, n=1)["text"].tolist() == [same["text"].tolist()[7]]


def test_alpha_by_hand() -> None:
    # Two raters, interval distance: 1 - mean squared difference within / among all pairs.
    ratings = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    pairs = [(a - b) ** 2 for i, a in enumerate(ratings.flat) for b in ratings.flat[i + 1 :]]
    expected = 1 - np.mean((ratings[:, 0] - ratings[:, 1]) ** 2) / np.mean(pairs)
    table = pd.DataFrame(ratings, columns=["rater a", "rater b"]).assign(what="audio")
    assert between_raters(table)["alpha"].tolist() == pytest.approx([expected])


def test_a_band_covers_the_truth() -> None:
    rng, hits = np.random.default_rng(0), 0
    for seed in range(40):
        first = rng.normal(size=60)
        second = first + rng.normal(size=60)
        table = pd.DataFrame({"what": "audio", "score": first, "people": second})
        point = with_people(table.assign(sample=range(60)), n_resamples=200, seed=seed).iloc[0]
        hits += point["low"] < 0.69 < point["high"]  # of normals with r = 0.707
    assert hits >= 33


def test_judge_against_judge() -> None:
    first, second = scores(seed=0), scores(seed=1)
    table = joined(first, second)
    points = with_people(table, "other")
    assert max(points["mean"].abs().tolist()) < 0.5
    assert points["missing"].tolist() == [2, 2]
    assert with_people(joined(first, first), "other")["mean"].tolist() == [1.0, 1.0]
    with pytest.raises(ResultsError, match="none in common"):
        joined(first, second.assign(text="another"))


def test_no_correlation_of_a_constant() -> None:
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))
    assert np.isnan(spearman(np.arange(2.0), np.arange(2.0)))


def test_sheets_of_other_scores_and_people_twice(sheet: Path) -> None:
    anna = fill(sheet, "anna")
    with pytest.raises(ResultsError, match="a name for each person"):
        rated(scores(), sheet, [anna, anna])
    with pytest.raises(ResultsError, match="expected the scores that"):
        rated(scores(5), sheet, [anna])


def test_the_commands(tmp_path: Path) -> None:
    table = tmp_path / "scores.parquet"
    write_table(table, scores(), "judge")
    sheet, run = tmp_path / "sheet.csv", CliRunner().invoke
    made = run(app, ["sheet", str(table), "--out", str(sheet), "--n", "30"])
    assert made.exit_code == 0 and sheet.is_file() and sheet.with_suffix(".html").is_file()
    filled = [str(fill(sheet, name, noise=0.1)) for name in ("anna", "otto99")]
    out = tmp_path / "worst.csv"
    shown = run(app, ["people", str(table), str(sheet), *filled, "--out", str(out)])
    assert shown.exit_code == 0
    assert "audio: rho = 0." in shown.output and "2 people among themselves" in shown.output
    assert pd.read_csv(out)["references"].tolist() == ["A dog barks\nBarking"] * 10
    both = run(app, ["judges", str(table), str(table)])
    assert both.exit_code == 0
    assert "rho = 1.000" in both.output


def test_captions_that_one_judge_lacks_are_counted_and_told(tmp_path: Path) -> None:
    first, second = scores(seed=0), scores(seed=1)
    table = joined(first.iloc[4:], second.iloc[:-8])  # s0 is without scores
    assert table.attrs["alone"] == [8, 4] and len(table) == len(first)
    assert with_people(table, "other")["missing"].tolist() == [6, 6]
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, one in zip(paths, (first.iloc[4:], second.iloc[:-8]), strict=True):
        write_table(path, one, "judge")
    shown = CliRunner().invoke(app, ["judges", *map(str, paths)])
    assert shown.exit_code == 0
    assert f"missing: 8 captions only in {paths[0]}, 4 only in {paths[1]}" in shown.output


def test_a_table_of_another_kind(sheet: Path) -> None:
    other = scores().drop(columns=["what", "reason"])
    ways: list[Any] = [
        lambda: joined(scores(), other),
        lambda: joined(other, scores()),
        lambda: choose(other),
        lambda: rated(other, sheet, [fill(sheet, "anna")]),
    ]
    for way in ways:
        with pytest.raises(ResultsError, match=r"without the columns \['what', 'reason'\]"):
            way()
