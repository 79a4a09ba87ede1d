"""A study asks which answer is preferred: alone, of a benchmark, and beside captions."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import choice
from analyses.explore.site import write_site
from analyses.running import results
from analyses.study.claims import CLAIMS, check
from analyses.study.compare import compare_studies
from analyses.study.config import Study
from analyses.study.finished import read_finished, require_comparable
from analyses.study.plan import plan
from analyses.study.run import StudyResult, run_study, study_cases
from data_prep.importers.avhbench import read_avhbench
from data_prep.importers.clip_folder import find_clips
from data_prep.manifest import Sample, read_manifest, write_manifest
from hooked_omni.errors import ResultsError
from tests.support.clips import write_clip
from tests.support.figures import no_figures
from tests.support.running import command

pytestmark = pytest.mark.xdist_group("choice")  # what all share is made once
TASK, CLAIM, N = "Video-driven Audio Hallucination", "no need of video", 3
CONFIG: dict[str, Any] = {"conditions": {"no video": ("text+audio+generated !-> V",)}}
UNASKED = Sample("silent", kind="silence")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """AVHBench's questions of three clips, and a sample without any."""
    folder = tmp_path_factory.mktemp("avhbench")
    clip = write_clip(folder / "c.mp4", seconds=1.0, fps=4)
    ids = [f"{i:05}{'_swap' * (i % 2)}" for i in range(N)]
    items = [dict(video_id=i, task=TASK, text="Is a dog heard?", label="Yes") for i in ids]
    (folder / "QA.json").write_text(json.dumps(items))
    for name in ids:
        shutil.copy(clip, folder / f"{name}.mp4")
    found = find_clips(read_avhbench(folder / "QA.json"), folder, folder)
    manifest = write_manifest(folder / "m.jsonl", [*found.samples, UNASKED])
    return Study("random-omni", manifest, analyses=("choice",), configs={"choice": CONFIG})


@pytest.fixture(scope="module")
def done(study: Study, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    with pytest.MonkeyPatch.context() as patch:
        no_figures(patch)
        return run_study(study, tmp_path_factory.mktemp("out") / "study")


def test_a_benchmark_alone_is_a_study(done: StudyResult) -> None:
    page = done.report.read_text()
    for line in (
        *choice.headline(done.tables["choice"])[:1],
        "choice: choice cannot be asked of 1",
    ):
        assert line.split(" [")[0] in page.replace("\\", "")
    assert "silent" in page and (done.report.parent / "figures" / "choice.png").is_file()
    (one,) = [found for found in done.findings if found.claim.name == CLAIM]
    assert one.verdict == "not testable here" and "3 samples with numbers, 12 needed" in one.ours
    assert done.scores.empty


def test_it_goes_on_where_it_was_and_is_what_its_command_writes(
    done: StudyResult, study: Study, tmp_path: Path, monkeypatch: Any
) -> None:
    no_figures(monkeypatch)
    out = Path(shutil.copytree(done.report.parent, tmp_path / "out"))
    gone = next((out / "choice" / "parts").iterdir())
    gone.unlink()
    (out / "choice" / "run.json").unlink()
    asked = "--questions", "choice", "--config", json.dumps(CONFIG)
    where = "--data", study.data, "--out", out / "choice"
    assert command("choice", "--model", study.model, *asked, *where) == 0
    assert gone.is_file()
    pd.testing.assert_frame_equal(results.load(out / "choice"), done.tables["choice"])
    assert command("choice", "--model", study.model, *where) == 1  # of other questions


def test_a_finished_study_takes_on_another_analysis(
    done: StudyResult, study: Study, tmp_path: Path, monkeypatch: Any
) -> None:
    no_figures(monkeypatch)
    out = Path(shutil.copytree(done.report.parent, tmp_path / "out"))
    more: Any = dict(questions={"modality_reliance": ("hear",)})
    more["analyses"] = "choice", "modality_reliance"
    config = {"modality_reliance": {"max_new_tokens": 1, "variants": ("mute",)}}
    both = run_study(replace(study, configs={**study.configs, **config}, **more), out)
    assert [*both.tables] == ["modality_reliance", "choice"]
    pd.testing.assert_frame_equal(both.tables["choice"], done.tables["choice"])
    with pytest.raises(ResultsError, match="by"):
        run_study(replace(study, configs={"choice": {"by": "first"}}), out)


def test_finished_ones_stand_side_by_side_and_are_a_page(done: StudyResult, tmp_path: Path) -> None:
    first = done.report.parent
    second = Path(shutil.copytree(first, tmp_path / "second"))
    page = compare_studies([first, second], tmp_path / "compare").read_text()
    assert f"factual, {TASK}: right answers, no video" in page
    assert (tmp_path / "compare" / "choice.png").is_file()
    here = read_finished(first)
    other = replace(here, folder=second, conditions={**here.conditions, "choice": {"by": "first"}})
    with pytest.raises(ResultsError, match="got choice"):
        require_comparable([here, other])
    text = (write_site([first], tmp_path / "site").parent / "data/0/study.js").read_text()
    assert "choice: its figure and sentences are below; of single samples nothing" in text
    assert f"{N} cases" not in text and '"id":"choice"' in text
    samples = read_finished(first).evidence.tables["choice"].attrs["cases"]
    assert len(samples) == N  # the one that cannot be asked is no gap


def test_a_plan_counts_passes_of_what_the_prompt_is_changed_by(study: Study) -> None:
    cases = study_cases(study, "choice")[:1]
    rules = [{}, {"cut": ["last+G !-> V"]}, CONFIG["conditions"]]
    works, n_passes = [], []
    for own in rules:
        settled = replace(study, configs={"choice": {"conditions": own}}).config("choice")
        rows: Any = plan({"choice": (settled, cases)}, study.models()).set_index("stage")
        works.append(rows.loc["choice", "captions"])
        n_passes.append(rows.loc["pass", "n_cases"])
    assert works[0] < works[1] < works[2] and works[2] - works[1] > 0.3
    assert n_passes == [1, 1, 1]


def test_a_limit_is_of_the_same_samples_in_every_analysis(study: Study) -> None:
    assert len(study_cases(replace(study, limit=1), "choice")) == 2
    silent = replace(study, limit=1, kinds=("factual", "silence"))
    assert {case.sample for case in study_cases(silent, "choice")} == {"00000"}
    samples = read_manifest(study.data)
    late = write_manifest(
        study.data.with_name("late.jsonl"), [replace(UNASKED, kind="factual"), *samples[:1]]
    )
    with pytest.raises(ResultsError, match="choice can be asked of among the first 1"):
        study_cases(replace(study, data=late, limit=1), "choice")


@pytest.mark.parametrize(
    ("more", "decisive"),
    [
        (dict(analyses=("knockout", "choice")), "captions among them unless"),
        (dict(analyses=()), r"got \[\]"),
        (dict(analyses=("choice", "choices")), "choices"),
        (dict(questions={"captions": ("which",)}), "got 0 and .'which'"),
        (dict(questions={"choice": ("whose",)}), "whose"),
        (dict(wording={"which": "Do you hear {}?"}), "with 2 {}"),
        (dict(wording={"which": "Do you hear {} or {} or {}?"}), "with 2 {}"),
        (dict(wording={"which": "{0} or {1}?"}), "with 2 {}"),
        (dict(wording={"which": "{} or {}, {"}), "with 2 {}"),
        (dict(wording={"which answer": "a dog"}), "with 1 {}"),
        (dict(wording={"choice": "What?"}), "choice"),
    ],
)
def test_a_study_that_could_not_be_read_is_refused(more: Any, decisive: str) -> None:
    with pytest.raises(ResultsError, match=decisive):
        Study("m", Path("d"), **{"analyses": ("captions", "choice"), **more})


def planted(both: float, alone: float, n: int = 200, task: str = TASK) -> pd.DataFrame:
    """Yes-or-no questions of `n` clips, of which these shares are answered right."""
    rows = []
    for condition, share in (("plain", both), ("no video", alone)):
        right = np.random.default_rng(len(condition)).permutation(n) < share * n
        for i in range(n):
            for option in ("Yes", "No"):
                chosen = (option == "Yes") == bool(right[i])
                known = dict(sample=f"s{i}", kind="factual", question="choice.1", task=task)
                known |= dict(sub_task="", condition=condition, option=option, by="whole")
                rows.append(known | dict(right=option == "Yes", chosen=chosen, value=0.0, p=0.5))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("table", "verdict", "decisive"),
    [
        (planted(0.97, 0.97, 1000), "agrees", "97.0 % with both, 97.0 % without video"),
        (planted(0.9, 0.6), "differs", "both - without 30.0 points"),
        (planted(0.6, 0.9), "differs", "both - without -30.0 points"),
        (planted(0.5, 0.46), "undecided", "McNemar's p = "),
        (planted(0.5, 0.5, 8), "not testable here", "8 samples with numbers, 12 needed"),
        (planted(0.5, 0.5, task="AV Matching"), "not testable here", "no questions of Video-"),
        (planted(0.5, 0.5)[lambda t: t["condition"] == "plain"], "not testable here", "'no video'"),
        (pd.DataFrame(), "not testable here", "'no video'"),
    ],
)
def test_whether_video_is_needed_is_what_was_planted(
    table: pd.DataFrame, verdict: str, decisive: str
) -> None:
    (claim,) = (one for one in CLAIMS if one.name == CLAIM)
    (found,) = check({"choice": table}, pd.DataFrame(), claims=[claim])
    assert found.verdict == verdict and decisive in found.ours, found.ours
    assert not found.claim.of_bias
