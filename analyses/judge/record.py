"""How does every item get its score, once?

Judgements go into a journal as soon as they are known, under the judge, the prompt's text and all
that the judge reads. A run that was stopped goes on where it was; items that are the same to the
judge are judged once. What is missing is counted, never taken for 0, and judged by the next run.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import pandas as pd

from analyses.judge.judgement import Item, Judge, Judgement
from analyses.running.progress import ProgressCallback, no_progress
from analyses.running.type_check import mismatch, tuples
from data_prep.journal import Journal
from hooked_omni.files import digest

COLUMNS = (
    *("sample", "kind", "question", "condition", "judge", "what", "score", "reason", "status"),
    *("words", "prompt_version", "text", "references"),
)


def judge_items(
    items: Sequence[Item], judge: Judge, journal: Path, progress: ProgressCallback = no_progress
) -> pd.DataFrame:
    """A table of scores.

    `journal` is the JSON Lines file of all judgements so far, made if it is not there; several
    judges and runs may share it, one after the other. `progress` is called with the judge's name,
    how many judgements are done, and of how many.

    Returns:
        One row per item, in order, with `sample`, `kind`, `question`, `condition`, `judge`, `what`,
        `score` (0 to 1; NaN if missing, and for "events"), `reason` (the judge's; or why it is
        missing), `status` ("judged" or "missing"), `words` (a list, for "events"),
        `prompt_version`, `text` and `references` (a list). `table.attrs` hold "judge" with all
        facts, and "missing": how many of each point have no judgement.

    Raises:
        JudgeDownError: If the judge stops answering. Its judgements so far are in the journal.
        JudgeError: If it cannot be used.
    """
    kept, keys = Journal(journal, _is_judgement), [digest(*judge.key(item)) for item in items]
    open_items: dict[str, Item] = {}
    for key, item in zip(keys, items, strict=True):
        if not item.lacks and _of(kept.get(key), item).missing:
            open_items.setdefault(key, item)
    key_of = {id(item): key for key, item in open_items.items()}
    count, n = itertools.count(1), len(open_items)
    progress(judge.name, 0, n)

    def on_judgement(item: Item, judgement: Judgement) -> None:
        kept.put(key_of[id(item)], asdict(judgement))
        progress(judge.name, next(count), n)

    if open_items:
        tries = ((item, _of(kept.get(key), item).tries) for key, item in open_items.items())
        judge.judge_all(tries, on_judgement)
    judgements = [_of(kept.get(key), item) for key, item in zip(keys, items, strict=True)]
    return _table(items, judgements, judge)


def missing(table: pd.DataFrame) -> pd.DataFrame:
    """Items without a judgement, each with the reason."""
    return cast(pd.DataFrame, table[table["status"] == "missing"]).reset_index(drop=True)


def _is_judgement(value: Any) -> bool:
    """Whether a value from a journal is what `asdict` makes of a judgement."""
    if not isinstance(value, dict) or value.keys() != {one.name for one in fields(Judgement)}:
        return False
    typed = {name: tuples(one) for name, one in value.items()}
    return not mismatch(Judgement, typed, "") and 0 <= (value["score"] or 0) <= 1


def _of(kept: dict[str, Any] | None, item: Item) -> Judgement:
    """The item's judgement from the journal; without one it is missing, after no try."""
    scored = kept is not None and kept["score"] is not None
    if kept is None or not (kept["missing"] or scored == (item.what != "events")):
        return Judgement(reason="not judged yet", missing=True, tries=0)
    return Judgement(**{**kept, "words": tuple(kept["words"])})


def _table(items: Sequence[Item], judgements: Sequence[Judgement], judge: Judge) -> pd.DataFrame:
    rows = []
    for item, judgement in zip(items, judgements, strict=True):
        gone = bool(item.lacks) or judgement.missing
        own = dict(
            judge=judge.name,
            score=None if gone else judgement.score,
            reason=item.lacks or judgement.reason,
            status="missing" if gone else "judged",
            words=judgement.words,
            prompt_version=judge.prompt_version(item.what),
        )
        rows.append(asdict(item) | own)
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"score": float})
    gone = table[table["status"] == "missing"]["what"]
    table.attrs = {
        "judge": {"name": judge.name, **judge.facts},
        "missing": {what: int((gone == what).sum()) for what in table["what"].unique()},
    }
    return table
