"""What does the judge say of all that a study made?

Captions, also under every knockout, and, from a judge that has prompts for it, the tokens that can
be read inside the model, and which words of an answer name sounds. Each text is judged once.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.cases import KEYS, Case
from analyses.distribution_shift.sound_words import marked, retagged
from analyses.judge.judgement import Item, Judge
from analyses.judge.lookup import load_judge
from analyses.judge.points import items
from analyses.judge.record import judge_items
from analyses.logit_lens.judged import ANSWER, condition, of_other_clips
from analyses.running import results
from analyses.running.progress import ProgressCallback
from analyses.study.config import Reading, judge_of
from analyses.text.events import Events
from data_prep.manifest import file_name

_BYTES = re.compile("(<0x[0-9A-F]{2}>)+")  # as `text_of` writes a piece of a character

UNTOUCHED = "untouched"
"""The condition of the baseline in a batch of knockouts; a plain caption has none, ""."""


def require_judge(settings: Mapping[str, Any], out: Path) -> tuple[Judge, Reading]:
    """The judge of a study, and what it gets to read.

    Raises:
        JudgeError, UnknownModelError: For one that cannot be used, as far as can be known now.
        ResultsError: As `judge_of`.
    """
    name, url, given, reading = judge_of(settings)
    judge = load_judge(name, url, out / "judge-logs", **given)
    judge.require()
    return judge, reading


def judge_study(
    judge: Judge,
    tables: Mapping[str, pd.DataFrame],
    cases: Sequence[Case],
    out: Path,
    progress: ProgressCallback,
    reading: Reading,
) -> pd.DataFrame:
    """Scores of all captions and tokens, if any, written to `scores_path(out, judge.name)`.

    As of `judge_items`; `attrs["cut"]` says of which tokens there were too many for the judge.
    """
    first_only, unread = reading.first_only, []
    samples = list({case.sample: case for case in cases}.values())
    todo = list[Item]()
    if "captions" in tables:
        todo += items(tables["captions"], samples, first_only=first_only)
    if "knockout" in tables:
        cut = tables["knockout"]
        cut = cut.assign(condition=conditions(cut))
        todo += items(cut, samples, first_only=first_only)
    if "logit_lens" in tables and judge.prompt_version("recall"):
        of_recall, unread = _recall(judge, tables, samples, reading)
        todo += of_recall
    if "captions" in tables and judge.prompt_version("events"):
        for name, texts in _answers(tables).items():
            todo += items(texts.assign(condition=name), samples, ("events",))
    scores = judge_items(todo, judge, out / "judgements.jsonl", progress)
    known = next(iter(tables.values())).attrs
    of = {name: known[name] for name in ("model", "twins", "order") if name in known}
    scores.attrs |= of | {"first_only": first_only, "cut": unread}
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


def scores_path(out: Path, judge: str) -> Path:
    """Where a judge's scores lie; each judge's beside the other's."""
    return out / "scores" / f"{file_name(judge)}.parquet"


def conditions(knockouts: pd.DataFrame) -> pd.Series:
    """A name for each row's condition, such as "generated !-> video @ 3-5"."""
    columns = (knockouts[c] for c in ("key", "query", "first_layer", "last_layer"))
    names = [
        UNTOUCHED if key == "none" else f"{query} !-> {key} @ {first}-{last}"
        for key, query, first, last in zip(*columns, strict=True)
    ]
    return pd.Series(names, knockouts.index)


def _recall(
    judge: Judge, tables: Mapping[str, pd.DataFrame], samples: Sequence[Case], reading: Reading
) -> tuple[list[Item], list[str]]:
    """Tokens that layers say, the same with another clip's references, and the answers.

    Also, in words, how many tokens the judge could not read at once.
    """
    lens: Any = tables["logit_lens"]
    top = lens.loc[lens["measure"] == "top", [*KEYS, "lens", "layer", "token_text"]]
    read, first_only = set(top["sample"]), reading.first_only
    if not any(case.audio_captions for case in samples if case.sample in read):
        return [], []
    made, cut, elsewhere = [], [], _others(samples)
    rows = tables["captions"].merge(top[[*KEYS]].drop_duplicates(), on=[*KEYS])
    if len(rows):
        answers = rows["caption"].map(_on_a_line, na_action="ignore")
        answers = rows.assign(caption=answers, condition=ANSWER)
        made += items(answers, samples, ("recall",), first_only)
    words = {text: _word(text) for text in top["token_text"].unique()}
    top["caption"] = top["token_text"].map(words)
    for group in (None, *reading.groups(int(top["layer"].max()) + 1)):
        own = top[top["layer"].between(*group)] if group else top
        lists = own.groupby([*KEYS, "lens"], sort=False)["caption"].agg(_commonest).reset_index()
        lists["condition"] = [condition(one, *group) if group else one for one in lists["lens"]]
        for item in items(lists, samples, ("recall",), first_only):
            known = elsewhere[item.sample][: 1 if first_only else None]
            chance = replace(item, condition=of_other_clips(item.condition), references=known)
            # One text for both, or chance would be of other tokens.
            text = min((judge.fitted(one).text or "" for one in (item, chance)), key=len)
            made += [replace(item, text=text), replace(chance, text=text)]
            before, after = (len((t or "").split("\n")) for t in (item.text, text))
            if after < before:
                name = f"{item.sample}, {item.question}, {item.condition}"
                cut.append(f"{name}: the judge read the {after} commonest of {before} tokens")
    return made, cut


def _on_a_line(text: str) -> str:
    return " ".join(text.split())


def _word(token: str) -> str:
    """A token in lower case; "" without a letter, and for bytes that are no whole character."""
    letters = any(c.isalpha() for c in token) and not _BYTES.fullmatch(token)
    return _on_a_line(token.lower()) if letters else ""


def _commonest(words: pd.Series) -> str:
    """Each word once, to a line; equally common ones in the order of layers."""
    return "\n".join(word for word, _ in Counter(words).most_common() if word)


def _others(samples: Sequence[Case]) -> dict[str, tuple[str, ...]]:
    """Audio captions of the next sample of the same kind that has none of this sample's own.

    In the order of the manifest, after the last the first; none if there is no other.
    """
    found = {}
    for i, case in enumerate(samples):
        following = (one for one in (*samples[i + 1 :], *samples[:i]) if one.kind == case.kind)
        every = (one.audio_captions for one in following if one.audio_captions)
        others = (own for own in every if set(own).isdisjoint(case.audio_captions))
        found[case.sample] = next(others, ()) if case.audio_captions else ()
    return found
