"""Runs that are stopped at random moments: a fork server loads this once, and forks it for each."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch

from analyses import attention_share
from analyses.cases import Case, read_cases
from analyses.judge.lookup import load_judge
from analyses.judge.record import judge_items
from analyses.running import results, runs
from analyses.running.runs import Run, execute
from analyses.running.shards import merge_shards
from analyses.study.config import Study
from analyses.study.run import run_study
from data_prep.__main__ import main as data_prep
from data_prep.captioning import caption_manifest
from hooked_omni import load
from hooked_omni.endings import run_command
from hooked_omni.files import file_hash
from tests.support.figures import no_figures
from tests.support.judge_server import MODEL, captions
from tests.support.padding import fill_padding

Contents = Callable[[Path], list[str]]

fill_padding()
torch.set_num_threads(1)
_OMNI = load("random-omni")
_CASES = [
    Case(_OMNI.model.as_prompt(torch.arange(2, 40 + n)[None]), f"sample {n}", question=question)
    for n in range(12)
    for question in ("see", "hear")
]
_CONFIGS: dict[str, dict[str, Any]] = {"knockout": {"width": 3}, "logit_lens": {}}


@dataclass(frozen=True)
class Stops:
    """What came of stopping a run again and again: counts over all of its finished folders.

    `caught` counts stops of a run that had begun and not ended; `lost` and `doubled` are lines of
    an undisturbed run's contents that a finished one lacks or has too often.
    """

    tried: int
    caught: int
    lost: int
    doubled: int
    equal: bool
    codes: frozenset[int]
    printed: list[str]

    @property
    def harmless(self) -> bool:
        """Half of the stops hit the run in its work, and nothing is other than undisturbed."""
        return self.caught >= self.tried // 2 and self.equal and not self.lost + self.doubled


@contextmanager
def _undrawn() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        no_figures(patch)
        yield


def small_run(out: Path, shard: tuple[int, int] = (1, 1)) -> None:
    """24 cases of one analysis, or a shard of them."""
    run = Run("attention_share", attention_share.Config(max_new_tokens=4), _OMNI, _CASES)
    with _undrawn():
        execute(replace(run, shard=shard), out)


def small_shard(out: Path) -> None:
    """The second of three shards of `small_run`."""
    small_run(out, (2, 3))


def merged(out: Path) -> list[str]:
    """Contents of `small_run`'s three shards, the second of them in `out`, merged in any order."""
    folders = [out.with_name("shard 1"), out, out.with_name("shard 3")]
    for i in (0, 2):
        small_run(folders[i], (i + 1, 3))
    found = []
    for i, order in enumerate(permutations(folders)):
        whole = out.with_name(f"merged {i}")
        with _undrawn():
            merge_shards(whole, order)
        found.append(of_run(whole))
        shutil.rmtree(whole)
    assert all(one == found[0] for one in found)
    return found[0]


def small_analysis(name: str, data: Path, out: Path) -> None:
    """Any analysis of a manifest."""
    config = runs.analysis(name).Config(**_CONFIGS.get(name, {"max_new_tokens": 4}))
    base = load("random-vl") if name == "distribution_shift" else None
    with _undrawn():
        execute(Run(name, config, _OMNI, read_cases(data), base), out)


def small_study(data: Path, out: Path) -> None:
    """All stages of `study_of(data)`, on a sample of each kind, with answers of four tokens."""
    with _undrawn():
        run_study(replace(study_of(data), limit=1, max_new_tokens=4), out)


def judged_study(data: Path, done: Path, out: Path) -> None:
    """What is left of `small_study` when its analyses are `done`: the judge and the report."""
    _start_from(done, out, ignore=shutil.ignore_patterns("scores", "report.md", "*.jsonl"))
    small_study(data, out)


def study_of(data: Path) -> Study:
    """A study of a shipped organism."""
    more: Any = dict(judge={"name": "truth"}, configs={"knockout": {"width": 3, "step": 2}})
    return Study("organism-biased", data, "organism-base", max_new_tokens=12, **more)


def small_judging(url: str, out: Path) -> None:
    """Sixty captions, judged by a model on a server."""
    os.environ["INSPECT_CACHE_DIR"] = str(out / "cache")  # else only the first run asks the server
    judge = load_judge(MODEL, url, connections=2)
    table = judge_items(captions(60), judge, out / "judgements.jsonl")
    results.write_table(out / "scores.parquet", table, "scores")


class Described:
    """A captioner that needs a while, and tells clips by their content."""

    workers, facts = 2, {"model": "content"}

    def caption(self, clip: Path) -> str:
        time.sleep(0.02)
        return f"A picture of {file_hash(clip)}."


def small_captioning(world: Path, out: Path) -> None:
    """A caption for each clip of a world."""
    _start_from(world, out)
    caption_manifest.run(out / "clips.jsonl", out / "captioned.jsonl", Described(), again=True)


def small_build(world: Path, embedder: str, out: Path) -> None:
    """`data_prep build` of a world with `sounds.csv` and `seen.json`."""
    _start_from(world, out)
    words = [out / "sounds.csv", out / "clips", out, "--captions", out / "seen.json"]
    data_prep(["build", *map(str, words), "-k", "2", "--embedder", embedder])


def _start_from(source: Path, out: Path, **more: Any) -> None:
    if not out.exists():
        part = out.with_name(f".{out.name}.{os.getpid()}")
        shutil.copytree(source, part, **more)
        part.rename(out)


def of_run(folder: Path) -> list[str]:
    """The rows of a finished run's table, to the bit, and what the table says of itself."""
    return of_table(results.load(folder))


def of_table(table: Any) -> list[str]:
    """The rows of a table and its attributes as text; equal text is equal to the bit."""
    return [*map(repr, table.itertuples(index=False, name=None)), repr(sorted(table.attrs.items()))]


def of_study(folder: Path) -> list[str]:
    """All tables of a study, its scores, and its page."""
    tables = [results.load(path.parent) for path in sorted(folder.glob("*/run.json"))]
    scores = [results.read_table(path) for path in sorted(folder.glob("scores/*"))]
    lines = [line for table in [*tables, *scores] for line in of_table(table)]
    return [*lines, *(folder / "report.md").read_text().split("\n")]


def from_the_fork_server(target: Callable[..., None], *given: Any) -> Any:
    """A process that runs `target`: without the threads and loops that this one may have."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=target, args=given)
    process.start()
    return process


def stopped_at_random(
    target: Callable[..., None],
    *given: Any,
    out: Path,
    marker: str,
    n: int,
    contents: Contents = of_run,
    number: signal.Signals = signal.SIGKILL,
) -> Stops:
    """Stop `target(*given, out)` at `n` random moments and start it again, until it ends by itself.

    It runs as a command does, and writes `marker` last. More often, where most stops came too late.
    """
    begun, printed = out.with_name("begun"), out.with_name("printed")

    def start(folder: Path) -> Any:
        begun.unlink(missing_ok=True)
        process = from_the_fork_server(_as_command, target, given, folder, begun, printed)
        while not begun.exists() and process.is_alive():
            time.sleep(0.002)
        return process

    undisturbed = out.with_name("undisturbed")
    process, moment = start(undisturbed), time.perf_counter()
    process.join()
    assert process.exitcode == 0, printed.read_text()
    seconds, expected = time.perf_counter() - moment, contents(undisturbed)
    generator, codes, found, lines = random.Random(0), [], [], []
    while len(codes) < n or (sum(map(bool, codes)) < len(codes) // 2 and len(codes) < 4 * n):
        process, moment = start(out), time.perf_counter()
        process.join(generator.uniform(0, seconds))
        if not process.is_alive():  # this one was faster: the next moments are sooner
            seconds = min(seconds, time.perf_counter() - moment)
        with suppress(ProcessLookupError):  # it has ended
            os.kill(process.pid, number)
        process.join()
        codes.append(process.exitcode)
        lines += [printed.read_text()] * (process.exitcode != 0)
        if (out / marker).exists():
            found.append(contents(out))
            shutil.rmtree(out)
    process = start(out)
    process.join()
    assert process.exitcode == 0, printed.read_text()
    found.append(contents(out))
    wrong = [Counter(expected), *map(Counter, found)]
    return Stops(
        tried=len(codes),
        caught=sum(code != 0 for code in codes),
        lost=sum((wrong[0] - one).total() for one in wrong[1:]),
        doubled=sum((one - wrong[0]).total() for one in wrong[1:]),
        equal=all(one == expected for one in found),
        codes=frozenset(codes) - {0},
        printed=lines,
    )


def _as_command(
    target: Callable[..., None], given: tuple[Any, ...], out: Path, begun: Path, printed: Path
) -> None:
    descriptor = os.open(printed, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background

    def app(arguments: list[str] | None, prog_name: str) -> None:
        begun.touch()
        target(*given, out)

    run_command(app, [], "a run to be stopped")
