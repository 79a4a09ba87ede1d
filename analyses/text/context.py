"""Does a word that names a sound name one here?

Not where it is denied ("no dog", "the dog is not barking"), where it means something else ("hot
dog"), or where it is a part of another word of a script without spaces. What decides is a list of
words, `context.txt`, and the order of words in a clause, much as in NegEx (Chapman et al., 2001).
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path

UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Scripts that leave no spaces between words: words are looked for inside a run of these."""

_FURTHEST = 200  # characters before a predicate in which its subject is looked for
_JOIN = r"(?:[,:、](?:\s*and\b)?|\band\b)"
_ARTICLE = r"(?:\b(?:the|an?|any|some|his|her|their|its|my|your|our|no|der|die|das|le|la|el)\s+)"
_NOUNS = re.compile(rf"(?:\s*{_ARTICLE}?\w+\s*{_JOIN}\s*)*", re.I)
_NO_TWO = re.compile(r"((?:^|[.!?;\n]\s*)no\s\w+\s)and\b", re.I)  # "No dogs and cats are heard"
_ITEM = rf"\s*{_ARTICLE}?+(?:\w+\s+)?\w+\s*"  # of a list that ends with "or"
# "There is a dog, but it is not barking": the subject is what was only seen until then.
_SEEN = re.compile(
    r"\b(?:there|seen?|visible|shown?|shows)\b(?:(?!\w*ing\b)[^.!?;\n])*?"
    r"\b(?:but|yet|al?though)\s*(?:it\s*|they\s*)?$",
    re.I,
)


@lru_cache(maxsize=4096)
def denied(text: str) -> frozenset[int]:
    """Where in a text stands what it denies, in characters."""
    places = _marked("silent", text)
    said = _NO_TWO.sub(r"\1or ", text)
    said = _listed("affirmed").sub(lambda match: "_" * len(match[0]), said)
    found = list(_listed("predicate", "denied").finditer(said))
    limits = [*(match.start() for match in found), len(said)][1:]
    for match, limit in zip(found, limits, strict=True):
        predicate = _listed("predicate").match(said, match.start())
        end = _ends().search(said, match.end(), limit)
        start = _subject(said, match.start()) if predicate else match.start()
        places.update(range(start, end.start() if end else limit))
    return frozenset(places)


@lru_cache(maxsize=4096)
def other_sense(text: str) -> frozenset[int]:
    """Where in a text stands a word that is no sound there, in characters."""
    return frozenset(_marked("other", text))


def sounds_beside(text: str, start: int, stop: int) -> bool:
    """Whether a word for sound itself stands beside these characters: "sound of", "clinks"."""
    before, after = text[max(0, start - 40) : start], len(text) - len(text[stop:].lstrip())
    return bool(
        _listed("sounds itself").fullmatch(text, start, stop)
        or any(match.end() == len(before) for match in _listed("sounds before").finditer(before))
        or _listed("sounds after").match(text, after)
    )


def whole_words(run: str, entries: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where entries stand as whole words in a run of a script without spaces.

    Both neighbours of a word must be known words too, or the end of the run; those of a word of one
    character must be of the list `neighbours`, or longer: 狗 is whole in 狗在叫, not in 热狗.
    """
    known, common = {*entries}, {word for _, words in _rows("neighbours") for word in words.split()}
    longest_first = sorted(map(re.escape, known | common), key=len, reverse=True)
    segments, stop = ["", *re.findall("|".join([*longest_first, "."]), run)], 0
    for before, word, after in zip(segments, segments[1:], [*segments[2:], ""], strict=False):
        stop += len(word)
        beside = {before, after} - common - {""}
        if word in known and beside <= known and (len(word) > 1 or all(len(w) > 1 for w in beside)):
            yield stop - len(word), stop


def _subject(text: str, stop: int) -> int:
    """Where the subject of the predicate at `stop` begins: with its clause, or after an "and"."""
    furthest = max(0, stop - _FURTHEST)
    if seen := _SEEN.search(text, furthest, stop):
        nouns = re.finditer(_ARTICLE, text[: seen.end()], re.I)
        return max((noun.start() for noun in nouns), default=stop)
    edges = _listed("ends", "says").finditer(text, furthest, stop)
    clause = max((edge.end() for edge in edges), default=furthest)
    nouns = _NOUNS.match(text, clause, stop)  # "The dog and the cat are not heard"
    joins = re.compile(_JOIN, re.I).finditer(text, nouns.end() if nouns else clause, stop)
    return max((join.end() for join in joins), default=clause)


@cache
def _ends() -> re.Pattern[str]:
    """Where a denial ends: with its clause, or at a comma or "and" that is not of its list."""
    begins, places = _listed("begins").pattern, _listed("places").pattern
    word = rf"(?!{begins})(?:\w+ing\s+)?\w+\s*(?=$|[^\w\s]|(?:and|n?or)\b|{places})"
    more = rf"{_listed('listed').pattern}|{word}|(?:{_ITEM},){{0,9}}{_ITEM},?\s*n?or\b"
    return re.compile(rf"{_listed('ends').pattern}|{_JOIN}(?!\s*(?:{more}))", re.I)


def _marked(name: str, text: str) -> set[int]:
    """Where words of a list stand, or what is marked in them."""
    found = _listed(name).finditer(text)
    return {i for match in found for i in range(*match.span(match.lastindex or 0))}


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
