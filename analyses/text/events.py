"""Which sounds does a text name?

A sound event is a row of `sounds.txt`: words for a sound, its source and its imitation, in English
and as far as listed in other languages. Reference captions name events; a text, or a token that a
lens reads, is searched for the words of these. Words count where they name a sound that is there,
as far as `context.py` can tell. No model and no statistics.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from analyses.text.context import UNSPACED, denied, other_sense, sounds_beside, whole_words
from hooked_omni.errors import ResultsError

_MARKED = "\u0300-\u036f\u0591-\u05bd\u064b-\u065f\u0900-\u0dff"  # letters with signs on them
_WORDS = re.compile(rf"[{UNSPACED}]+|(?:[^\W\d_{UNSPACED}]|[{_MARKED}])+")
_VOWELS = "aeiou"
_TAKES_ES = ("s", "x", "z", "ch", "sh", "o")


@dataclass(frozen=True)
class Match:
    """One word of a text that names a sound event.

    Attributes:
        event: Name of the event.
        word: The word or phrase as it stands in the text.
        entry: The word of the table, or of the user's own list, that it matched.
        start, stop: Where it stands in the text, in characters.
    """

    event: str
    word: str
    entry: str
    start: int
    stop: int


@dataclass(frozen=True)
class Events:
    """Sound events, and the words that name them.

    ```python
    events = Events.of(["A dog barks while sirens wail"])
    events.names                             # ("dog", "siren")
    events.found("an ambulance, 汪汪")        # frozenset({"dog", "siren"})
    events.matches("Woof!")                  # (Match("dog", "Woof", "woof", 0, 4),)
    ```

    Attributes:
        words: Entries that name each event.
        caption_words: Words of the captions by which each event was found there.
        reading: Which words of a text count: as "sounds", those that are not denied and mean a
            sound; as "things", those that are not denied; as "words", all.
    """

    words: Mapping[str, tuple[str, ...]]
    caption_words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reading: Literal["sounds", "things", "words"] = "sounds"

    @classmethod
    def of(
        cls,
        captions: Sequence[str],
        own: Mapping[str, Sequence[str]] | None = None,
        at_least: int = 1,
    ) -> "Events":
        """The events that reference captions name.

        A word that stands in several rows ("howl": dog, wolf, wind) is taken for those of them
        that another word of the captions names too; else for the row of its own name; and if there
        is none, it is an event by itself.

        Args:
            captions: References of one sample; one string is a `ResultsError`.
            own: Further words or phrases by event; an event of the table's name extends its row.
            at_least: Captions that must name an event for it to count.
        """
        if isinstance(captions, str):
            raise ResultsError(f"expected a list of captions, got one: {captions!r}. Write [...].")
        every = cls.every(own)
        matches = [(i, match) for i, text in enumerate(captions) for match in every.matches(text)]
        meant = _meant(matches)
        spelled: dict[str, list[str]] = {}
        named_in: dict[str, set[int]] = {}
        for i, match in matches:
            if match.event in meant[match.entry] or not meant[match.entry]:
                name = match.event if meant[match.entry] else match.entry
                spelled.setdefault(name, []).append(match.word.lower())
                named_in.setdefault(name, set()).add(i)
        names = [name for name in spelled if len(named_in[name]) >= at_least]
        return cls(
            {name: every.words.get(name, (name,)) for name in names},
            {name: tuple(dict.fromkeys(spelled[name])) for name in names},
        )

    @classmethod
    def every(cls, own: Mapping[str, Sequence[str]] | None = None) -> "Events":
        """Every event of the table, and the user's own."""
        rows = {name: list(words) for name, words in sounds().items()}
        for name, words in (own or {}).items():
            if isinstance(words, str) or not all(_WORDS.search(word) for word in words):
                raise ResultsError(
                    f"expected a list of words for {name!r}, got {words!r}. Write ['siren']."
                )
            rows[name] = [*rows.get(name, []), *(word.lower() for word in words)]
        return cls({name: tuple(dict.fromkeys(words)) for name, words in rows.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """The events, in the order of the table, or in which the captions name them."""
        return tuple(self.words)

    def found(self, text: str) -> frozenset[str]:
        """Names of the events that `text` names."""
        return frozenset(match.event for match in self.matches(text))

    def share(self, text: str | None) -> float:
        """Share of these events that `text` names, 0 to 1; NaN without events or without a text."""
        known = text is not None and self.names
        return len(self.found(text or "")) / len(self.names) if known else float("nan")

    def named(self, text: str, marked: "Events | None" = None) -> frozenset[str]:
        """The events found in `text`, and its words of several rows as events by themselves.

        With `marked`, those alone whose words are, or touch, words of these.
        """
        matches = self.matches(text)
        if marked is not None:
            spans = [(match.start, match.stop) for match in marked.matches(text)]
            matches = [m for m in matches if any(m.start < b and a < m.stop for a, b in spans)]
        return frozenset(
            name
            for match in matches
            for name in (match.event, match.entry)
            if name == match.event or len(self._events_of[match.entry]) > 1
        )

    def matches(self, text: str) -> tuple[Match, ...]:
        """Every word of `text` that names an event, and why; the longest phrase counts."""
        every = self._mentions(text)
        if self.reading == "words" or not every:
            return tuple(every)
        there = [match for match in every if match.start not in denied(text)]
        if self.reading == "things":
            return tuple(there)
        meant = [match for match in there if match.start not in other_sense(text)]
        plain = {m.event for m in meant if f"{m.entry}?" not in _rows().get(m.event, ())}
        return tuple(m for m in meant if m.event in plain or sounds_beside(text, m.start, m.stop))

    def _mentions(self, text: str) -> list[Match]:
        spoken, made, i = list(_spoken(text)), [], 0
        while i < len(spoken):
            first, start = spoken[i]
            if re.match(rf"[{UNSPACED}]", first):
                made += self._inside(first, start)
                i += 1
                continue
            entry, n_words = self._longest(spoken[i : i + self._most_words])
            stop = spoken[i + n_words - 1][1] + len(spoken[i + n_words - 1][0]) if entry else 0
            for event in self._events_of.get(entry, ()):
                made.append(Match(event, text[start:stop], entry, start, stop))
            i += n_words
        return made

    def _longest(self, spoken: Sequence[tuple[str, int]]) -> tuple[str, int]:
        for n_words in range(len(spoken), 0, -1):
            *before, (last, _) = spoken[:n_words]
            head = "".join(f"{word.lower()} " for word, _ in before)
            for form in base_forms(last.lower()):
                if head + form in self._events_of:
                    return head + form, n_words
        return "", 1

    def _inside(self, run: str, offset: int) -> Iterator[Match]:
        if self.reading == "sounds":
            for i, stop in whole_words(run, self._unspaced):
                for event in self._events_of.get(run[i:stop], ()):
                    yield Match(event, run[i:stop], run[i:stop], offset + i, offset + stop)
            return
        i = 0
        while i < len(run):
            sizes = range(len(run), i, -1)
            stop = next((s for s in sizes if run[i:s] in self._events_of), i + 1)
            for event in self._events_of.get(run[i:stop], ()):
                yield Match(event, run[i:stop], run[i:stop], offset + i, offset + stop)
            i = stop

    @cached_property
    def _events_of(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for event, words in self.words.items():
            for word in words:
                index.setdefault(" ".join(w for w, _ in _spoken(word)), []).append(event)
        if self.reading == "sounds":  # a fire truck is no fire, though no one asks for sirens
            for word in (word for words in sounds().values() for word in words if " " in word):
                index.setdefault(word, [])
        return index

    @cached_property
    def _unspaced(self) -> frozenset[str]:
        table = (word for words in sounds().values() for word in words)
        return frozenset(w for w in (*self._events_of, *table) if re.match(f"[{UNSPACED}]", w))

    @cached_property
    def _most_words(self) -> int:
        return max((entry.count(" ") + 1 for entry in self._events_of), default=1)


def _meant(matches: Sequence[tuple[int, Match]]) -> dict[str, set[str]]:
    """Which of its rows each entry is taken for; none if nothing decides between them."""
    rows_of: dict[str, set[str]] = {}
    for _, match in matches:
        rows_of.setdefault(match.entry, set()).add(match.event)
    clear = {row for rows in rows_of.values() if len(rows) == 1 for row in rows}
    return {entry: rows & clear or rows & {entry} for entry, rows in rows_of.items()}


@cache
def sounds() -> Mapping[str, tuple[str, ...]]:
    """The table: words by event."""
    return {name: tuple(w.removesuffix("?") for w in words) for name, words in _rows().items()}


@cache
def _rows() -> Mapping[str, list[str]]:
    """The table as it is written: a word with ? counts beside a word for sound alone."""
    lines = Path(__file__).with_name("sounds.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return {name: [word.strip() for word in words.split(",")] for name, _, words in rows}


def base_forms(word: str) -> list[str]:
    """What an English word may be a form of, itself first: plural, -s, -ing, -ed undone.

    ```python
    base_forms("barking")       # ["barking", "bark", "barke"]
    base_forms("taped")         # ["taped", "tape"]: "tap" would have doubled its p
    ```
    """
    forms = [word]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        forms.append(word[:-1])
        forms += [word[:-3] + "y"] if word.endswith("ies") else []
        forms += [word[:-2]] if word[:-2].endswith(_TAKES_ES) and word.endswith("es") else []
        forms += [word[:-3] + "f", word[:-3] + "fe"] if word.endswith("ves") else []
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 1 and _vowel_groups(stem):
            forms += _of_stem(stem)
    return forms


def _of_stem(stem: str) -> Iterable[str]:
    if stem[-1] == stem[-2]:
        return stem, stem[:-1]
    if stem.endswith("i"):
        return stem, stem[:-1] + "y"
    consonant, vowel, last = (stem[-3:-2] or "x", stem[-2], stem[-1])
    doubles = last not in (*_VOWELS, *"wxy") and vowel in _VOWELS and consonant not in _VOWELS
    if doubles and _vowel_groups(stem) == 1:
        return (stem + "e",)
    return stem, stem + "e"


def _vowel_groups(stem: str) -> int:
    return len(re.findall(r"[aeiouy]+", stem))


def _spoken(text: str) -> Iterator[tuple[str, int]]:
    return ((match[0], match.start()) for match in _WORDS.finditer(text))
