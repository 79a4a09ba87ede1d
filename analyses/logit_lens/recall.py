"""What share of the sound events that captions name do tokens name too?"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.cases import KEYS

ANY_LAYER = -1
"""Stands for all layers together."""

_N_OTHERS = 10  # other samples that stand for chance


def recall(table: pd.DataFrame, of: str = "heard") -> pd.DataFrame:
    """Share of sound events that some top token of some position names, by sample and layer.

    Args:
        table: What `logit_lens.run` returned.
        of: "heard": the events of the sample's audio captions. "seen": those of its video captions.
            "chance": the audio captions of up to ten other samples of the same kind and question,
            on average.

    Returns:
        One row per sample, lens and layer, with `sample`, `kind`, `question`, `lens`, `layer`
        (`ANY_LAYER` for all of them together) and `recall` (percent; NaN for captions that name no
        event, or no other sample).
    """
    top: Any = table.query("measure == 'top'")
    references = "seen" if of == "seen" else "heard"
    samples: list[Any] = list(top.groupby([*KEYS, references], sort=False))
    keys = [key for key, _ in samples]
    rows = []
    for i, (key, group) in enumerate(samples):
        wanted = _others(keys, i) if of == "chance" else [frozenset(key[-1])]
        for lens, layer, named in _named(group):
            shares = [len(named & events) / len(events) for events in wanted if events]
            found = 100 * float(np.mean(shares)) if shares else np.nan
            rows.append((*key[:-1], lens, layer, found))
    found = pd.DataFrame(rows, columns=[*KEYS, "lens", "layer", "recall"])
    found.attrs = table.attrs
    return found


def _others(keys: Sequence[tuple[Any, ...]], i: int) -> list[frozenset[str]]:
    """Events of the samples after sample `i`, going on from the start at the end."""
    following = [*keys[i + 1 :], *keys[:i]]
    same = [key[-1] for key in following if key[1:3] == keys[i][1:3]]
    return [frozenset(events) for events in same[:_N_OTHERS]]


def _named(group: pd.DataFrame) -> Iterator[tuple[str, int, frozenset[str]]]:
    """Lens, layer, and the events that the top tokens there name."""
    named: dict[tuple[str, int], set[str]] = {}
    for lens, layer, events in zip(group["lens"], group["layer"], group["events"], strict=True):
        for at in (int(layer), ANY_LAYER):
            named.setdefault((str(lens), at), set()).update(events)
    yield from ((lens, layer, frozenset(events)) for (lens, layer), events in named.items())
