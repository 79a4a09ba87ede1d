"""Is a reply a judgement?

A reply counts if it holds one JSON object with a reason, in any language, and a score or words.
Accepted around it: prose, code fences, and a thinking block, which is cut off first. Not accepted,
and requested again: no such object, several that differ, one inside anything else, an object that
is no JSON beside it, a thinking block that never ends, a score that is no JSON number from 0 to 1,
and words that the caption does not have.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from analyses.judge.judgement import Item, Judgement
from hooked_omni.files import parse_json

_LONGEST = 100_000  # characters of an answer
_OPENS = re.compile(r"\{|\[(?=[^\[\]{}()]*[\[{])")  # not a list of prose, such as [0, 1)
_FLAT = r'[\[{](?:[^\[\]{}"]%s)*+[\]}]'
_PROSE = re.compile(_FLAT % ("|" + _FLAT % ("|" + _FLAT % "")))  # {brackets} without a text
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
    if len(answer) > _LONGEST:
        raise UnreadableError(f"it was longer than {_LONGEST} characters")
    found = list(_objects(answer, name))
    if not found:
        raise UnreadableError(f"it had no whole JSON object with {name!r}")
    if any(one != found[0] for one in found):
        raise UnreadableError(f"it had {len(found)} JSON objects that differ")
    reason = found[0].get("reason")
    if not isinstance(reason, str) or not reason.strip() or re.search("[\ud800-\udfff]", reason):
        raise UnreadableError("the reason was missing, or no text")
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


def _objects(text: str, name: str) -> Iterator[dict[str, Any]]:
    """Every outermost JSON object with a field of that name, one after the other.

    One that is no JSON, and such a field anywhere else in brackets, is an error.

    Linear in the length: each outermost bracket is parsed to its end once, and checked once.
    """
    stop, named = 0, re.compile(rf"\b{name}['\"]?\s*[:=]")
    while opening := _OPENS.search(text, stop):
        start = opening.start()
        prose = _PROSE.match(text, start)
        if prose and not named.search(prose[0]):
            stop = prose.end()
            continue
        try:
            _, stop = json.JSONDecoder().raw_decode(text, start)
            value = parse_json(text[start:stop], "a reply")
        except (ValueError, RecursionError) as error:
            raise UnreadableError("it had an object that is no JSON") from error
        if isinstance(value, dict) and name in value:
            yield value
        elif named.search(text[start:stop]):
            raise UnreadableError(f"it had {name!r} inside something else")
