"""A run comes back after any stop, and two runs are never mixed up."""

import errno
import json
import os
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from analyses import attention_share
from analyses.cases import Case, read_cases
from analyses.running import results, runs
from data_prep.manifest import Sample, write_manifest
from hooked_omni import HookedOmni, Prompt, load
from hooked_omni.cluster.joining import Cluster
from hooked_omni.cluster.spreading import spread
from hooked_omni.cluster.tasks import Task
from hooked_omni.errors import FileError, OutOfRoomError, ResultsError, WorkerLostError
from hooked_omni.files import exclusive
from tests.support.figures import no_figures
from tests.support.killed import small_run, stopped_at_random
from tests.support.running import assert_same, command
from tests.support.running import run_attention_share as run
from tests.support.workers import small_run as small_cluster_run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_leaves_a_table_figures_and_last_of_all_run_json(finished: Path) -> None:
    names = {"attention_share.parquet", "attention_share.pdf", "attention_share.png", "run.json"}
    times = {name: (finished / name).stat().st_mtime_ns for name in names}
    assert max(times, key=lambda name: times[name]) == "run.json"
    assert min((finished / name).stat().st_size for name in names) > 1000
    made = json.loads((finished / "run.json").read_text())
    assert made["analysis"] == "attention_share" and made["schema"] == results.SCHEMA
    assert made["config"]["max_new_tokens"] == 4 and made["config"]["sinks"] == "kept"
    facts = made["facts"]
    assert facts["model"]["name"] == "random-omni" and len(facts["model"]["weights"]) == 32
    assert facts["rope"] == "model" and facts["questions"] == ["hear"]
    assert facts["data"][0]["file"] == "data.jsonl" and len(facts["data"][0]["sha256"]) == 64
    assert "last prompt position" in made["G"]
    assert made["n_cases"] == 6 and set(made["skipped"]) == {"clip 3/hear", "gone/hear"}
    assert all(made["skipped"].values())
    assert {"torch", "transformers", "hooked-omni"} <= made["versions"].keys()


@pytest.mark.parametrize("want", [lambda: torch.empty(1 << 52), lambda: bytearray(1 << 60)])
def test_memory_that_runs_out_loses_nothing(
    want: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_figures(monkeypatch)
    omni = load("random-omni")
    prompts = [omni.model.as_prompt(torch.arange(2, n)[None]) for n in (20, 21, 22)]
    cases = [Case(prompt, f"{i}") for i, prompt in enumerate(prompts)]
    one = runs.Run("attention_share", attention_share.Config(max_new_tokens=4), omni, cases)
    out, whole = tmp_path / "out", tmp_path / "whole"
    long = lambda block, args: want() if args[0].shape[1] == 20 else None  # noqa: E731
    handle = omni.model.blocks[0].register_forward_pre_hook(long)
    with pytest.raises(
        OutOfRoomError, match=r"the case '2/hear', got .*Error.*same command"
    ) as end:
        runs.execute(one, out)
    handle.remove()
    assert "attention_share of case '2/hear'" in str(end.value.__notes__)
    parts = {path: path.stat().st_mtime_ns for path in out.glob("parts/*.parquet")}
    assert len(parts) == 2 and not (out / "run.json").exists()
    runs.execute(one, out)
    assert all(path.stat().st_mtime_ns == time for path, time in parts.items())
    runs.execute(one, whole)
    assert_same(out, whole)


def test_the_table_is_that_of_the_analysis(finished: Path, data: Path) -> None:
    config = attention_share.Config(max_new_tokens=4)
    plain = attention_share.run(load("random-omni"), read_cases(data), config)
    found = results.load(finished)
    pd.testing.assert_frame_equal(found, plain)
    for name in ("n_cases", "skipped"):
        assert found.attrs[name] == plain.attrs[name]


def test_the_same_command_again_changes_no_table(copy: Path, data: Path, finished: Path) -> None:
    before = contents(copy / "parts")
    assert run(copy, data) == 0
    assert contents(copy / "parts") == before
    assert_same(copy, finished)


def test_a_run_that_is_killed_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert stopped_at_random(small_run, out=out, marker="run.json", n=4).harmless


def test_only_the_missing_is_run(copy: Path, data: Path, finished: Path, monkeypatch: Any) -> None:
    seen, compute = [], attention_share.run

    def watched(omni: Any, cases: list[Case], config: Any) -> pd.DataFrame:
        seen.append([case.id for case in cases])
        return compute(omni, cases, config)

    monkeypatch.setattr(attention_share, "run", watched)
    (copy / "run.json").unlink()
    next((copy / "parts").glob("clip-2-*")).unlink()
    assert run(copy, data) == 0
    assert seen == [["clip 2/hear"]]
    assert_same(copy, finished)


def test_an_error_loses_only_its_own_case(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    compute = attention_share.run

    def failing(omni: Any, cases: list[Case], config: Any) -> pd.DataFrame:
        if cases[0].sample == "clip 2":
            raise RuntimeError("out of memory")
        return compute(omni, cases, config)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError) as raised:
        patch.setattr(attention_share, "run", failing)
        run(tmp_path, data)
    assert raised.value.__notes__ == ["This was attention_share of case 'clip 2/hear'."]
    assert len(list((tmp_path / "parts").iterdir())) == 2
    with pytest.raises(ResultsError, match=r"got one without run\.json"):
        results.load(tmp_path)


def test_a_full_disk_is_harmless(copy: Path, data: Path, finished: Path, monkeypatch: Any) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (copy / "run.json").unlink()
    before = contents(copy)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FileError, match="No space left on device"):
            results.write_table(copy / "attention_share.parquet", pd.DataFrame({"a": [1]}), "x")
        assert run(copy, data) == 1
    assert contents(copy) == before
    assert run(copy, data) == 0
    assert_same(copy, finished)


def test_a_folder_of_another_config_is_refused(copy: Path, data: Path, capsys: Any) -> None:
    before = (copy / "run.json").read_bytes()
    assert run(copy, data, config='{"max_new_tokens": 5}') == 1
    assert "config.max_new_tokens 4 there and 5 in this run" in capsys.readouterr().err
    assert run(copy, data, "--rope", "paper-scripts") == 1
    assert "facts.rope 'model' there and 'paper-scripts'" in capsys.readouterr().err
    assert (copy / "run.json").read_bytes() == before
    (copy / "run.json").unlink()  # an unfinished folder is refused too
    assert run(copy, data, config='{"max_new_tokens": 5}') == 1
    assert run(copy, data) == 0


def test_other_data_are_refused(copy: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "data.jsonl"
    other.write_text(data.read_text().replace("clip 0", "clip 9"))
    assert run(copy, other) == 1
    assert "facts.data" in capsys.readouterr().err


def test_results_of_another_version_are_refused(copy: Path, data: Path, monkeypatch: Any) -> None:
    made = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({k: v for k, v in made.items() if k != "schema"}))
    with pytest.raises(ResultsError, match=f"schema {results.SCHEMA}, got none in"):
        results.load(copy)
    (copy / "run.json").write_text(json.dumps({**made, "schema": 0}))
    (copy / "recipe.json").unlink()
    assert run(copy, data) == 1
    with monkeypatch.context() as patch:
        patch.setattr(results, "SCHEMA", 2)
        results.write_table(copy / "old.parquet", pd.DataFrame({"a": [1]}), "attention_share")
    with pytest.raises(ResultsError, match="from another version of this project"):
        results.read_table(copy / "old.parquet")


def test_damage_is_seen(copy: Path) -> None:
    path = copy / "attention_share.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ResultsError, match="expected a whole table at"):
        results.load(copy)
    part = results.read_table(next((copy / "parts").glob("clip-0*")))
    results.write_table(path, part, "attention_share")
    with pytest.raises(ResultsError, match="expected a table of this run"):
        results.load(copy)


def test_shards_of_other_limits_are_refused(data: Path, tmp_path: Path, capsys: Any) -> None:
    for i, limit in ((1, 2), (2, 4)):
        assert run(tmp_path / str(i), data, "--shard", f"{i}/2", "--limit", limit) == 0
    assert command("merge", tmp_path / "whole", tmp_path / "1", tmp_path / "2") == 1
    assert "shards of the same cases" in capsys.readouterr().err


def test_two_runs_never_write_to_one_folder(copy: Path, data: Path) -> None:
    with exclusive(copy):
        assert run(copy, data) == 1
    assert run(copy, data) == 0


def test_different_prompts_of_one_name_are_refused(omni: HookedOmni, tmp_path: Path) -> None:
    config = attention_share.Config(2)
    cases = [Case(Prompt(text, video="a.mp4"), "a") for text in ("What?", "What?", "Who?")]
    every = [runs.Run("attention_share", config, omni, [case]) for case in cases]
    with pytest.raises(ResultsError, match="expected one prompt and its captions for 'a/hear'"):
        runs.execute_all({tmp_path / "a": every[0], tmp_path / "b": every[2]})
    assert not any(tmp_path.iterdir())
    with pytest.raises(ResultsError, match="skipped"):  # the clip is not there, but it is one
        runs.execute_all({tmp_path / "a": every[0], tmp_path / "b": every[1]})


def test_shards_make_up_the_whole(finished: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    first, second, third = (tmp_path / f"shard{i}" for i in (1, 2, 3))
    for i, shard in enumerate((first, second, third), start=1):
        assert run(shard, data, "--shard", f"{i}/3") == 0
    whole = tmp_path / "whole"
    assert command("merge", whole, first, second) == 1
    assert "expected the shards ['1/2', '2/2'], each once" in capsys.readouterr().err
    assert command("merge", whole, third, first, second) == 0
    assert_same(whole, finished)
    made = [json.loads((folder / "run.json").read_text()) for folder in (whole, finished)]
    when = {"made": None, "checksum": None}
    assert made[0] | when == made[1] | when
    other = tmp_path / "other"
    assert run(other, data, "--shard", "2/3", config='{"max_new_tokens": 5}') == 0
    assert command("merge", tmp_path / "mixed", first, other, third) == 1
    assert "expected shards of one run" in capsys.readouterr().err


def test_a_first_look_can_be_gone_on_with(data: Path, tmp_path: Path, finished: Path) -> None:
    assert run(tmp_path, data, "--limit", 2) == 0
    assert results.load(tmp_path).attrs["n_cases"] == 2
    assert run(tmp_path, data) == 0
    assert_same(tmp_path, finished)


def test_every_case_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = write_manifest(tmp_path / "gone.jsonl", [Sample("gone", video="none.mp4")])
    assert run(tmp_path / "out", gone) == 1
    error = capsys.readouterr().err
    assert "got 1 that were skipped" in error and "gone/hear: expected a media file" in error
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_case_that_lost_its_workers_is_tried_again(data, tmp_path, monkeypatch):
    """It is skipped with the reason; the other cases are as they are."""

    def losing(cluster: Any, make: Any, tasks: Any, *more: Any) -> Iterator[tuple[Task, Any]]:
        for task, future in spread(None, make, tasks):
            if task.name == "clip 1/hear":
                future = Future[None]()
                future.set_exception(WorkerLostError("out of memory"))
            yield task, future

    small_cluster_run(data, whole := tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "spread", losing)
        small_cluster_run(data, out := tmp_path / "out", Cluster("local"))
    lost, made = results.load(out), results.read_run(out)
    assert made["lost"] == {"clip 1/hear": "out of memory"}
    assert "out of memory" in made["skipped"]["clip 1/hear"] and made["n_cases"] == 6
    expected = results.load(whole)
    others: Any = expected[expected["sample"] != "clip 1"].reset_index(drop=True)
    pd.testing.assert_frame_equal(lost, others)
    small_cluster_run(data, out)
    assert_same(out, whole)
    assert "lost" not in results.read_run(out)
