"""How does an analysis go through a manifest, and come back after a stop?

Each case's table is a part file of its own, written whole or not at all. A run that was killed,
given the same command again, computes only what is missing; its tables are those of a run that was
never disturbed, since all tables are put together from the parts.
"""

import fcntl
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import pandas as pd
from matplotlib.figure import Figure

from analyses.cases import Case, Skip, as_cases, prefilled
from analyses.running import results
from analyses.running.identity import model_facts
from analyses.running.type_check import misfit
from data_prep.manifest import file_name
from hooked_omni import HookedOmni
from hooked_omni.errors import ResultsError

__all__ = [
    "Analysis",
    "Run",
    "analysis",
    "carry_out",
    "carry_out_all",
    "config_from",
    "made_config",
    "merge",
    "shard_of",
]

Shown = Callable[[Sequence[Case]], Iterable[Case]]


@runtime_checkable
class Analysis(Protocol):
    """What every file that answers a question has."""

    Config: type
    run: Callable[..., pd.DataFrame]
    plot: Callable[[pd.DataFrame], Figure]
    headline: Callable[[pd.DataFrame], list[str]]


@dataclass(frozen=True)
class Run:
    """One question, asked of one model about many cases.

    Attributes:
        name: Of the analysis.
        config: Its config.
        omni: The model.
        cases: Who is asked what; all of them, before they are sharded.
        base: The base model, for an analysis that compares with one.
        shard: Part `i` of `n`, counted from 1.
        facts: What else makes the result: the hash of the data, kinds, questions, rope.
    """

    name: str
    config: Any
    omni: HookedOmni
    cases: Sequence[Case]
    base: HookedOmni | None = None
    shard: tuple[int, int] = (1, 1)
    facts: dict[str, Any] = field(default_factory=dict)

    def recipe(self) -> dict[str, Any]:
        """What makes the result, apart from how many cases are looked at."""
        return results.recipe(self.name, self.config, self.all_facts())

    def all_facts(self) -> dict[str, Any]:
        """Model, base and shard among the facts."""
        base = None if self.base is None else model_facts(self.base)
        return {
            **self.facts,
            "model": model_facts(self.omni),
            "base": base,
            "shard": f"{self.shard[0]}/{self.shard[1]}",
        }


def carry_out(run: Run, out: Path, shown: Shown = iter) -> pd.DataFrame:
    """Ask every case that has not been asked; write table, figures and last `run.json`.

    Args:
        run: What to do.
        out: The folder.
        shown: From cases to the same cases, as `rich.progress.track`.

    Returns:
        The table, as `results.load(out)` gives it.

    Raises:
        ResultsError: For a folder of another run, or one that another process writes to, for no
            cases, and if every case is skipped.
    """
    return carry_out_all({out: run}, shown)[out]


def carry_out_all(runs: Mapping[Path, Run], shown: Shown = iter) -> dict[Path, pd.DataFrame]:
    """Ask several questions of one model, each into a folder of its own, as `carry_out` does.

    Each case is embedded and passed over once, whatever is asked about it. A folder of these is
    what its question's own command would have written, and goes on from there.

    Raises:
        ResultsError: As `carry_out`, and for runs that mean different cases by one sample and
            question.
    """
    cases = {out: shard_of(as_cases(run.cases), run.shard) for out, run in runs.items()}
    asked = {out: run.recipe() for out, run in runs.items()}
    for out in runs:
        results.require_same(out, asked[out])
    askers: dict[str, list[Path]] = {}
    for out in runs:
        for case in cases[out]:
            askers.setdefault(case.id, []).append(out)
    every: dict[str, Case] = {}
    for case in (case for out in runs for case in cases[out]):
        if _told(every.setdefault(case.id, case)) != _told(case):
            raise ResultsError(
                f"expected one prompt and its captions for {case.id!r} in all runs, got different "
                "ones. Give one of them another `sample` or `question`, or run them apart."
            )
    with ExitStack() as alone:
        for out in runs:
            alone.enter_context(_alone(out))
            results.claim(out, asked[out])
        for case in shown(list(every.values())):
            left = {out: runs[out] for out in askers[case.id] if not _part(out, case.id).is_file()}
            if left:
                _ask(case, left)
        for out, run in runs.items():
            table = results.gather([_part(out, case.id) for case in cases[out]])
            table.attrs["cases"] = [case.id for case in cases[out]]
            _finish(out, run.name, table, run.config, run.all_facts())
    return {out: results.load(out) for out in runs}


def _told(case: Case) -> tuple[Any, ...]:
    return case.prompt, case.kind, case.audio_captions, case.video_captions


def _ask(case: Case, left: Mapping[Path, Run]) -> None:
    """Ask one case every question that is left, and keep each table."""
    with suppress(Skip):  # each question skips it by itself, and says why
        case = prefilled(next(iter(left.values())).omni, case)
    for out, run in left.items():
        more = {} if run.base is None else {"base": run.base}
        try:
            table = analysis(run.name).run(run.omni, [case], run.config, **more)
        except Exception as error:
            error.add_note(f"This was {run.name} of case {case.id!r}.")
            raise
        results.write_table(_part(out, case.id), table, run.name)


def merge(out: Path, shards: Sequence[Path]) -> pd.DataFrame:
    """One finished folder of all shards of a run: the tables of the run without shards.

    Raises:
        ResultsError: For an unfinished shard, one that is missing or there twice, or shards of
            different runs.
    """
    made = {folder: results.read_json(_finished(folder)) for folder in shards}
    by_number = {made[folder]["facts"].get("shard"): folder for folder in shards}
    n = len(shards)
    expected = [f"{i}/{n}" for i in range(1, n + 1)]
    if not shards or len(set(shards)) < n or sorted(map(str, by_number)) != sorted(expected):
        raise ResultsError(
            f"expected the shards {expected}, each once, got "
            f"{[made[folder]['facts'].get('shard') for folder in shards]}. Name every shard's "
            "folder once."
        )
    ordered = [by_number[name] for name in expected]
    first = _unsharded(made[ordered[0]])
    for folder in ordered[1:]:
        if _unsharded(made[folder]) != first:
            raise ResultsError(
                f"expected shards of one run, got {ordered[0]} and {folder} of different ones: "
                "model, data or config differ (see their run.json)."
            )
    listed = [made[folder]["cases"] for folder in ordered]
    count = sum(map(len, listed))
    parts = [_part(ordered[k % n], listed[k % n][k // n]) for k in range(count)]
    with _alone(out):
        results.require_same(out, first)
        table = results.gather(parts)
        table.attrs["cases"] = [listed[k % n][k // n] for k in range(count)]
        config = config_from(analysis(first["analysis"]).Config, json.dumps(first["config"]))
        _finish(out, first["analysis"], table, config, first["facts"])
    return results.load(out)


def analysis(name: str) -> Analysis:
    """The file that answers this question."""
    return cast(Analysis, import_module(f"analyses.{name}"))


def shard_of(cases: Sequence[Case], shard: tuple[int, int]) -> list[Case]:
    """Every `n`-th case from the `i`-th on.

    Raises:
        ResultsError: For a shard that is none of `n`, or has no cases.
    """
    i, n = shard
    chosen = list(cases[i - 1 :: n]) if 1 <= i <= n else []
    if not chosen:
        raise ResultsError(
            f"expected a shard i/n with i from 1 to n and at most {len(cases)} shards, one for "
            f"each case, got {i}/{n}."
        )
    return chosen


def config_from(kind: type, text: str | None) -> Any:
    """A `Config` from JSON, as `made_config`."""
    try:
        asked = json.loads(text) if text else {}
    except ValueError as error:
        raise ResultsError(f"expected a config as JSON, got {text!r} ({error}).") from error
    return made_config(kind, asked)


def made_config(kind: type, asked: Any) -> Any:
    """A `Config` from names and values; what is not named keeps its default.

    Raises:
        ResultsError: For anything but an object, an unknown field, or a value of another type.
    """
    known = {item.name for item in fields(kind)}
    unknown = sorted(asked.keys() - known) if isinstance(asked, dict) else asked
    if unknown or not isinstance(asked, dict):
        raise ResultsError(f"expected fields among {sorted(known)} in the config, got {unknown}.")
    values = {name: _tuples(value) for name, value in asked.items()}
    if wrong := misfit(kind, values, "the config"):
        raise ResultsError(f"{wrong} Write it as JSON.")
    return kind(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _part(folder: Path, case_id: str) -> Path:
    return folder / "parts" / f"{file_name(case_id)}.parquet"


def _finish(out: Path, name: str, table: pd.DataFrame, config: Any, facts: dict[str, Any]) -> None:
    if table.empty:
        reasons = list(table.attrs["skipped"].items())
        raise ResultsError(
            f"expected a case that {name} can be asked of, got {len(reasons)} that were skipped: "
            + "; ".join(f"{case}: {reason}" for case, reason in reasons[:3])
        )
    results.save(out, name, table, analysis(name).plot(table), config, **facts)


def _finished(folder: Path) -> Path:
    if not (folder / "run.json").is_file():
        raise ResultsError(
            f"expected a finished shard in {folder}, got one without run.json. Give its command "
            "again."
        )
    return folder / "run.json"


def _unsharded(made: dict[str, Any]) -> dict[str, Any]:
    facts = {**made["facts"], "shard": "1/1"}
    return {
        "schema": made["schema"],
        "analysis": made["analysis"],
        "config": made["config"],
        "facts": facts,
    }


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else writes to this folder; a killed process lets go of it."""
    results.require_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ResultsError(
                f"expected to be alone in {folder}, got another run that writes there. Wait for "
                "it, or choose another folder."
            ) from error
        yield
