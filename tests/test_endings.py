"""How commands end: by an error, a full disk, SIGINT, SIGTERM, or a second Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from analyses.judge.lookup import load_judge
from analyses.judge.record import judge_items
from analyses.running import results
from data_prep.manifest import Sample, write_manifest
from hooked_omni.endings import StopSignals, run_command
from hooked_omni.errors import FileError
from hooked_omni.files import exclusive, remove, whole_file
from tests.support.clips import write_clip
from tests.support.forked import start
from tests.support.hostile import analyses, data_prep, ends
from tests.support.judge_server import JudgeServer, captions
from tests.support.killed import (
    merged,
    of_run,
    of_table,
    small_captioning,
    small_judging,
    small_run,
    small_shard,
    stopped_at_random,
)
from tests.support.places import ROOT

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
BOTH = pytest.mark.parametrize("number", CODES)


@BOTH
def test_a_run_that_is_stopped_goes_on_to_the_same_table(number: Any, tmp_path: Path) -> None:
    stops = stopped_at_random(
        small_run, out=tmp_path / "out", marker="run.json", n=3, number=number
    )
    assert stops.harmless and stops.codes == {CODES[number]}
    for line in stops.printed:
        assert line.count("\n") == 1 and "give the same command again" in line


@BOTH
def test_captions_that_are_stopped_go_on(number: Any, tmp_path: Path) -> None:
    """While a pool of threads waits for a model."""
    world = tmp_path / "world"
    world.mkdir()
    for i in range(4):
        write_clip(world / f"{i}.mp4", seconds=0.3, fps=4, audio_hz=100.0 * (i + 2))
    write_manifest(world / "clips.jsonl", [Sample(str(i), video=f"{i}.mp4") for i in range(4)])

    def captioned(out: Path) -> list[str]:
        return (out / "captioned.jsonl").read_text().split("\n")

    more: Any = dict(marker="captioned.jsonl", n=3, number=number, contents=captioned)
    stops = stopped_at_random(small_captioning, world, out=tmp_path / "out", **more)
    assert stops.equal and stops.codes <= {CODES[number]}


@BOTH
def test_a_judge_that_is_stopped_goes_on(number: Any, tmp_path: Path) -> None:
    """While an event loop waits for a server, and its threads write down what came."""
    server = JudgeServer()
    server.slow = 0.05

    def scores(out: Path) -> list[str]:
        return of_table(results.read_table(out / "scores.parquet"))

    more: Any = dict(marker="scores.parquet", n=2, number=number, contents=scores)
    stops = stopped_at_random(small_judging, server.url, out=tmp_path / "out", **more)
    server.stop()
    assert stops.harmless and stops.codes == {CODES[number]}
    assert all(line.count("stopped by") == 1 for line in stops.printed)
    assert not any("Traceback" in line for line in stops.printed)


def test_a_killed_shard_is_merged_in_any_order(tmp_path: Path) -> None:
    stops = stopped_at_random(
        small_shard, out=tmp_path / "out", marker="run.json", n=2, contents=merged
    )
    small_run(tmp_path / "whole")
    assert stops.equal and merged(tmp_path / "undisturbed") == of_run(tmp_path / "whole")


def in_pool(folder: Path) -> None:
    """A command whose two processes never end by themselves."""

    def app(arguments: list[str] | None, prog_name: str) -> None:
        with ProcessPoolExecutor(2) as processes:
            list(processes.map(rest, [folder / "a", folder / "b"]))

    run_command(app, [], "pool")


def rest(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(60)


def stubborn(folder: Path) -> None:
    """A command that a first signal does not end at once."""

    def app(arguments: list[str] | None, prog_name: str) -> None:
        try:
            (folder / "b").write_text("0")
            time.sleep(60)
        finally:
            (folder / "closing").write_text("0")
            time.sleep(60)

    run_command(app, [], "stubborn")


def begun(process: Any, *paths: Path) -> None:
    while not all(path.exists() and path.read_text() for path in paths):
        assert process.is_alive()
        time.sleep(0.01)


@BOTH
def test_the_processes_of_a_pool_end_too(number: Any, tmp_path: Path, capfd: Any) -> None:
    process: Any = start(in_pool, tmp_path)
    begun(process, tmp_path / "a", tmp_path / "b")
    time.sleep(0.1)
    os.kill(process.pid, number)
    process.join(50)
    assert process.exitcode == CODES[number]
    workers = [int((tmp_path / name).read_text()) for name in "ab"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    printed = capfd.readouterr().err
    assert printed.count("\n") == 1 and f"stopped by {number.name}" in printed


def test_a_second_ctrl_c_ends_it_at_once(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StopSignals, "patience", 600.0)
    process: Any = start(stubborn, tmp_path)
    begun(process, tmp_path / "b")
    os.kill(process.pid, signal.SIGINT)
    begun(process, tmp_path / "closing")
    os.kill(process.pid, signal.SIGINT)
    process.join(50)
    assert process.exitcode == 130 and capfd.readouterr().err.count("stopped by SIGINT") == 1


def deaf(folder: Path) -> None:
    """A command that waits for a server that never answers, after it dropped what ends it."""

    def app(arguments: list[str] | None, prog_name: str) -> None:
        with suppress(BaseException):
            (folder / "b").write_text("0")
            time.sleep(60)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(time.sleep, 60)

    run_command(app, [], "deaf")


@BOTH
def test_what_never_answers_keeps_no_process(
    number: Any, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StopSignals, "patience", 0.3)
    process: Any = start(deaf, tmp_path)
    begun(process, tmp_path / "b")
    os.kill(process.pid, number)
    process.join(50)
    assert process.exitcode == CODES[number]
    assert capfd.readouterr().err.count("\n") == 1


IMPORTS = {
    **dict.fromkeys(["hooked_omni", "analyses", "data_prep"], "typer"),
    "examples.embed_prompts": "torch",
    "examples.demo": "av",
}
"""Commands, and a package that each imports on its way."""


@BOTH
@pytest.mark.parametrize("module", IMPORTS)
def test_a_signal_while_a_command_is_imported(number: Any, module: str) -> None:
    code = f"""
import runpy, signal, sys
class Stop:
    def find_spec(self, name, *rest):
        if name == "{IMPORTS[module]}":
            signal.raise_signal({int(number)})
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Stop())
runpy.run_module("{module}", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == CODES[number]
    assert done.stderr.count("\n") == 1 and "stopped by" in done.stderr


def test_an_ignored_signal_stays_ignored_and_handlers_come_back() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_the_system_refuses_is_one_message(capsys: Any) -> None:
    def app(arguments: Any, prog_name: str) -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    with pytest.raises(SystemExit) as end:
        run_command(app, [], "x")
    assert end.value.code == 1 and "Permission denied: 'somewhere'" in capsys.readouterr().err


LONG = "x" * 300


@pytest.mark.parametrize("name", ["file/below", "/proc/none/x", f"{LONG}/x", LONG])
def test_a_folder_that_cannot_be_written_to(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write_clip(tmp_path / "a.mp4", seconds=0.3, fps=4, width=56, height=56)
    data = write_manifest(tmp_path / "m.jsonl", [Sample("a", video="a.mp4")])
    bad, model = tmp_path / name, ["--model", "random-omni"]
    one = ["captions", *model, "--data", data, "--config", '{"max_new_tokens": 1}', "--out"]
    assert ends(analyses, *one, bad)[0] == 1
    assert ends(analyses, *one, tmp_path / "o", "--prompts", bad)[0] == 1
    assert ends(data_prep, "swap", data, bad / "o.jsonl")[0] == 1
    assert ends(data_prep, "captions", data, bad / "o.jsonl", "--file", data)[0] == 1
    for write in (exclusive, whole_file):
        with pytest.raises(FileError), write(bad / "x"):
            pass
    with pytest.raises(FileError):
        judge_items(captions(1), load_judge("lexical"), bad / "j.jsonl")


def test_a_file_that_cannot_be_replaced_and_errors_of_a_block(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="expected to replace"):
        remove(tmp_path)
    for path in (Path(), Path("/"), tmp_path):
        with pytest.raises(FileError, match="expected to write"), whole_file(path) as partial:
            partial.write_bytes(b"x")
    with pytest.raises(FileError, match="my own"), whole_file(tmp_path / "a"):
        raise FileError("my own")
    assert not list(tmp_path.iterdir())
