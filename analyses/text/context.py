"""Does a word that names a sound name one here?

Not where it is denied ("no dog", "the dog is not barking"), where it means something else ("hot
dog"), or where it is a part of another word of a script without spaces. What decides is a list of
words, `context.txt`, and the order of words in a clause; no model and no statistics.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path

UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Scripts that leave no spaces between words: words are looked for inside a run of these."""

_OR = re.compile(r"\bn?or\b", re.I)
_FURTHEST = 200  # characters before a predicate in which its subject is looked for
_JOINS = re.compile(r"[,:、](?:\s*and\b)?|\band\b", re.I)
_ARTICLE = r"\b(?:the|an?|any|some|his|her|their|its|my|your|our|these|no|der|die|das|le|la|el)\s"
_INNER = "".join(rf"(?<!\b{p}\s)" for p in ("of", "in", "on", "at", "by", "or", "from", "with"))
_PHRASE = re.compile(_INNER + _ARTICLE, re.I)
_ALSO = re.compile(
    rf"(?:^|[,.;:!?]|\bbut\b)\s*(?:(?:{_ARTICLE})?\w+\s*(?:,\s*and\b|,|\band\b)\s*)+$", re.I
)
_AFTER_NOUN = re.compile(
    rf"(?:^|[.!?;,]|\band\b)\s*{_ARTICLE}\s*\w+(?:\s\w+)?\s+(?:without|instead of|rather than)$",
    re.I,
)
_ONE_NOUN = re.compile(rf"\s+(?:{_ARTICLE}\s*)?\w+(?:\s+(?!\w+s\b)\w+)?", re.I)
_PRONOUN = re.compile(r"\b(?:i|we|you|it|there|he|she|they|one)\b", re.I)
# "There is a dog, but it is not barking": the subject is what was only seen until then.
_SEEN = re.compile(
    r"\b(?:there|seen?|visible|shown?|shows|present|stands?|sits?|lies|runs|looks)\b"
    r"(?:(?!\w*(?<!stand)(?<!sitt)(?<!ly)(?<!runn)ing\b)[^.!?;\n])*?"
    r"(?:,|\b(?:but|and|yet|although|though))\s*(?:but|and)?\s*(?:(?:it|they)\s*)?$",
    re.I,
)


@lru_cache(maxsize=4096)
def denied(text: str) -> bytes:
    """For each character of a text, 1 where what stands there is denied."""
    made = bytearray(len(text))
    said = _listed("affirmed").sub(lambda match: "_" * len(match[0]), text)
    found = list(_listed("predicate", "denied").finditer(said))
    limits = [*(match.start() for match in found), len(said)][1:]
    for match, limit in zip(found, limits, strict=True):
        predicate = _listed("predicate").match(said, match.start())
        start = _subject(said, match.start()) if predicate else match.start()
        stop = _scope(said, match, limit)
        made[start:stop] = b"\1" * (stop - start)
    for match in _listed("silent").finditer(said):
        made[match.start() : match.end()] = b"\1" * len(match[0])
    return bytes(made)


@lru_cache(maxsize=4096)
def other_sense(text: str) -> bytes:
    """For each character of a text, 1 where it is of a word that is no sound here."""
    made = bytearray(len(text))
    for match in _listed("other").finditer(text):
        start, stop = match.span(match.lastindex or 0)
        made[start:stop] = b"\1" * (stop - start)
    return bytes(made)


def sounds_beside(text: str, start: int, stop: int) -> bool:
    """Whether a word for sound itself stands beside these characters: "sound of", "clinks"."""
    if _listed("sounds itself").fullmatch(text, start, stop):
        return True
    while stop < len(text) and text[stop].isspace():
        stop += 1
    before = _listed("sounds before").finditer(text, max(0, start - 40), start)
    after = _listed("sounds after").match(text, stop)
    return after is not None or any(match.end() == start for match in before)


def whole_words(run: str, entries: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where entries stand as whole words in a run of a script without spaces.

    Both neighbours of a word must be known words too, or the end of the run; those of a word of one
    character must be of the list `neighbours`, or longer: 狗 is whole in 狗在叫, not in 热狗.
    """
    known, common = {*entries}, {word for _, words in _rows("neighbours") for word in words.split()}
    longest, i, segments = max(map(len, known | common)), 0, [""]
    while i < len(run):
        sizes = range(min(longest, len(run) - i), 1, -1)
        size = next((s for s in sizes if run[i : i + s] in known | common), 1)
        segments.append(run[i : i + size])
        i += size
    stop = 0
    for before, word, after in zip(segments, segments[1:], [*segments[2:], ""], strict=False):
        stop += len(word)
        beside = {before, after} - common - {""}
        if word in known and beside <= known and (len(word) > 1 or all(len(w) > 1 for w in beside)):
            yield stop - len(word), stop


def _scope(text: str, denial: re.Match[str], limit: int) -> int:
    """Where a denial ends: with its clause, but not at a comma or "and" of its list."""
    end = _listed("ends").search(text, denial.end(), limit)
    stop = end.start() if end else limit
    opens = re.search(r"(?:^|[.!?;\n])\s*$", text[max(0, denial.start() - 9) : denial.start()])
    if _AFTER_NOUN.search(text[max(0, denial.start() - 40) : denial.end()]):
        noun = _ONE_NOUN.match(text, denial.end(), stop)  # "a dog without a collar barks"
        return noun.end() if noun else stop
    joins = list(_JOINS.finditer(text, denial.end(), stop))
    limits = [*(join.start() for join in joins), stop][1:]
    closes = max((found.start() for found in _OR.finditer(text, denial.end(), stop + 4)), default=0)
    for join, following in zip(joins, limits, strict=True):
        subjects = opens is not None and join[0].lower() == "and"  # "No dogs and cats are heard"
        part = text[join.end() : following].strip()
        if not _goes_on(part, closes > join.end() - 4, subjects):
            return join.start()
    return stop


def _goes_on(part: str, closed: bool, subjects: bool) -> bool:
    """Whether a part is one more of a list: "no dog, cat or bird", not "no dog, a cat meows"."""
    if _listed("listed").match(part):
        return True
    if not subjects and _listed("verbs").search(part):
        return False
    rest = _listed("places", "verbs").search(part)
    words = part[: rest.start() if rest else len(part)]
    if not words or (not closed and _listed("begins").match(part)):
        return False
    items = (re.sub(r"^\s*\w+ing\b(?=.)", "", item) for item in _OR.split(words))
    return all(len(item.split()) <= 1 + closed for item in items)


def _subject(text: str, stop: int) -> int:
    """Where the subject of the predicate at `stop` begins; `stop` for one without a noun."""
    furthest = max(0, stop - _FURTHEST)
    if seen := _SEEN.search(text, furthest, stop):
        phrases = _PHRASE.finditer(text, furthest, seen.end())
        return max((phrase.start() for phrase in phrases), default=stop)
    edges = [
        *_listed("ends", "says").finditer(text, furthest, stop),
        *_JOINS.finditer(text, furthest, stop),
    ]
    start = max((edge.end() for edge in edges), default=furthest)
    if _PRONOUN.search(text, start, stop):
        return stop
    start = max((phrase.start() for phrase in _PHRASE.finditer(text, start, stop)), default=start)
    also = _ALSO.search(text[furthest:start])
    return furthest + also.start() if also else start


@cache
def _listed(*names: str) -> re.Pattern[str]:
    """The lists of these names as one expression."""
    parts = []
    for name, words in _rows(*names):
        words = re.sub(r"\((?!\?)", "(?:", words.replace(" ", r"\s+").replace("'", "['\u2019]?"))
        words = re.sub(r"<(?![!=])", "(", words).replace(">", ")")
        parts.append(words if name.endswith("*") else rf"(?<!\w)(?:{words})(?!\w)")
    return re.compile("|".join(parts), re.I)


@cache
def _rows(*names: str) -> tuple[tuple[str, str], ...]:
    text = Path(__file__).with_name("context.txt").read_text(encoding="utf-8")
    rows = (line.partition(": ") for line in text.splitlines() if not line.startswith("#"))
    return tuple((name, words) for name, _, words in rows if name.rstrip("*") in names)
