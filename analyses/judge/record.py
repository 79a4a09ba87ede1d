"""How does every item get its score, once?

Judgements go into a journal as soon as they are known, under the judge, the prompt's text and all
that the judge is shown. A run that was stopped, or paused because the judge went down, goes on
where it was; items that show the judge the same are asked about once. What is missing is asked for
again by the next run, and counted, never taken for 0.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pandas as pd

from analyses.judge.judgement import Item, Judge, Judgement
from data_prep.journal import Journal
from hooked_omni.files import digest

__all__ = ["COLUMNS", "missing", "run"]

COLUMNS = (
    *("sample", "kind", "question", "condition", "judge", "what", "score", "reason", "status"),
    *("words", "prompt_version", "text", "references"),
)


def run(
    asked: Sequence[Item],
    judge: Judge,
    journal: Path,
    told: Callable[[int, int], None] = lambda done, n: None,
) -> pd.DataFrame:
    """Judge items.

    Args:
        asked: What `items` made.
        judge: Who judges.
        journal: JSON Lines file of all judgements so far; made if it is not there. Several judges
            and runs may share it, one after the other.
        told: Called with the number of judgements done, and of all, whenever one is; from any
            thread.

    Returns:
        One row per item, in order, with `sample`, `kind`, `question`, `condition`, `judge`, `what`,
        `score` (0 to 1; NaN if missing, and for "events"), `reason` (the judge's; or why it is
        missing), `status` ("judged" or "missing"), `words` (for "events", one to a line),
        `prompt_version`, `text` and `references` (one to a line). `table.attrs` hold "judge" with
        all facts, and "missing": how many of each point have no judgement.

    Raises:
        JudgeDownError: If the judge stops answering. All that it said is in the journal.
        JudgeError: If it cannot be asked.
    """
    kept, keys = Journal(journal), [digest(*judge.key(item)) for item in asked]
    open_items: dict[str, Item] = {}
    for key, item in zip(keys, asked, strict=True):
        if not item.lacks and _of(kept.get(key)).missing:
            open_items.setdefault(key, item)
    key_of = {id(item): key for key, item in open_items.items()}
    count, n = itertools.count(1), len(open_items)
    told(0, n)

    def answered(item: Item, judgement: Judgement) -> None:
        kept.put(key_of[id(item)], asdict(judgement))
        told(next(count), n)

    if open_items:
        judge.ask(((item, _of(kept.get(k)).tries) for k, item in open_items.items()), answered)
    return _table(asked, [_of(kept.get(key)) for key in keys], judge)


def missing(table: pd.DataFrame) -> pd.DataFrame:
    """Items without a judgement, each with the reason."""
    return cast(pd.DataFrame, table[table["status"] == "missing"]).reset_index(drop=True)


def _of(kept: dict[str, Any] | None) -> Judgement:
    """A judgement from the journal; without one it is missing, and nobody was asked yet."""
    if kept is None:
        return Judgement(reason="the judge was not asked", missing=True, tries=0)
    return Judgement(**{**kept, "words": tuple(kept["words"])})


def _table(asked: Sequence[Item], judgements: Sequence[Judgement], judge: Judge) -> pd.DataFrame:
    rows = list(_rows(asked, judgements, judge))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"score": float})
    gone = table[table["status"] == "missing"]["what"]
    table.attrs = {
        "judge": {"name": judge.name, **judge.facts},
        "missing": {what: int((gone == what).sum()) for what in table["what"].unique()},
    }
    return table


def _rows(
    asked: Sequence[Item], judgements: Sequence[Judgement], judge: Judge
) -> Iterator[dict[str, Any]]:
    for item, judgement in zip(asked, judgements, strict=True):
        gone = bool(item.lacks) or judgement.missing
        yield dict(
            sample=item.sample,
            kind=item.kind,
            question=item.question,
            condition=item.condition,
            judge=judge.name,
            what=item.what,
            score=None if gone else judgement.score,
            reason=item.lacks or judgement.reason,
            status="missing" if gone else "judged",
            words="\n".join(judgement.words),
            prompt_version=judge.prompt_version(item.what),
            text=item.text,
            references="\n".join(item.references),
        )
