"""What does one sample look like: answers, tokens, lens, knockouts, and where its attention is?

Numbers are those of the tables; rows are chosen and put in order, nothing is averaged.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analyses.explore.opened import OpenStudy
from analyses.study.judging import conditions
from analyses.text.pieces import word_ranges
from data_prep.manifest import file_name

_KEYS = ("sample", "question", "condition")
_FOUND = ("heard_found", "seen_found")
_DIGITS = 4  # of log-probabilities, in nats
Rows = list[dict[str, Any]]


class SampleTables:
    """Rows of every table by sample, so that each is looked up once."""

    def __init__(self, study: OpenStudy) -> None:
        self.study = study
        tables = dict(study.tables, scores=study.scores)
        if "knockout" in tables:
            cut = tables["knockout"]
            tables["knockout"] = cut.assign(condition=conditions(cut))
        self.tables = tables
        self.places = {
            name: table.groupby("sample", sort=False).indices for name, table in tables.items()
        }

    def rows(self, name: str, sample: str) -> Rows:
        """A sample's rows of one table."""
        at = self.places.get(name, {}).get(sample, [])
        return [] if not len(at) else _records(self.tables[name].iloc[at])

    def record(self, sample: str, clip: dict[str, Any]) -> dict[str, Any]:
        """The page's `Sample`."""
        answers, cut = self.rows("captions", sample), self.rows("knockout", sample)
        scores = {key: list(rows) for key, rows in grouped(self.rows("scores", sample), _KEYS[1:])}
        maps = {row["question"]: row for row in self.rows("attention_map", sample)}
        shifts = {
            q: rows for (q,), rows in grouped(self.rows("distribution_shift", sample), _KEYS[1:2])
        }
        tokens = {q: [*_tokens(shifts.get(q), maps.get(q))] for q in {**shifts, **maps}}
        plain = [_answer(row, "", scores) for row in answers]
        windows = [row for row in cut if row["key"] != "none"]
        lens = self.rows("logit_lens", sample)
        return {
            "id": sample,
            "kind": self.study.kinds_of[sample],
            "twin": self.study.twins.get(sample),
            "references": self._references(sample),
            "clip": clip,
            "answers": [*plain, *(_answer(row, row["condition"], scores) for row in windows)],
            "tokens": tokens,
            "words": {q: [*_words(own)] for q, own in tokens.items()},
            "lens": [_lens(k[0], k[1], r) for k, r in grouped(lens, ("question", "lens"))],
            "knockout": [_point(row, scores) for row in windows],
            "attention": {q: attention_meta(row) for q, row in maps.items()},
        }

    def _references(self, sample: str) -> dict[str, list[str]]:
        """Of the manifest, else those that the judge read."""
        known, found = self.study.samples.get(sample), {"audio": [], "video": []}
        if known is not None:
            return {"audio": [*known.audio_captions], "video": [*known.video_captions]}
        for row in self.rows("scores", sample):
            if row["what"] in found and not row["condition"]:
                found[row["what"]] = [*row["references"]]
        return found


def attention_file(row: Mapping[str, Any]) -> str:
    """Where the page finds the bytes of a row of `attention_map`."""
    return f"attention/{file_name(row['sample'])}.{row['question']}"


def attention_meta(row: Mapping[str, Any]) -> dict[str, Any]:
    """The page's `AttentionMeta`."""
    cells = {name: [*row[f"video_{name}"]] for name in ("position", "frame", "row", "column")}
    video: dict[str, Any] = {**cells, "times": [*row["frame_seconds"]]}
    for name in ("frame", "row", "column"):
        video[f"{name}s"] = max(cells[name], default=-1) + 1
    return {
        "file": attention_file(row),
        "queries": row["n_queries"],
        "layers": row["n_layers"],
        "heads": row["n_heads"],
        "kept": row["n_kept"],
        "predicts": [*range(1, row["n_queries"] + 1)],
        "segments": [*row["segments"]],
        "parts": [*zip(row["part_of"], row["part_at"], row["part_sink"], strict=True)],
        "levels": round(2 / row["sum_bound"]),
        "bound": row["bound"],
        "sinks": [*row["sinks"]],
        "grid": video if cells["position"] else None,
        "why": row["no_grid"],
    }


def _records(table: pd.DataFrame) -> Rows:
    return [
        {str(key): _plain(value) for key, value in row.items()} for row in table.to_dict("records")
    ]


def _plain(value: Any) -> Any:
    """None for what is missing, and Python's own numbers."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is pd.NA or (isinstance(value, float) and math.isnan(value)) else value


def grouped(rows: Rows, keys: tuple[str, ...]) -> Iterator[tuple[tuple[Any, ...], Rows]]:
    """Rows by their values of `keys`, in order."""
    found: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    yield from found.items()


def _answer(row: dict[str, Any], condition: str, scores: Mapping[Any, Rows]) -> dict[str, Any]:
    first, last, key = row.get("first_layer"), row.get("last_layer"), row.get("key")
    judged = scores.get((row["question"], condition), [])
    return {
        "question": row["question"],
        "condition": f"{key} @ {first}-{last}" if key else "",
        "key": key,
        "first": first,
        "last": last,
        "text": row["caption"] or "",
        "tokens": row["n_tokens"],
        "ended": row.get("ended"),
        "scores": [
            {name: one[name] for name in ("what", "judge", "score", "reason", "status")}
            for one in judged
            if one["what"] in ("audio", "video")
        ],
        **{name: row[name] for name in _FOUND},
    }


def _point(row: dict[str, Any], scores: Mapping[Any, Rows]) -> dict[str, Any]:
    judged = scores.get((row["question"], row["condition"]), [])
    return {
        "question": row["question"],
        "key": row["key"],
        "center": row["center"],
        "first": row["first_layer"],
        "last": row["last_layer"],
        "scores": {
            **{one["what"]: one["score"] for one in judged if one["what"] in ("audio", "video")},
            **{name: row[name] for name in _FOUND},
        },
    }


def _tokens(shifts: Rows | None, attended: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The tokens of the plain answer, with what the base makes of each where that is known."""
    texts = [row["token_text"] for row in shifts or ()]
    if attended is not None:
        texts = [*attended["token_text"]]
    same = shifts is not None and texts == [row["token_text"] for row in shifts]
    for step, text in enumerate(texts):
        row = shifts[step] if shifts is not None and same else {}
        likeliest = zip(row.get("base_top") or (), row.get("base_top_logprob") or (), strict=True)
        yield {
            "text": text,
            "shift": row.get("shift"),
            "rank": row.get("base_rank"),
            "logprob": row.get("logprob"),
            "base_logprob": row.get("base_logprob"),
            "kl": row.get("kl_base_model"),
            "base_top": [[word, round(logprob, _DIGITS)] for word, logprob in likeliest],
        }


def _words(tokens: Rows) -> Iterator[dict[str, Any]]:
    for start, end, text in word_ranges([token["text"] for token in tokens]):
        yield {"text": text, "from": start, "to": end}


def _lens(question: str, lens: str, rows: Rows) -> dict[str, Any]:
    """Of each layer and second, the likeliest token that names what sounds, else the likeliest."""
    cells: dict[tuple[int, int], dict[str, tuple[bool, float]]] = {}
    for row in rows:
        if row["measure"] != "top" or row["second"] is None:
            continue
        hit = not set(row["events"]).isdisjoint(row["heard"])
        own = cells.setdefault((row["layer"], int(row["second"])), {})
        found = hit, row["logprob"]
        own[row["token_text"]] = max(own.get(row["token_text"], found), found)
    layers, seconds = (sorted({at[i] for at in cells}) for i in (0, 1))
    made = [[_cell(cells.get((layer, second), {})) for second in seconds] for layer in layers]
    known = {"question": question, "lens": lens, "layers": layers, "seconds": seconds}
    return {**known, "cells": made}


def _cell(found: Mapping[str, tuple[bool, float]]) -> dict[str, Any]:
    order = sorted(found, key=lambda text: found[text], reverse=True)
    hit, logprob = found[order[0]] if order else (False, None)
    best = None if logprob is None else round(logprob, _DIGITS)
    return {"text": "".join(order[:1]), "logprob": best, "others": order[1:], "hit": hit}
