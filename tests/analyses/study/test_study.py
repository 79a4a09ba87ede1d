"""The whole study: what its file may say, what it writes, and how it comes back from any stop."""

import json
import multiprocessing
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.__main__ import main
from analyses.judge.judgement import JudgeDownError, JudgeError
from analyses.running import results, runs
from analyses.study import report
from analyses.study import run as study
from analyses.study.claims import check
from data_prep.manifest import read_manifest, write_manifest
from data_prep.organism.world import scenes
from hooked_omni import load
from hooked_omni.errors import ResultsError, UnknownModelError
from tests.support.judge_server import MODEL, JudgeServer
from tests.support.killed import study_of
from tests.support.places import ROOT

STUDIES = ROOT / "examples" / "studies"
N_KILLS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips with their own sound, and two with another's, of the organisms' world."""
    folder = tmp_path_factory.mktemp("world")
    scenes.run(folder, 1, 0, "test")
    samples = read_manifest(folder / "pairs.jsonl")
    return write_manifest(folder / "few.jsonl", [*samples[:2], *samples[-2:]])


@pytest.fixture(scope="module")
def asked(data: Path) -> study.Study:
    return study_of(data)


@pytest.fixture(scope="module")
def done(asked: study.Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[study.Found, Path]:
    out = tmp_path_factory.mktemp("study") / "whole"
    return study.carry_out(asked, out), out


def read(folder: Path, text: str) -> study.Study:
    (folder / "study.toml").write_text(text)
    return study.read_study(folder / "study.toml")


# --- the file -------------------------------------------------------------------------------


def test_the_studies_that_are_shipped_can_be_read() -> None:
    paper = study.read_study(STUDIES / "paper.toml")
    assert paper.config("knockout").width == 9 and paper.judge["name"] == "Qwen/Qwen3-32B"
    assert {paper.config(name).max_new_tokens for name in ("captions", "knockout")} == {50}
    organisms = study.read_study(STUDIES / "organisms.toml")
    assert organisms.base == "organism-base" and organisms.judge == {"name": "truth"}


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    one = read(tmp_path, 'model = "m"\nbase = "b"\ndata = "clips/x.jsonl"\n')
    assert one.data == tmp_path / "clips" / "x.jsonl"


FINE = 'model = "m"\nbase = "b"\ndata = "x.jsonl"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FINE + 'modle = "x"', r"expected the keys .*got \['modle'\]"),
        ('base = "b"', "got no model and no data"),
        ('model = "m"\ndata = "x"', "expected a base model for distribution_shift, got none"),
        (FINE + "limit = true", "expected limit as int"),
        (FINE + 'limit = "9"', "expected limit as int"),
        (FINE + "kinds = 3", "expected kinds as list"),
        (FINE + 'analyses = ["knockout"]', "captions among them"),
        (FINE + 'analyses = ["captions", "taste"]', "expected analyses among"),
        (FINE + "[knockout]\nwidht = 3", "expected fields among"),
        (FINE + "[knockout]\nstep = 'x'\nmax_new_tokens = 1.5", "expected max_new_tokens like"),
        (FINE + "[taste]\nx = 1", r"got \['taste'\]"),
        (FINE + "knockout = 3", "expected knockout as dict"),
        ("model = ", "expected a study as TOML"),
        (FINE + '[captions]\nquestions = [["see"]]', "expected a list of words"),
        (FINE + "kinds = [1]", "expected a list of words .* for kinds"),
        (FINE + "limit = -1", "expected a limit of at least 0"),
        (FINE + '[captions]\nquestions = "hear"', "expected a list of words"),
        (FINE + "[captions]\nquestions = []", "expected a list of words"),
        (FINE + '[captions]\nquestions = ["taste"]', "questions among"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"expected a study as TOML in .*none\.toml"):
        study.read_study(tmp_path / "none.toml")


# --- what it writes -------------------------------------------------------------------------


def test_a_study_leaves_tables_scores_figures_and_a_page(done: tuple[study.Found, Path]) -> None:
    found, out = done
    page = (out / "report.md").read_text()
    assert found.report == out / "report.md"
    for one in found.findings:
        assert f"| {one.ours} | {one.verdict} |" in page
    for name in found.tables:
        assert (out / name / "run.json").is_file()
        pd.testing.assert_frame_equal(results.load(out / name), found.tables[name])
    shown = [line.partition("](")[2][:-1] for line in page.splitlines() if line.startswith("![")]
    assert len(shown) == len(found.tables)
    for figure in shown:
        assert (out / figure).stat().st_size > 5000
        assert (out / figure).with_suffix(".pdf").is_file()
    scores = results.read_table(out / "scores" / f"{next((out / 'scores').iterdir()).stem}.parquet")
    pd.testing.assert_frame_equal(scores, found.scores)


def test_every_answer_is_scored_once_and_exactly(done: tuple[study.Found, Path]) -> None:
    found, _ = done
    captions, cuts = found.tables["captions"], found.tables["knockout"]
    assert len(captions) == 4 * 3 and set(cuts["question"]) == {"see", "hear"}
    n_points = {"see": 1, "hear": 1, "both": 2}
    expected = sum(n_points[question] for question in captions["question"]) + len(cuts)
    assert len(found.scores) == expected and set(found.scores["status"]) == {"judged"}
    told = found.scores.set_index(["sample", "question", "condition", "what"])["text"]
    for row in captions.to_dict("records"):
        what = "video" if row["question"] == "see" else "audio"
        assert told[row["sample"], row["question"], "", what] == row["caption"]


def test_a_stage_is_what_its_own_command_writes(
    done: tuple[study.Found, Path], asked: study.Study, tmp_path: Path
) -> None:
    found, _ = done
    omni = load(asked.model)
    run = runs.Run("knockout", asked.config("knockout"), omni, asked.cases("knockout"))
    pd.testing.assert_frame_equal(runs.carry_out(run, tmp_path), found.tables["knockout"])


def test_a_page_is_written_even_if_nothing_was_judged(
    done: tuple[study.Found, Path], asked: study.Study, tmp_path: Path
) -> None:
    found, out = done[0], Path(shutil.copytree(done[1], tmp_path / "copy"))
    gone = found.scores.assign(score=float("nan"), status="missing", reason="no answer")
    gone.attrs = found.scores.attrs
    page = report.write(asked, out, found.tables, gone, check(found.tables, gone)).read_text()
    assert f"judgements: {len(gone)} of {len(gone)} missing" in page and "no answer" in page
    assert "nothing to tell: expected scores of answers, got none" in page
    assert not (out / "figures" / "figure2_fidelity.png").exists()
    assert "figure2_fidelity" not in page and "figure5_logit_lens.png" in page


def test_a_limit_counts_samples_of_each_kind(asked: study.Study) -> None:
    cases = replace(asked, limit=1).cases("captions")
    samples = {(case.kind, case.sample) for case in cases}
    assert sorted(kind for kind, _ in samples) == ["counterfactual", "factual"]
    assert len(cases) == 2 * 3


# --- stops ----------------------------------------------------------------------------------


def same(out: Path, other: Path) -> None:
    for name in ("captions", "attention_share", "logit_lens", "knockout", "distribution_shift"):
        pd.testing.assert_frame_equal(results.load(out / name), results.load(other / name))
    assert (out / "report.md").read_text() == (other / "report.md").read_text()


def test_a_study_that_is_killed_ends_as_an_undisturbed_one(
    done: tuple[study.Found, Path], data: Path, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed"])
    chances, out, ended = random.Random(0), tmp_path / "out", []
    for kill in [True] * N_KILLS + [False]:
        process = context.Process(target=_study, args=(data, out))
        process.start()
        if kill:
            time.sleep(chances.uniform(3, 12))
            process.kill()
        process.join()
        ended.append(process.exitcode)
    assert ended[-1] == 0 and -9 in ended
    same(out, done[1])


def _study(data: Path, out: Path) -> None:
    study.carry_out(study_of(data), out)


def test_only_what_is_missing_is_asked_again(
    done: tuple[study.Found, Path], asked: study.Study, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = Path(shutil.copytree(done[1], tmp_path / "copy"))
    for path in [*(out / "logit_lens" / "parts").iterdir()][:2]:
        path.unlink()
    asked_of: list[str] = []
    for name in asked.analyses:
        module: Any = runs.analysis(name)

        def watched(*given: Any, run: Any = module.run, name: str = name, **more: Any) -> Any:
            asked_of.append(name)
            return run(*given, **more)

        monkeypatch.setattr(module, "run", watched)
    study.carry_out(asked, out)
    assert asked_of == ["logit_lens"] * 2
    same(out, done[1])


# --- judges ---------------------------------------------------------------------------------


def served(server: JudgeServer, **more: Any) -> dict[str, Any]:
    return dict(name=MODEL, url=server.url, connections=2, retries=0, **more)


def test_a_served_judge_scores_the_same_captions_and_the_tokens_inside(
    done: tuple[study.Found, Path], asked: study.Study, server: JudgeServer, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(done[1], tmp_path / "copy"))
    found = study.carry_out(replace(asked, judge=served(server)), out)
    assert len(list((out / "scores").iterdir())) == 2
    assert set(found.scores["judge"]) == {MODEL} and set(found.scores["score"].dropna()) == {0.5}
    recall = found.scores[found.scores["what"] == "recall"]
    assert set(recall["condition"]) == {"norm", "raw"} and len(recall) == 2 * 4
    # This server says that the first word of each answer tells of a sound.
    for _, rows in found.tables["distribution_shift"].groupby(["sample", "question"]):
        assert rows["events"].iloc[0] == (rows["answer"].iloc[0].split()[0],)
    asked_once = sum(server.seen.values())
    assert asked_once <= len(found.scores)
    study.carry_out(replace(asked, judge=served(server)), out)
    assert sum(server.seen.values()) == asked_once


def test_a_judge_that_is_down_keeps_everything_and_goes_on(
    done: tuple[study.Found, Path], asked: study.Study, server: JudgeServer, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(done[1], tmp_path / "copy"))
    url = server.url
    server.stop()
    gone = replace(asked, judge=dict(name=MODEL, url=url, retries=0))
    before = (out / "report.md").read_bytes()
    with pytest.raises(JudgeDownError, match=r"Start it .*give the same command again"):
        study.carry_out(gone, out)
    assert (out / "report.md").read_bytes() == before
    same(out, done[1])


def test_a_judge_that_cannot_be_asked_is_known_before_a_model_is_loaded(
    asked: study.Study, server: JudgeServer, tmp_path: Path
) -> None:
    unknown = replace(asked, model="no such model")
    with pytest.raises(JudgeError, match="got 'other'"):
        study.carry_out(replace(unknown, judge={"name": "other", "url": server.url}), tmp_path)
    with pytest.raises(UnknownModelError, match="expected a judge"):
        study.carry_out(replace(unknown, judge={"name": "oracle"}), tmp_path)
    with pytest.raises(JudgeError, match="expected settings among"):
        study.carry_out(replace(unknown, judge={**served(server), "temprature": 0.1}), tmp_path)
    for wrong in ({"url": server.url}, {"name": "lexical", "logs": "here"}):
        with pytest.raises(ResultsError, match=r"expected \[judge\] with a `name`"):
            study.carry_out(replace(unknown, judge=wrong), tmp_path)


# --- folders and manifests ------------------------------------------------------------------


def test_two_studies_in_one_folder_are_refused(
    done: tuple[study.Found, Path], asked: study.Study
) -> None:
    with pytest.raises(ResultsError, match=r"config\.model 'organism-biased' there and 'organism-"):
        study.carry_out(replace(asked, model="organism-balanced"), done[1])
    with pytest.raises(ResultsError, match=r"config\.max_new_tokens 12 there and 13 asked for"):
        study.carry_out(replace(asked, max_new_tokens=13), done[1])


def test_a_manifest_without_references_is_refused_before_anything_runs(
    data: Path, asked: study.Study, tmp_path: Path
) -> None:
    bare = [replace(s, audio_captions=()) for s in read_manifest(data)]
    write_manifest(data.parent / "bare.jsonl", bare)
    unknown = replace(asked, model="no such model", data=data.parent / "bare.jsonl")
    with pytest.raises(ResultsError, match="expected samples with audio_captions in the manifest"):
        study.carry_out(unknown, tmp_path)


def test_the_command_prints_each_claim(
    done: tuple[study.Found, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(done[1], tmp_path / "copy"))
    file = data.parent / "few.toml"
    file.write_text(
        'model = "organism-biased"\nbase = "organism-base"\ndata = "few.jsonl"\n'
        'max_new_tokens = 12\n[judge]\nname = "truth"\n[knockout]\nwidth = 3\nstep = 2\n'
    )
    with pytest.raises(SystemExit) as stop:
        main(["study", "--config", str(file), "--out", str(out)])
    assert stop.value.code == 0
    printed = capsys.readouterr().err
    for one in done[0].findings:
        assert f"{one.verdict}: {one.claim.name}: {one.ours}" in printed
    assert json.loads((out / "recipe.json").read_text())["analysis"] == "study"
