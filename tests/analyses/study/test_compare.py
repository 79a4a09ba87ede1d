"""Finished studies side by side: from planted files, and of two random models of other families."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from analyses.running import results
from analyses.study.compare import by_name, compare_studies
from analyses.study.config import Study
from analyses.study.finished import read_finished, require_comparable
from analyses.study.judging import scores_path
from analyses.study.run import run_study
from data_prep.manifest import read_manifest, write_manifest
from data_prep.organism.world.dataset import write_world
from hooked_omni.errors import ResultsError
from tests.analyses.study.test_claims import scores as planted_scores
from tests.analyses.study.test_claims import tables as planted_tables
from tests.support.figures import no_figures
from tests.support.running import command

FACTS: dict[str, Any] = {
    "data": [{"file": "pairs.jsonl", "sha256": "1"}],
    **{"clips": "2", "kinds": None, "wording": {}, "rope": "model", "system": None},
}
JUDGE = {"name": "planted", "model": "planted"}
CONFIG = Study("m", Path("d"), "b").config("captions")


OWNERS = {"InternOmni": "OpenGVLab", "MiniCPM-o-2_6": "openbmb"}


def planted(folder: Path, model: str, biased: bool) -> Path:
    """The files of a finished study whose tables are those of the tests of claims."""
    tables = planted_tables(biased)
    given = planted_scores(biased, tables)
    of = {**FACTS, "model": {"name": model, "dtype": "float32"}}
    for name, table in tables.items():
        cases = table[["sample", "question"]].drop_duplicates().agg("/".join, axis=1)
        table.attrs = {"model": f"{OWNERS[model]}/{model}", "n_cases": len(cases), "skipped": {}}
        table.attrs |= {
            "cases": dict.fromkeys(cases, "x"),
            "twins": {},
            "base": "OpenGVLab/InternVL2-8B",
        }
        results.write_recipe(folder / name, results.make_recipe(name, CONFIG, of))
        results.save(folder / name, name, table, Figure(), CONFIG, **of)
    given.attrs = {"model": f"{OWNERS[model]}/{model}", "judge": JUDGE, "first_only": False}
    results.write_table(folder / "scores" / "planted.parquet", given, "scores")
    results.write_recipe(folder, results.make_recipe("study", CONFIG, FACTS))
    (folder / "report.md").write_text("done")
    return folder


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One of a model that trusts its eyes, and one of a model that hears."""
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        no_figures(patch)
        return [
            planted(folder / "one", "InternOmni", True),
            planted(folder / "other", "MiniCPM-o-2_6", False),
        ]


def cells(page: str, start: str) -> list[str]:
    """The cells of the first table row that begins so, without the marks of Markdown."""
    lines = (line.replace("\\", "") for line in page.split("\n"))
    return next(line for line in lines if line.startswith(f"| {start}")).strip("| ").split(" | ")


def test_the_page_has_the_numbers_of_each_model(studies: list[Path], tmp_path: Path) -> None:
    page = compare_studies(studies, tmp_path / "out").read_text()
    fidelity, recall, shift = page.split("\n## ")[1:4]
    assert cells(fidelity, "InternOmni")[4].startswith("25.0 % [")
    assert cells(fidelity, "MiniCPM")[4] == "100.0 % [100.0, 100.0], n = 20; published 22.1"
    _, read, said, chance, _ = cells(recall, "MiniCPM")
    assert (read[:7], said[:7], chance[:6]) == ("100.0 %", "100.0 %", "50.0 %")
    assert read.endswith("published 75.4")
    assert cells(recall, "InternOmni")[2].startswith("25.0 %")
    _, unshifted, _, shifted, kl = cells(shift, "InternOmni")
    assert unshifted.startswith("87.5 %") and unshifted.endswith("published 70.62")
    assert shifted.startswith("12.5 %") and shifted.endswith("published 10.07")
    assert kl.startswith("0.500 nats") and kl.endswith("published 0.46")
    assert "published" not in cells(shift, "MiniCPM")[1]
    assert cells(page, "With another clip's sound")[2:] == [
        "agrees: 100.0 % -> 25.0 %",
        "differs: 100.0 % -> 100.0 %",
    ]
    assert "3 of 12" in cells(page, f"InternOmni | {studies[0]}")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"compare.md"} | {
        f"{name}.{ending}"
        for name in ("fidelity", "heard_and_said", "shift", "knockouts")
        for ending in ("png", "pdf")
    }


def test_models_of_one_name_have_numbers(studies: list[Path], tmp_path: Path) -> None:
    first = read_finished(studies[0])
    pair = [replace(first, folder=tmp_path / part / "out") for part in ("a", "b")]
    assert by_name(pair) == {"1: InternOmni": pair[0], "2: InternOmni": pair[1]}
    assert [*by_name([first, replace(first, model="other")])] == ["InternOmni", "other"]


def changed(folder: Path, **facts: Any) -> None:
    (folder / "recipe.json").unlink()
    results.write_recipe(folder, results.make_recipe("study", CONFIG, FACTS | facts))


def rescored(folder: Path, **attrs: Any) -> None:
    path = folder / "scores" / "planted.parquet"
    table = results.read_table(path)
    results.write_table(path, table, "scores", **attrs)


def test_studies_of_different_data_are_refused(studies: list[Path], tmp_path: Path) -> None:
    first = read_finished(studies[0])
    for name, there in [
        ("data", [{"file": "pairs.jsonl", "sha256": "other"}]),
        ("clips", "other"),
        ("kinds", ["factual"]),
        ("wording", {"hear": "What?"}),
    ]:
        copy = Path(shutil.copytree(studies[1], tmp_path / name))
        changed(copy, **{name: there})
        with pytest.raises(ResultsError, match=rf"got {name} .* in .*one and .* in .*{name}\."):
            require_comparable([first, read_finished(copy)])
    for name, there in [("judge", {"name": "other"}), ("first_only", True)]:
        copy = Path(shutil.copytree(studies[1], tmp_path / name))
        rescored(copy, **{name: there})
        with pytest.raises(ResultsError, match=f"got {name} .*{there!r:.5}"):
            require_comparable([first, read_finished(copy)])
    for name, there in [("cases", ["a/hear"]), ("captions", {"max_new_tokens": 7})]:
        other = replace(first, folder=tmp_path, conditions={**first.conditions, name: there})
        with pytest.raises(ResultsError, match=f"got {name} "):
            require_comparable([first, other])
    for alone in ([first], [first, first]):
        with pytest.raises(ResultsError, match="expected two finished studies or more, each once"):
            require_comparable(alone)


def test_an_unfinished_study_is_refused(studies: list[Path], tmp_path: Path) -> None:
    for i, gone in enumerate(("report.md", "recipe.json", "knockout/run.json")):
        copy = Path(shutil.copytree(studies[1], tmp_path / str(i)))
        (copy / gone).unlink()
        with pytest.raises(ResultsError, match=r"expected a finished .*go.s on where it was"):
            read_finished(copy)
    copy = Path(shutil.copytree(studies[1], tmp_path / "newer"))
    path = copy / "scores" / "planted.parquet"
    scores: Any = results.read_table(path)
    results.write_table(path, scores[scores["sample"] != "factual 3"], "scores")
    with pytest.raises(ResultsError, match=r"one set of samples .*80 answers and scores of 78"):
        read_finished(copy)


def test_one_judge_of_several_is_named(studies: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(studies[1], tmp_path / "copy"))
    scores = results.read_table(copy / "scores" / "planted.parquet")
    scores.attrs["judge"] = {"name": "lexical"}
    results.write_table(scores_path(copy, "lexical"), scores, "scores")
    with pytest.raises(ResultsError, match=r"got .* and 2 judges\. Name one with --judge"):
        read_finished(copy)
    assert read_finished(copy, "lexical").conditions["judge"] == {"name": "lexical"}
    with pytest.raises(ResultsError, match="expected a whole table"):
        read_finished(copy, "nobody")


def test_two_random_models_of_other_families(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write_world(tmp_path / "world", 1, 0, "test")
    samples = read_manifest(tmp_path / "world" / "pairs.jsonl")
    data = write_manifest(tmp_path / "world" / "few.jsonl", [samples[0], samples[-1]])
    with monkeypatch.context() as patch:
        no_figures(patch)
        for model, base in (("random-omni", "random-vl"), ("random-omni3", "random-vl3")):
            analyses = ("captions", "knockout", "distribution_shift")
            hear: Any = dict(questions=dict.fromkeys(analyses, ("hear",)), max_new_tokens=4)
            study = Study(model, data, base, analyses, **hear)
            run_study(study, tmp_path / model)
    monkeypatch.setattr("analyses.running.request.load", None)  # no model is loaded
    folders = [tmp_path / "random-omni", tmp_path / "random-omni3"]
    assert command("compare", *folders, "--out", tmp_path / "out") == 0
    assert "2 studies side by side" in capsys.readouterr().err
    page = (tmp_path / "out" / "compare.md").read_text()
    assert page.startswith("# random-omni, random-omni3, side by side")
    assert "* random-omni3: no numbers: logit" in page.replace("\\", "")  # not made, and said so
    assert (tmp_path / "out" / "knockouts.png").stat().st_size > 5000
