"""Is a reply a judgement?

A reply counts if it holds one JSON object with a reason, in any language, and a score or words.
Accepted around it: prose, code fences, and a thinking block, which is cut off first. Not accepted,
and requested again: no such object, several that differ, half of one, a thinking block that never
ends, a score that is no JSON number from 0 to 1, and words that the caption does not have.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from analyses.judge.judgement import Item, Judgement

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


class UnreadableError(ValueError):
    """A reply that is no judgement, and why."""


def schema(what: str) -> dict[str, Any]:
    """JSON schema of a reply; the reason comes first, so that the score follows from it."""
    if what == "events":
        second = {"words": {"type": "array", "items": {"type": "string"}}}
    else:
        second = {"score": {"type": "number"}}
    properties = {"reason": {"type": "string"}, **second}
    closed = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **closed}


def read_reply(reply: str, item: Item) -> Judgement:
    """The judgement that a reply holds; an `UnreadableError` for the judge if it holds none."""
    name = "words" if item.what == "events" else "score"
    answer = reply.rpartition("</think>")[2]
    if "<think>" in answer:
        raise UnreadableError("the thinking never ended")
    found = [one for one in _objects(answer) if name in one]
    if not found:
        raise UnreadableError(f"it had no whole JSON object with {name!r}")
    if any(one != found[0] for one in found):
        raise UnreadableError(f"it had {len(found)} JSON objects that differ")
    reason = found[0].get("reason")
    if not isinstance(reason, str) or not reason.strip():
        raise UnreadableError("the reason was missing")
    if name == "words":
        return Judgement(reason=reason.strip(), words=_words(found[0]["words"], item))
    return Judgement(_score(found[0]["score"]), reason.strip())


def _score(score: Any) -> float:
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise UnreadableError(f"the score was {score!r}, not a number")
    if not 0 <= score <= 1:  # NaN and infinity are no JSON, and refused before
        raise UnreadableError(f"the score was {score!r}, not from 0 to 1")
    return float(score)


def _words(words: Any, item: Item) -> tuple[str, ...]:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UnreadableError("the words were not a list of words")
    known = {word.lower() for word in _WORD.findall(item.text or "")}
    strange = [word for word in words if word.lower() not in known]
    # A script that leaves no spaces between words has any of its text as a word.
    if not all(word and not word.isascii() and word in (item.text or "") for word in strange):
        raise UnreadableError(f"the caption does not have the word {strange[0][:40]!r}")
    return tuple(dict.fromkeys(words))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every outermost JSON object in a text, one after the other."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
    start = text.find("{")
    while start >= 0:
        try:
            value, stop = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, stop = None, start + 1
        if isinstance(value, dict):
            yield value
        start = text.find("{", stop)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")
