"""Which tokens of an answer are part of a word that names a sound?"""

from collections.abc import Mapping, Sequence
from typing import Any

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


def retagged(
    table: pd.DataFrame, words: Mapping[tuple[str, str, str], Sequence[str]]
) -> pd.DataFrame:
    """The table with other words that name sounds, such as those that a judge has found.

    `words` of an answer are by sample, kind and question. Of an answer without an entry no token
    counts: it is missing wherever such tokens are. `events` has the word that a token is part of.
    """
    parts = []
    groups: Any = table.groupby(list(KEYS), sort=False)
    for key, rows in groups:
        marked = map(str.lower, words.get(key, ()))
        named = Events({word: (word,) for word in marked}, reading="words")  # it read the answer
        parts.append(rows.assign(events=token_events(rows["token_text"].tolist(), named)))
    made = pd.concat(parts)
    made.attrs = table.attrs
    return made
