"""The whole study: what it writes, and how it comes back from any stop."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.judge.judgement import JudgeDownError, JudgeError
from analyses.running import results, runs
from analyses.study import report
from analyses.study.claims import check
from analyses.study.config import Study
from analyses.study.run import StudyResult, run_study, study_cases
from data_prep.manifest import read_manifest, write_manifest
from data_prep.organism.world.dataset import write_world
from hooked_omni import load
from hooked_omni.errors import ResultsError, UnknownModelError
from tests.support.figures import no_figures
from tests.support.judge_server import MODEL, JudgeServer
from tests.support.killed import of_study, small_study, stopped_at_random, study_of
from tests.support.running import command

pytestmark = pytest.mark.xdist_group("study")  # what all share is made once


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips with their own sound, and two with another's, of the organisms' world."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 1, 0, "test")
    samples = read_manifest(folder / "pairs.jsonl")
    return write_manifest(folder / "few.jsonl", [*samples[:2], *samples[-2:]])


@pytest.fixture(scope="module")
def study(data: Path) -> Study:
    return study_of(data)


@pytest.fixture(scope="module")
def done(study: Study, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """A study that ran through; the figures of its page are real, those of its stages are not."""
    out = tmp_path_factory.mktemp("study") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        no_figures(patch)
        done = run_study(study, out)
    report.write(study, out, done.tables, done.scores, done.findings)
    return done


@pytest.fixture
def copy(done: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, to go on in; nothing more is drawn."""
    no_figures(monkeypatch)
    return Path(shutil.copytree(done.report.parent, tmp_path / "copy"))


def test_a_study_leaves_tables_scores_figures_and_a_page(done: StudyResult) -> None:
    out = done.report.parent
    page = (out / "report.md").read_text()
    for one in done.findings:
        assert f"| {report.as_text(one.ours)} | {one.verdict} |" in page
    for name in done.tables:
        assert (out / name / "run.json").is_file()
        pd.testing.assert_frame_equal(results.load(out / name), done.tables[name])
    figures = re.findall(r"^!\[.*\]\((.*)\)$", page, re.M)
    assert len(figures) == len(done.tables)
    for figure in figures:
        assert (out / figure).stat().st_size > 5000
        assert (out / figure).with_suffix(".pdf").is_file()
    (scores,) = (out / "scores").glob("*.parquet")
    pd.testing.assert_frame_equal(results.read_table(scores), done.scores)


def test_every_answer_is_scored_once_and_exactly(done: StudyResult) -> None:
    captions, cuts = done.tables["captions"], done.tables["knockout"]
    assert len(captions) == 4 * 3 and set(cuts["question"]) == {"see", "hear"}
    expected = 4 * (1 + 1 + 2) + len(cuts)  # see, hear, and both, which has two points
    assert len(done.scores) == expected and set(done.scores["status"]) == {"judged"}
    texts = done.scores.set_index(["sample", "question", "condition", "what"])["text"]
    for row in captions.to_dict("records"):
        what = "video" if row["question"] == "see" else "audio"
        assert texts[row["sample"], row["question"], "", what] == row["caption"]


def test_a_stage_is_what_its_command_writes(done: StudyResult, study: Study, copy: Path) -> None:
    config, cases = study.config("knockout"), study_cases(study, "knockout")
    run = runs.Run("knockout", config, load(study.model), cases)
    pd.testing.assert_frame_equal(runs.execute(run, copy / "x"), done.tables["knockout"])


def test_a_page_without_any_judgement(done: StudyResult, study: Study, copy: Path) -> None:
    gone = done.scores.assign(score=float("nan"), status="missing", reason="no answer")
    gone.attrs = done.scores.attrs
    page = report.write(study, copy, done.tables, gone, check(done.tables, gone)).read_text()
    assert f"judgements: {len(gone)} of {len(gone)} missing" in page and "no answer" in page
    assert "nothing to tell: expected scores of answers, got none" in page
    assert not (copy / "figures" / "figure2_fidelity.png").exists()
    assert "figure2_fidelity" not in page and "figure5_logit_lens.png" in page


def test_a_limit_counts_samples_of_each_kind(study: Study) -> None:
    cases = study_cases(replace(study, limit=1), "captions")
    assert len(cases) == 2 * 3 and len({case.sample for case in cases}) == 2
    assert {case.kind for case in cases} == {"counterfactual", "factual"}


def same(out: Path, other: Path) -> None:
    for name in ("captions", "attention_share", "logit_lens", "knockout", "distribution_shift"):
        pd.testing.assert_frame_equal(results.load(out / name), results.load(other / name))
    assert (out / "report.md").read_text() == (other / "report.md").read_text()


def test_a_study_that_is_killed_ends_as_an_undisturbed_one(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more: Any = dict(marker="report.md", contents=of_study)
    assert stopped_at_random(small_study, data, out=out, n=3, **more).harmless


def test_only_gaps_are_run(done: StudyResult, study: Study, copy: Path, monkeypatch: Any) -> None:
    for path in [*(copy / "logit_lens" / "parts").iterdir()][:2]:
        path.unlink()
    computed = []
    for name in study.analyses:
        module: Any = runs.analysis(name)

        def watched(*given: Any, run: Any = module.run, name: str = name, **more: Any) -> Any:
            computed.append(name)
            return run(*given, **more)

        monkeypatch.setattr(module, "run", watched)
    run_study(study, copy)
    assert computed == ["logit_lens"] * 2
    same(copy, done.report.parent)


def served(server: JudgeServer, **more: Any) -> dict[str, Any]:
    return dict(name=MODEL, url=server.url, connections=2, retries=0, **more)


def test_a_served_judge_scores_them_all(
    done: StudyResult, study: Study, server: JudgeServer, copy: Path
) -> None:
    found = run_study(replace(study, judge=served(server)), copy)
    assert len(list((copy / "scores").iterdir())) == 2
    assert set(found.scores["judge"]) == {MODEL} and set(found.scores["score"].dropna()) == {0.5}
    recall = found.scores[found.scores["what"] == "recall"]
    lists = {"norm", "raw"} | {"norm, other clips", "raw, other clips"}
    assert set(recall["condition"]) == lists | {"answer"} and len(recall) == 5 * 4
    # This server says that the first word of each answer names a sound.
    for _, rows in found.tables["distribution_shift"].groupby(["sample", "question"]):
        assert rows["events"].iloc[0] == (rows["answer"].iloc[0].split()[0],)
    # That word alone counts in an answer about the sound.
    before: Any = done.tables["captions"]
    after: Any = found.tables["captions"]
    hear = after["question"] == "hear"
    pd.testing.assert_frame_equal(before[~hear], after[~hear])
    assert before[hear]["heard_found"].max() > 0 == after[hear]["heard_found"].max()
    assert found.tables["distribution_shift"].attrs["unmatched"] == {}
    assert before.equals(results.load(copy / "captions"))
    n_requests = server.seen.total()
    assert n_requests <= len(found.scores)
    run_study(replace(study, judge=served(server)), copy)
    assert server.seen.total() == n_requests


def test_a_judge_that_is_down_keeps_everything(
    done: StudyResult, study: Study, server: JudgeServer, copy: Path
) -> None:
    server.stop()
    with pytest.raises(JudgeDownError, match=r"Start it .*give the same command again"):
        run_study(replace(study, judge=served(server)), copy)
    same(copy, done.report.parent)


def test_a_wrong_judge_is_refused_first(study: Study, server: JudgeServer, tmp_path: Path) -> None:
    judges: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"name": "other", "url": server.url}, JudgeError, "got 'other'"),
        ({"name": "oracle"}, UnknownModelError, "expected a judge"),
        (served(server, temprature=0.1), JudgeError, "expected settings among"),
        ({"url": server.url}, ResultsError, r"expected \[judge\] with a `name`"),
        ({"name": "lexical", "logs": "here"}, ResultsError, r"expected \[judge\] with a `name`"),
    ]
    for judge, error, message in judges:
        with pytest.raises(error, match=message):
            run_study(replace(study, model="no such model", judge=judge), tmp_path)


def test_two_studies_in_one_folder_are_refused(done: StudyResult, study: Study) -> None:
    out = done.report.parent
    with pytest.raises(ResultsError, match=r"config\.model 'organism-biased' there"):
        run_study(replace(study, model="organism-balanced"), out)
    with pytest.raises(ResultsError, match=r"config\.max_new_tokens 12 there and 13 "):
        run_study(replace(study, max_new_tokens=13), out)


NAMES = ("captions", "logit_lens", "knockout", "distribution_shift")
HEAR, SEE = (dict.fromkeys(NAMES, (question,)) for question in ("hear", "see"))


@pytest.mark.parametrize(
    ("lacking", "kinds", "questions", "message"),
    [
        ("audio", ("factual", "counterfactual"), {}, "none of 4 cases"),
        ("audio", ("counterfactual",), HEAR, "captions of the question 'hear' by, .* 2 counterf"),
        ("video", ("factual",), {}, "captions of the question 'see' by, got none of 2 factual"),
        ("video", ("factual",), HEAR | {"knockout": ("see",)}, "knockout of the question 'see'"),
        ("audio", ("factual",), SEE | {"logit_lens": ("hear",)}, "logit_lens of the .* 2 factual"),
    ],
)
def test_a_question_without_references_is_refused_first(
    data: Path, study: Study, tmp_path: Path, lacking: str, kinds: Any, questions: Any, message: str
) -> None:
    none: Any = {f"{lacking}_captions": ()}
    bare = [replace(s, **none) if s.kind in kinds else s for s in read_manifest(data)]
    manifest = write_manifest(data.parent / "bare.jsonl", bare)
    unknown = replace(study, model="no such model", data=manifest, questions=questions)
    with pytest.raises(ResultsError, match=rf"expected .*{lacking}_captions.* score .*{message}"):
        run_study(unknown, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_control_may_have_no_references(data: Path, study: Study, tmp_path: Path) -> None:
    samples = read_manifest(data)
    silent = replace(samples[0], id="silent", kind="silence", audio_captions=())
    manifest = write_manifest(data.parent / "silent.jsonl", [*samples, silent])
    with pytest.raises(UnknownModelError, match="no such model"):  # all else is accepted
        run_study(replace(study, model="no such model", data=manifest), tmp_path / "out")


def test_one_clip_as_two_samples_is_refused_first(data: Path, study: Study, tmp_path: Path) -> None:
    samples = read_manifest(data)
    first = next(s for s in samples if s.kind == "factual")
    shutil.copy(data.parent / str(first.video), data.parent / "under another name.mp4")
    again = replace(first, id="again", video="under another name.mp4")
    manifest = write_manifest(data.parent / "again.jsonl", [*samples, again])
    unknown = replace(study, model="no such model", data=manifest)
    with pytest.raises(ResultsError, match=rf"each clip once .* got {first.id!r} and 'again' of"):
        run_study(unknown, tmp_path / "out")


def test_a_base_that_hears_is_refused(study: Study, tmp_path: Path) -> None:
    for base in ("random-omni", "organism-biased"):
        with pytest.raises(ResultsError, match=f"a base that only sees, got {base}, which hears"):
            run_study(replace(study, base=base), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_prints_claims(done: StudyResult, data: Path, copy: Path, capsys: Any) -> None:
    file = data.parent / "few.toml"
    file.write_text(
        'model = "organism-biased"\nbase = "organism-base"\ndata = "few.jsonl"\n'
        'max_new_tokens = 12\n[judge]\nname = "truth"\n[knockout]\nwidth = 3\nstep = 2\n'
    )
    assert command("study", "--config", file, "--out", copy) == 0
    printed = capsys.readouterr().err
    for one in done.findings:
        assert f"{one.verdict}: {one.claim.name}: {one.ours}" in printed
    assert json.loads((copy / "recipe.json").read_text())["analysis"] == "study"
