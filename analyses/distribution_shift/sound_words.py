"""Which tokens of an answer are part of a word that names a sound?"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from analyses.cases import KEYS
from analyses.text.events import Events


def token_events(texts: Sequence[str], events: Events) -> list[tuple[str, ...]]:
    """For each token of an answer, given as texts, the events whose words it is part of."""
    named, start = [], 0
    found = events.matches("".join(texts))
    for text in texts:
        stop = max(start + len(text), start + 1)  # a piece of a character counts with its first
        own = {match.event for match in found if start < match.stop and match.start < stop}
        named.append(tuple(sorted(own)))
        start += len(text)
    return named


def first_pieces(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of those tokens with which a word that names a sound begins."""
    before: Any = table.groupby(list(KEYS), sort=False)["events"].shift()
    spaced = table["token_text"].str.match(r"\s")
    same = [own == last for own, last in zip(table["events"], before, strict=True)]
    return cast(pd.DataFrame, table[(table["events"].str.len() > 0) & (spaced | ~np.array(same))])


def retagged(
    table: pd.DataFrame, words: Mapping[tuple[str, str, str], Sequence[str]]
) -> pd.DataFrame:
    """The table with other words that name sounds, such as those that a judge has found.

    `words` of an answer are by sample, kind and question. Of an answer without an entry no token
    counts: it is missing wherever such tokens are. `events` has the word that a token is part of;
    `attrs["unmatched"]` lists, by sample and question, words that no token is part of.
    """
    parts, unmatched = [], {}
    groups: Any = table.groupby(list(KEYS), sort=False)
    for key, rows in groups:
        named = marked(words.get(key, ()))
        events = token_events(rows["token_text"].tolist(), named)
        parts.append(rows.assign(events=events))
        if lost := set(named.names).difference(*events):
            unmatched[f"{key[0]}/{key[2]}"] = sorted(lost)
    made = pd.concat(parts)
    made.attrs = {**table.attrs, "unmatched": unmatched}
    return made


def marked(words: Sequence[str]) -> Events:
    """Words that a judge marked, each an event of its own: it read the answer."""
    return Events({word: (word,) for word in map(str.lower, words)}, reading="words")
