"""What does a whole study look like: claims, figures as numbers, and a row for each sample?"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from analyses import fidelity
from analyses.explore.opened import DRAWN, OpenStudy
from analyses.explore.samples import grouped
from analyses.plots import figures, published
from analyses.plots.numbers import panels
from analyses.study import report
from analyses.study.claims import check
from analyses.text.pieces import word_ranges
from data_prep.manifest import file_name, read_facts
from data_prep.pairing.embedding import unlike_the_paper
from hooked_omni.errors import ResultsError

_FOUND = {"audio": "heard_found", "video": "seen_found"}


def study_record(
    study: OpenStudy, others: list[dict[str, Any]], whole: bool = True
) -> dict[str, Any]:
    """The page's `Study`; `others` are the names and samples of every study of the site.

    Claims and figures, which take time, are left out unless it is `whole`.
    """
    ratings = study.sources.ratings if study.sources else ()
    findings = check(study.tables, study.scores, ratings) if whole else []
    kinds = sorted(set(study.kinds_of.values()), key=figures.place)
    tables: Any = [study.tables.get("captions"), *study.tables.values()]
    questions = [one for table in tables if table is not None for one in table["question"]]
    base = study.tables.get("distribution_shift", pd.DataFrame()).attrs.get("base")
    judge = study.scores.attrs.get("judge", {}).get("name")
    return {
        "schema": 1,
        "name": study.name,
        "title": f"What {study.model} sees and hears",
        "model": study.model,
        "base": base,
        "judge": judge,
        "summary": [report.in_brief(study.model, kinds, findings)] * whole,
        "settings": [*_settings(study)],
        "versions": [*next(iter(study.runs.values()))["versions"].items()],
        "warnings": [*_warnings(study)],
        "missing": [{"stage": name, "reason": why} for name, why in study.missing.items()],
        "claims": [
            {
                "claim": one.claim.sentence,
                "published": f"{one.claim.published} ({one.claim.source})",
                "ours": one.ours,
                "direction": one.verdict,
                "size": one.size,
            }
            for one in findings
        ],
        "figures": [one for name in study.tables if whole for one in _figures(study, name)],
        "samples": [*_rows(study)],
        "questions": list(dict.fromkeys(questions)),
        "others": others,
    }


def _settings(study: OpenStudy) -> Iterator[tuple[str, str]]:
    first = next(iter(study.runs.values()))
    facts, model = first["facts"], first["facts"]["model"]
    counts = pd.Series(study.kinds_of).value_counts(sort=False)
    yield "samples", ", ".join(f"{n} {kind}" for kind, n in counts.items())
    yield "data", ", ".join(one["file"] for one in facts["data"])
    yield "model", ", ".join(str(model[key]) for key in ("name", "family", "dtype"))
    yield "judge", str(study.scores.attrs.get("judge", {}).get("name", "none"))
    yield "rope", str(facts["rope"])
    yield "system prompt", str(facts["system"] or "the family's own")
    yield "order", next(iter(study.tables.values())).attrs.get("order", "unknown")
    for name, run in study.runs.items():
        set_to = ", ".join(f"{key} {value}" for key, value in run["config"].items())
        yield name, set_to


def _warnings(study: OpenStudy) -> Iterator[str]:
    name = str(next(iter(study.tables.values())).attrs.get("model"))
    if "not the original's numbers" in name:
        yield f"Of {name}; nothing published is compared with it."
    made = {} if study.manifest is None else read_facts(study.manifest)
    yield from (note for note in (unlike_the_paper(made), published.note(study.model)) if note)
    for stage, table in study.tables.items():
        if skipped := table.attrs.get("skipped", {}):
            case, why = next(iter(skipped.items()))
            count = f"{len(skipped)} of {table.attrs['n_cases']} cases skipped"
            yield f"{stage}: {count}; {case}: {why}"
    for stage in (name for name in study.tables if name not in DRAWN):
        yield f"{stage}: its figure and sentences are below; of single samples nothing is drawn"
    gone = {k: n for k, n in study.scores.attrs.get("missing", {}).items() if n}
    yield from (f"judge: {n} judgements of {what} missing" for what, n in gone.items())


def _figures(study: OpenStudy, name: str) -> Iterator[dict[str, Any]]:
    """The numbers that the report's figure draws, and its sentences."""
    table, scores = study.tables[name], study.scores
    if name in ("captions", "knockout") and scores.empty:
        return
    source, own = report.source_of(name, table, scores)
    with suppress(ResultsError):  # nothing to draw; the report says so, too
        caption, drawn = report.sentences(name, table, scores), panels(source.plot(*own))
        for form, found in drawn.items():
            more = f"_{form}s" if len(drawn) > 1 and form == "bar" else ""
            title = report.FIGURES[name][1]
            yield dict(id=name + more, title=title, caption=caption, panels=found, form=form)


def _rows(study: OpenStudy) -> Iterator[dict[str, Any]]:
    """A row for each sample; numbers are those of the tables."""
    captions = _by_sample(study.tables.get("captions"))
    scored = _by_sample(fidelity.plain(study.scores))
    shifts = _by_sample(study.tables.get("distribution_shift"))
    faithful = {sample: _fidelity(rows) for sample, rows in scored.items()}
    for sample, kind in study.kinds_of.items():
        answers, own = captions.get(sample, []), faithful.get(sample, {})
        twin = study.twins.get(sample)
        heard, theirs = (one.get("hear/audio") for one in (own, faithful.get(twin or "", {})))
        tokens = shifts.get(sample, [])
        firsts = [row for _, own in grouped(tokens, ("question",)) for row in _first_of_words(own)]
        yield {
            "id": sample,
            "file": file_name(sample),
            "kind": kind,
            "heard": _named(study, sample, answers, "heard"),
            "seen": _named(study, sample, answers, "seen"),
            "twin": twin,
            "fidelity": own,
            "drop": None if heard is None or theirs is None else theirs - heard,
            "shift": _mean([1.0 * (row["shift"] == "shifted") for row in firsts]),
            "disagreement": _disagreement(answers, scored.get(sample, [])),
            "answers": {row["question"]: row["caption"] or "" for row in answers},
        }


def _by_sample(table: pd.DataFrame | None) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in [] if table is None else table.to_dict("records"):
        found.setdefault(str(row["sample"]), []).append({str(k): v for k, v in row.items()})
    return found


def _first_of_words(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first token of each word of one answer."""
    return [tokens[at] for at, _, _ in word_ranges([row["token_text"] for row in tokens])]


def _fidelity(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    return {
        f"{row['question']}/{row['what']}": None if pd.isna(row["score"]) else float(row["score"])
        for row in rows
    }


def _named(study: OpenStudy, sample: str, answers: list[dict[str, Any]], what: str) -> list[str]:
    """The events that the captions name, else the first caption."""
    events = [*answers[0][what]] if answers else []
    captions = {"heard": "audio_captions", "seen": "video_captions"}[what]
    return events or list(getattr(study.samples.get(sample), captions, ())[:1])


def _disagreement(answers: list[dict[str, Any]], scored: list[dict[str, Any]]) -> float | None:
    """How far the judge is from the words of `events.py`, mean over the answers."""
    by_words: Mapping[Any, Any] = {
        (row["question"], what): row[column] for row in answers for what, column in _FOUND.items()
    }
    apart = [
        abs(row["score"] - by_words.get((row["question"], row["what"]), np.nan)) for row in scored
    ]
    return _mean([one for one in apart if not pd.isna(one)])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
