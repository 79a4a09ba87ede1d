"""Sheets come back as they were sent, or are refused; agreement is what it is by hand."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from analyses.judge.agreement import (
    between_raters,
    fairness,
    joined,
    rated,
    spearman,
    with_people,
    worst,
)
from analyses.judge.commands import app
from analyses.judge.sheet import choose, identified, read_ratings, write_sheet
from analyses.running.results import write_table
from hooked_omni.errors import ManifestError, ResultsError


def scores(n: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    known = dict(question="hear", condition="", judge="lexical", reason="so", prompt_version="")
    rows = [
        dict(
            **dict(sample=f"s{i}", kind=kind, **known, what=what),
            score=round(rng.random(), 2) if i else np.nan,
            status="judged" if i else "missing",
            words=(),
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


def rows_of(sheet: Path) -> list[dict[str, str]]:
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(sheet: Path, name: str, change: Any = None, noise: float = 0.0) -> Path:
    """As a person would: every rating is the judge's score with some noise."""
    rows = rows_of(sheet)
    table = identified(scores()).set_index("id")["score"]
    rng = np.random.default_rng(len(name))
    for row in rows:
        row["rating"] = f"{np.clip(table[row['id']] + noise * rng.normal(), 0, 1):.3f}"
    rows = rows if change is None else change(rows)
    path = sheet.with_name(f"{name}.csv")
    pd.DataFrame(rows).to_csv(path, index=False)
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


def with_knockouts() -> pd.DataFrame:
    """Most are of knockouts, or of a lens; the sound of silence has no reference captions."""
    plain = scores()
    cuts = [plain.assign(condition=f"generated !-> video @ {i}-{i + 2}") for i in range(2)]
    lens = plain[plain["what"] == "audio"].assign(what="recall", condition="raw")
    silent: Any = plain[plain["kind"] == "factual"].assign(kind="silence")
    mute = silent["what"] == "audio"
    silent.loc[mute, "references"] = pd.Series([()] * int(mute.sum()), silent.index[mute])
    silent.loc[mute, "score"] = np.nan
    return pd.concat([plain, *cuts, lens, silent], ignore_index=True)


def test_untouched_captions_as_many_of_each_kind() -> None:
    given: Any = with_knockouts()
    for seed in range(5):
        chosen = choose(given, 10, seed, untouched=True, by_kind=True)
        assert set(chosen["condition"]) == {""} and chosen["id"].is_unique
        counts = chosen.groupby(["what", "kind"]).size().to_dict()
        of_video = {("video", kind): 10 for kind in ("factual", "counterfactual", "silence")}
        assert counts == of_video | {("audio", kind): 10 for kind in ("factual", "counterfactual")}
    assert set(choose(given, 10, by_kind=True)["what"]) == {"audio", "video", "recall"}
    assert len(choose(given, 10, untouched=True)) == 20
    enough = choose(given, 39, untouched=True, by_kind=True)
    assert len(enough) == 5 * 39
    few = r"expected 40 captions .* got 39 counterfactual for audio, 39 factual for audio, .*"
    with pytest.raises(ResultsError, match=few):
        choose(given, 40, untouched=True, by_kind=True)
    unjudged = given.assign(score=given["score"].where(given["kind"] != "factual"))
    with pytest.raises(ResultsError, match="0 factual for audio"):
        choose(unjudged, 1, untouched=True, by_kind=True)
    with pytest.raises(ResultsError, match="Judge the captions first"):
        choose(given[given["condition"] != ""], 1, untouched=True)


def test_the_sheet_shows_no_score_and_runs_no_caption(sheet: Path) -> None:
    rows = rows_of(sheet)
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


def test_sheets_of_any_spreadsheet_are_read(sheet: Path) -> None:
    ratings = read_ratings(filled := fill(sheet, "anna"), sheet)
    table, text = pd.read_csv(filled, dtype=str, keep_default_na=False), filled.read_text()
    for encoding in ("utf-8-sig", "utf-16"):
        for delimiter in ",;\t":
            written = table.to_csv(sep=delimiter, index=False).encode(encoding)
            filled.write_bytes(written)
            assert read_ratings(filled, sheet) == ratings
    # Some leave out the empty cells at the end, or add some.
    filled.write_text(text.replace(",\n", "\n").replace("comment", "comment,,"))
    assert read_ratings(filled, sheet) == ratings


def test_a_sheet_that_a_quote_has_swallowed_is_refused(sheet: Path) -> None:
    filled = fill(sheet, "anna")
    head, *rows = filled.read_text().split("\nc")
    rows = [f"\nc{row}" for row in rows]
    for text, message in (
        (head + ",rating" + "".join(rows), "once each"),
        (head.replace("id", "rating") + "".join(rows), "once each"),
        (head + "".join(rows).rstrip() + ',1,2,"3"', "cells in"),
        (head + '\n"' + "".join(rows)[1:], "expected comma-separated values"),
        (head + "".join(rows)[:-1] + '"', "comma-separated|no rating|gone"),
        (head + "".join(rows).replace("audio", "au\0dio", 1), "zero byte"),
    ):
        filled.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_ratings(filled, sheet)


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
        (lambda rows: [{"id": r["id"]} for r in rows], "expected the columns .*rating"),
        (lambda rows: [r | {"rating": ""} for r in rows], "row 9: there is no rating; and 52 more"),
    ],
)
def test_a_wrong_sheet_is_refused(sheet: Path, change: Any, message: str) -> None:
    with pytest.raises((ResultsError, ManifestError), match=message):
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
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))  # of a constant
    assert np.isnan(spearman(np.arange(2.0), np.arange(2.0)))  # of two points
    people = between_raters(table)
    assert people["raters"].tolist() == [2, 2]
    assert (people[["rho", "alpha"]] < 1).to_numpy().all()


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


def test_judge_against_judge(tmp_path: Path) -> None:
    first, second = scores(seed=0), scores(seed=1)
    points = with_people(joined(first, second), "other")
    assert max(points["mean"].abs().tolist()) < 0.5
    assert points["missing"].tolist() == [2, 2]
    assert with_people(joined(first, first), "other")["mean"].tolist() == [1.0, 1.0]
    with pytest.raises(ResultsError, match="none in common"):
        joined(first, second.assign(text="another"))
    # Captions that one judge lacks are counted.
    parts = {"a": first.iloc[4:], "b": second.iloc[:-8]}  # s0 is without scores
    table = joined(*parts.values())
    assert table.attrs["alone"] == [8, 4] and len(table) == len(first)
    assert with_people(table, "other")["missing"].tolist() == [6, 6]
    for name, part in parts.items():
        write_table(tmp_path / name, part, "judge")
    expected = f"missing: 8 captions only in {tmp_path / 'a'}, 4 only in {tmp_path / 'b'}"
    assert expected in printed("judges", tmp_path / "a", tmp_path / "b")


def test_sheets_of_other_scores_and_people_twice(sheet: Path) -> None:
    anna = fill(sheet, "anna")
    with pytest.raises(ResultsError, match="a name for each person"):
        rated(scores(), sheet, [anna, anna])
    with pytest.raises(ResultsError, match="expected the scores that"):
        rated(scores(5), sheet, [anna])


def test_fairness_is_of_untouched_answers(tmp_path: Path) -> None:
    given: Any = with_knockouts()
    sheet = tmp_path / "sheet.csv"
    write_sheet(choose(given[given["kind"] != "silence"], 60), sheet, tmp_path / "sheet.html")
    names = identified(given).set_index("id")

    def rows(noise: float) -> Any:
        def rated_rows(rows: list[dict[str, str]]) -> list[dict[str, str]]:
            rng, scores = np.random.default_rng(9), names["score"]
            marks = (float(np.clip(scores[r["id"]] + noise * rng.normal(), 0, 1)) for r in rows)
            return [r | {"rating": f"{m:.2f}"} for r, m in zip(rows, marks, strict=True)]

        return rated_rows

    anna, otto = sheet.with_name("anna.csv"), sheet.with_name("otto.csv")
    for path, noise in ((anna, 0.0), (otto, 0.0)):
        pd.DataFrame(rows(noise)(rows_of(sheet))).to_csv(path, index=False)
    points = fairness(given, [anna, otto])
    own = names.loc[[row["id"] for row in rows_of(sheet)]]
    plain = own[own["condition"] == ""]["what"].value_counts()
    assert points["mean"].tolist() == [1.0, 1.0]
    assert dict(zip(points["what"], points["n"], strict=True)) == plain.to_dict()
    assert points.attrs == {"raters": 2, "others": len(own) - int(plain.sum())}
    # Somebody who rated the opposite moves rho; the other judge's scores of them do too.
    pd.DataFrame(rows(1.0)(rows_of(sheet))).to_csv(otto, index=False)
    noisy: Any = fairness(given, [anna, otto])
    assert (noisy["low"] <= noisy["mean"]).all() and (noisy["mean"] < 1).all()


def test_ratings_that_do_not_fit_the_study_are_refused(sheet: Path) -> None:
    anna, given = fill(sheet, "anna"), scores()
    otto = fill(sheet, "otto", lambda rows: rows[:4] + rows[5:])
    with pytest.raises(ResultsError, match=r"no file at .*eve.csv, .*max.csv. Make a sheet"):
        fairness(given, [sheet.with_name("eve.csv"), anna, sheet.with_name("max.csv")])
    for both in ([anna, otto], [otto, anna]):  # whoever is named first
        with pytest.raises(ResultsError, match=r"otto.csv, got row 6 of the sheet, id '\w+': gone"):
            fairness(given, both)
    strange = pd.read_csv(anna)["id"].tolist()[3]
    others: Any = given[identified(given)["id"] != strange]
    extra = fill(sheet, "extra", lambda rows: [*rows, rows[0] | {"id": "nobody"}])
    of_other = rf"got 1 of others in .*anna.csv: row 5, id '{strange}'\. Give what was rated"
    with pytest.raises(ResultsError, match=of_other):
        fairness(others, [anna])
    for both in ([anna, extra], [extra, anna]):
        with pytest.raises(ResultsError, match=r"in .*extra.csv: row 62, id 'nobody'\. Give"):
            fairness(given, both)
    with pytest.raises(ResultsError, match="a name for each person"):
        fairness(given, [])
    cut = given.assign(condition="x")
    write_sheet(choose(cut, 9), sheet, sheet.with_suffix(".html"))
    pd.DataFrame([r | {"rating": "1"} for r in rows_of(sheet)]).to_csv(anna, index=False)
    with pytest.raises(ResultsError, match="ratings of untouched answers, got 18 of other"):
        fairness(cut, [anna])


def printed(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0
    return result.output


def test_the_commands(tmp_path: Path) -> None:
    table = tmp_path / "scores.parquet"
    write_table(table, scores(), "judge")
    sheet, out = tmp_path / "sheet.csv", tmp_path / "worst.csv"
    printed("sheet", table, "--out", sheet, "--n", 30)
    assert sheet.is_file() and sheet.with_suffix(".html").is_file()
    filled = [fill(sheet, name, noise=0.1) for name in ("anna", "otto99")]
    of_people = printed("people", table, sheet, *filled, "--out", out)
    assert "audio: rho = 0." in of_people and "2 people among themselves" in of_people
    assert pd.read_csv(out)["references"].tolist() == ["A dog barks\nBarking"] * 10
    assert "rho = 1.000" in printed("judges", table, table)
    paper = ("sheet", table, "--out", sheet, "--only", "untouched", "--per-kind")
    assert "120 captions on" in printed(*paper, 30)
    for wrong in ((*paper, 30, "--n", 9), ("sheet", table, "--out", sheet, "--only", "all")):
        assert CliRunner().invoke(app, [str(word) for word in wrong]).exit_code == 2


def test_a_table_of_another_kind(sheet: Path) -> None:
    other = scores().drop(columns=["what", "reason"])
    filled = [fill(sheet, "anna")]
    uses: Any = ((joined, scores(), other), (joined, other, scores()), (choose, other))
    uses += ((rated, other, sheet, filled),)
    for use, *given in uses:
        with pytest.raises(ResultsError, match=r"without the columns \['what', 'reason'\]"):
            use(*given)
