"""How does an analysis go through a manifest, and come back after a stop?

Each case's table is a part file of its own, written whole or not at all. A run that was killed,
given the same command again, computes only what is missing; its tables are those of a run that was
never disturbed, since all tables are put together from the parts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd
from matplotlib.figure import Figure

from analyses.cases import Case, Skip, as_cases, prefilled, tabulate
from analyses.running import results
from analyses.running.identity import case_mark, model_facts
from analyses.running.options import shard_of
from analyses.running.progress import ProgressCallback, no_progress
from data_prep.manifest import file_name
from hooked_omni import HookedOmni, Prompt
from hooked_omni.cluster.joining import Cluster
from hooked_omni.cluster.spreading import spread
from hooked_omni.cluster.tasks import Made, Task
from hooked_omni.decoder.memory import room_for
from hooked_omni.errors import ResultsError, WorkerLostError
from hooked_omni.files import exclusive

_ROOM = (
    "What is finished is kept: the same command goes on from there on a larger device, or over "
    "several (--device-map auto). A smaller memory_budget of knockout, or dtype, is another run, "
    "for a folder of its own; `python -m analyses plan` prints what they take."
)


@runtime_checkable
class Analysis(Protocol):
    """What every question has; `plot` and `headline` refuse a table without rows."""

    Config: type
    run: Callable[..., pd.DataFrame]
    plot: Callable[[pd.DataFrame], Figure]
    headline: Callable[[pd.DataFrame], list[str]]


@dataclass(frozen=True)
class Run:
    """One analysis of one model over many cases.

    `cases` are all of them, of which `shard` chooses part `i` of `n`, from 1; `base` is a model to
    compare with. `facts` are what else makes the result: the hash of the data, questions, rope.
    """

    name: str
    config: Any
    omni: HookedOmni
    cases: Sequence[Case]
    base: HookedOmni | None = None
    shard: tuple[int, int] = (1, 1)
    facts: dict[str, Any] = field(default_factory=dict)

    def all_facts(self, facts_of: Callable[[HookedOmni], Any]) -> dict[str, Any]:
        """Model, base and shard among the facts."""
        return {
            **self.facts,
            "model": facts_of(self.omni),
            "base": None if self.base is None else facts_of(self.base),
            "shard": f"{self.shard[0]}/{self.shard[1]}",
        }


Loaded = Callable[[], tuple[HookedOmni, HookedOmni | None, dict[str, Any]]]
"""Loads the model, the base if any is needed, and tells what else they read; can be pickled."""


@dataclass(frozen=True)
class Workers:
    """Where the cases of a run are computed, if not here: by models that are loaded there."""

    cluster: Cluster
    load: Loaded
    gpus: int = 0


def execute(
    run: Run, out: Path, progress: ProgressCallback = no_progress, workers: Workers | None = None
) -> pd.DataFrame:
    """Compute every case that is missing; write table, figures and last `run.json`.

    `progress` is called with the analysis's name, and how many cases are done of how many. With
    `workers`, a case that three of them were lost by is skipped; the same command tries it again.

    Raises:
        ClusterError: As `spread`, with `workers`.
        FileError: For a folder that cannot be written to, or that another process writes to.
        ResultsError: For a folder of another run, no cases, and if every case is skipped.
    """
    return execute_all({out: run}, progress, run.name, workers)[out]


def execute_all(
    runs: Mapping[Path, Run],
    progress: ProgressCallback = no_progress,
    title: str = "cases",
    workers: Workers | None = None,
) -> dict[Path, pd.DataFrame]:
    """Several analyses of one model, each into a folder of its own, as `execute` writes it.

    Each case is embedded and prefilled once, for all analyses of it. Each folder is what its
    analysis's own command would have written, and goes on from there.

    Raises:
        ResultsError: As `execute`, and for runs that mean different cases by one sample and
            question.
    """
    cases = {out: shard_of(as_cases(run.cases), run.shard) for out, run in runs.items()}
    facts_of = cache(model_facts)
    recipes = {
        out: results.make_recipe(run.name, run.config, run.all_facts(facts_of))
        for out, run in runs.items()
    }
    for out, recipe in recipes.items():
        results.require_same(out, recipe)
    every = _each_once(cases)
    mark = lambda out: {part_path(out, o.id): case_mark(o, recipes[out]) for o in cases[out]}  # noqa: E731
    marks = {out: mark(out) for out in cases}
    with ExitStack() as locks:
        for out, recipe in recipes.items():
            locks.enter_context(exclusive(out))
            results.write_recipe(out, recipe)
        left = [(case, _left(case, folders, marks)) for case, folders in every]
        left = [(case, parts) for case, parts in left if parts]
        n_there = len(every) - len(left)
        progress(title, n_there, len(every))
        for n, _ in enumerate(_each(left, runs, workers, progress), n_there + 1):
            progress(title, n, len(every))
        facts_of = cache(model_facts)  # again: what was edited or replaced meanwhile is noticed
        for out, run in runs.items():
            finish(out, run.name, results.gather(mark(out)), run.config, run.all_facts(facts_of))
    return {out: results.load(out) for out in runs}


def _each_once(cases: Mapping[Path, Sequence[Case]]) -> list[tuple[Case, list[Path]]]:
    """Every case, with the folders of all runs that have it."""
    found: dict[str, tuple[Case, list[Path]]] = {}
    for out, own in cases.items():
        for case in own:
            first, folders = found.setdefault(case.id, (case, []))
            folders.append(out)
            if _content(first) != _content(case):
                raise ResultsError(
                    f"expected one prompt and its captions for {case.id!r} in all runs, got "
                    "different ones. Give one of them another `sample` or `question`, or run them "
                    "apart."
                )
    return list(found.values())


def _content(case: Case) -> tuple[Any, ...]:
    return case.prompt, case.kind, case.audio_captions, case.video_captions


Parts = dict[Path, tuple[Path, Mapping[str, Any]]]
"""Where a case's tables go, the folder of the run that each is of, and what it says of its case."""


def _left(case: Case, folders: Sequence[Path], marks: Mapping[Path, Any]) -> Parts:
    """What of a case is not there yet, whole, and of this very case and run."""
    parts = {part_path(out, case.id): out for out in folders}
    found = {path: (out, marks[out][path]) for path, out in parts.items()}
    return {path: one for path, one in found.items() if not _is_done(path, one[1])}


def _is_done(path: Path, mark: Mapping[str, Any]) -> bool:
    with suppress(ResultsError):
        return "lost" not in results.gather({path: mark}).attrs
    return False


def _work(runs: Mapping[Path, Run], given: tuple[Case, Parts], paths: Sequence[Path]) -> None:
    """The tables of one case in all runs that lack it, written to `paths`."""
    with room_for(f"the case {given[0].id!r}", _ROOM):
        _compute(runs, *given, paths)


def _compute(runs: Mapping[Path, Run], case: Case, parts: Parts, paths: Sequence[Path]) -> None:
    with suppress(Skip):  # each analysis skips it by itself, and says why
        case = prefilled(runs[next(iter(parts.values()))[0]].omni, case)
    for path, (out, mark) in zip(paths, parts.values(), strict=True):
        run = runs[out]
        more = {} if run.base is None else {"base": run.base}
        try:
            table = analysis(run.name).run(run.omni, [case], run.config, **more)
        except Exception as error:
            error.add_note(f"This was {run.name} of case {case.id!r}.")
            raise
        device = run.omni.model.cfg.device.type
        results.write_table(path, table, run.name, **mark, devices={device: True})


def _each(
    left: Sequence[tuple[Case, Parts]],
    runs: Mapping[Path, Run],
    workers: Workers | None,
    progress: ProgressCallback,
) -> Iterator[None]:
    """Compute what is left, here or by workers, case by case."""
    of = {case.id: (case, parts) for case, parts in left}
    tasks = [_task(case, parts, workers is not None) for case, parts in left]
    if workers is None:
        done = spread(None, lambda: (partial(_work, runs), {}), tasks)
    else:
        plans = {out: (run.name, run.config, run.base is not None) for out, run in runs.items()}
        make = partial(_worker, workers.load, plans)
        first, based = next(iter(runs.values())), [r.base for r in runs.values() if r.base]
        facts = _facts(first.omni, based[0] if based else None, first.facts)
        done = spread(workers.cluster, make, tasks, facts, workers.gpus, progress)
    for task, future in done:
        try:
            future.result()
        except WorkerLostError as reason:
            _lose(*of[task.name], runs, str(reason))
        yield


def _task(case: Case, parts: Parts, away: bool) -> Task:
    read = case.prompt.sources(hears=True) if isinstance(case.prompt, Prompt) else ()
    files = dict.fromkeys(Path(source.path) for source in read)
    if away:  # what is prefilled stays with its model
        case = replace(case, prefilled_prompt=None, prefilled_from=None, answers={})
    return Task(case.id, (case, parts), tuple(files), tuple(path.absolute() for path in parts))


def _worker(load: Loaded, plans: Mapping[Path, tuple[str, Any, bool]]) -> Made:
    """What a worker does."""
    omni, base, embedded = load()
    runs = {o: Run(name, c, omni, [], base if two else None) for o, (name, c, two) in plans.items()}
    needed = base if any(two for _, _, two in plans.values()) else None
    return partial(_work, runs), _facts(omni, needed, embedded)


def _facts(omni: HookedOmni, base: HookedOmni | None, more: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same here and in a worker."""
    facts = {"embedded": more.get("embedded"), "model": model_facts(omni)}
    return facts if base is None else {**facts, "base": model_facts(base)}


def _lose(case: Case, parts: Parts, runs: Mapping[Path, Run], reason: str) -> None:
    """Tables in which the case is skipped for this reason; they do not count as done."""

    def rows(case: Case) -> Iterator[dict[str, Any]]:
        raise Skip(f"three workers were lost by it. {reason}")

    for path, (out, mark) in parts.items():
        table, name = tabulate(runs[out].omni, rows, [case], ()), runs[out].name
        results.write_table(path, table, name, **mark, lost={case.id: reason})


def finish(out: Path, name: str, table: pd.DataFrame, config: Any, facts: dict[str, Any]) -> None:
    """Write table, figures and `run.json`; a `ResultsError` if every case was skipped."""
    if table.empty:
        reasons = list(table.attrs["skipped"].items())
        raise ResultsError(
            f"expected a case that {name} can be used on, got {len(reasons)} that were skipped: "
            + "; ".join(f"{case}: {reason}" for case, reason in reasons[:3])
        )
    results.save(out, name, table, analysis(name).plot(table), config, **facts)


def analysis(name: str) -> Analysis:
    """The file that answers this question; a `ResultsError` if there is none."""
    known = (find_spec(f"analyses.{name}") if name.isidentifier() else None) is not None
    found = import_module(f"analyses.{name}") if known else None
    if not isinstance(found, Analysis):
        raise ResultsError(f"expected the name of an analysis, got {name!r}. Is it our folder?")
    return found


def part_path(folder: Path, case_id: str) -> Path:
    """Where a case's own table lies."""
    return folder / "parts" / f"{file_name(case_id)}.parquet"
