"""What does the judge say of all that a study made?

Captions, also under every knockout, and, from a judge that has prompts for it, the tokens that can
be read inside the model, and which words of an answer name sounds. Each text is judged once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd

from analyses.cases import KEYS, Case
from analyses.distribution_shift.sound_words import marked, retagged
from analyses.judge.judgement import Judge
from analyses.judge.lookup import load_judge
from analyses.judge.points import items
from analyses.judge.record import judge_items
from analyses.running import results
from analyses.running.progress import ProgressCallback
from analyses.text.events import Events
from data_prep.manifest import file_name
from hooked_omni.errors import ResultsError

ANSWER = "answer"
"""The condition under which recall is of the answer itself."""

UNTOUCHED = "untouched"
"""The condition of the baseline in a batch of knockouts; a plain caption has none, ""."""


def require_judge(settings: Mapping[str, Any], out: Path) -> tuple[Judge, bool]:
    """The judge of a study, and whether it sees the first reference caption alone.

    Raises:
        JudgeError, UnknownModelError: For one that cannot be used, as far as can be known now.
        ResultsError: Without a name.
    """
    given = dict(settings)
    name, first_only = given.pop("name", None), given.pop("first_only", False)
    if not isinstance(name, str) or not isinstance(first_only, bool) or "logs" in given:
        raise ResultsError(
            "expected [judge] with a `name`, such as 'lexical', true or false as `first_only`, and "
            f"no `logs`, which lie in the study's folder, got {dict(settings)}."
        )
    judge = load_judge(name, given.pop("url", None), out / "judge-logs", **given)
    judge.require()
    return judge, first_only


def judge_study(
    judge: Judge,
    tables: Mapping[str, pd.DataFrame],
    cases: Sequence[Case],
    out: Path,
    progress: ProgressCallback,
    first_only: bool = False,
) -> pd.DataFrame:
    """Scores of all captions and tokens, written to `scores_path(out, judge.name)`.

    `first_only` gives the judge the first reference caption alone; else as `judge_items`.
    """
    samples = list({case.sample: case for case in cases}.values())
    todo = items(tables["captions"], samples, first_only=first_only)
    if "knockout" in tables:
        cut = tables["knockout"]
        cut = cut.assign(condition=conditions(cut))
        todo += items(cut, samples, first_only=first_only)
    if "logit_lens" in tables and judge.prompt_version("recall"):
        todo += items(_tokens(tables["logit_lens"]), samples, ("recall",), first_only)
    if judge.prompt_version("events"):
        for name, texts in _answers(tables).items():
            todo += items(texts.assign(condition=name), samples, ("events",))
    scores = judge_items(todo, judge, out / "judgements.jsonl", progress)
    scores.attrs |= {"model": tables["captions"].attrs["model"], "first_only": first_only}
    results.write_table(scores_path(out, judge.name), scores, "scores")
    return scores


def with_events(
    tables: Mapping[str, pd.DataFrame], scores: pd.DataFrame, own: Mapping[str, Sequence[str]]
) -> dict[str, pd.DataFrame]:
    """The tables, with the judge's word on which words of an answer name sounds, if it has one.

    Those are tokens of `distribution_shift`; in `captions`, `events`, `heard_found` and
    `seen_found` of the answers to "hear" then count marked words alone. `own` are the words in the
    config of `captions`. An answer that was not judged has no such tokens, and no such share.
    """
    made, judged = dict(tables), set(scores[scores["what"] == "events"]["condition"])
    if "distribution_shift" in judged:
        words = marked_words(scores, "distribution_shift")
        made["distribution_shift"] = retagged(tables["distribution_shift"], words)
    if "captions" in judged:
        words, every = marked_words(scores, "captions"), replace(Events.every(own), reading="words")
        made["captions"] = _refound(tables["captions"], words, every)
    return made


def marked_words(scores: pd.DataFrame, analysis: str) -> dict[Any, tuple[str, ...]]:
    """Words that name sounds in an analysis's answers, by sample, kind and question, if judged."""
    fits = (scores["what"] == "events") & (scores["condition"] == analysis)
    known: Any = scores[fits & (scores["status"] == "judged")]
    return dict(zip(zip(*(known[key] for key in KEYS), strict=True), known["words"], strict=True))


def _refound(
    captions: pd.DataFrame, words: Mapping[Any, Sequence[str]], every: Events
) -> pd.DataFrame:
    rows: list[Any] = captions.to_dict("records")
    for row in rows:
        if row["question"] == "hear":
            judged = words.get(tuple(row[key] for key in KEYS))
            named = every.named(row["caption"] or "", marked(judged or ()))
            row["events"] = tuple(sorted(named))
            for name in ("heard", "seen"):
                known = row[name] if judged is not None else ()
                shares = [float(event in named) for event in known]
                row[f"{name}_found"] = sum(shares) / len(shares) if shares else float("nan")
    made = pd.DataFrame(rows, columns=captions.columns)
    made.attrs = captions.attrs
    return made


def _answers(tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """By analysis, the answers in which words name sounds; equal ones are judged once."""
    captions: Any = tables["captions"]
    found = {"captions": captions[captions["question"] == "hear"]}
    if "distribution_shift" in tables:
        once = tables["distribution_shift"].drop_duplicates(subset=[*KEYS])
        found["distribution_shift"] = once.rename(columns={"answer": "caption"})
    return {name: texts for name, texts in found.items() if len(texts)}


def of_other_clips(condition: str) -> str:
    """The condition of the same tokens with other clips' references, which is chance."""
    return f"{condition}, other clips"


def scores_path(out: Path, judge: str) -> Path:
    """Where a judge's scores lie; each judge's beside the other's."""
    return out / "scores" / f"{file_name(judge)}.parquet"


def conditions(knockouts: pd.DataFrame) -> pd.Series:
    """A name for each row's condition, such as "generated !-> video @ 3-5"."""

    def name(row: Any) -> str:
        if row["key"] == "none":
            return UNTOUCHED
        return f"{row['query']} !-> {row['key']} @ {row['first_layer']}-{row['last_layer']}"

    return cast(pd.Series, knockouts.apply(name, axis=1))


def _tokens(lens: pd.DataFrame) -> pd.DataFrame:
    """Every token with a letter that some layer and position says, one to a line."""
    top: Any = lens[lens["measure"] == "top"]
    words = top[top["token_text"].map(lambda text: any(c.isalpha() for c in text))]
    lists = words.groupby([*KEYS, "lens"], sort=False)["token_text"].agg(
        lambda own: "\n".join(dict.fromkeys(own))
    )
    return lists.rename("caption").reset_index().rename(columns={"lens": "condition"})
