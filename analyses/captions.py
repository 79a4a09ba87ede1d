"""What does the model say?

The plain greedy answer to each question, which the other analyses explain and a judge scores.
Beside it the share of what the reference captions name that the answer names too, by the words of
`events.py`: a first look that needs no judge. Figure 2 of arXiv 2604.02605 has a judge's scores.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analyses import fidelity
from analyses.cases import KEYS, Case, Cases, embedded, plain_answer, tabulate
from analyses.configs import CaptionsConfig as Config
from analyses.judge.points import POINTS
from analyses.plots import figures
from analyses.plots.statistics import require_rows
from analyses.text.events import Events
from hooked_omni import HookedOmni

_MOST_LISTED = 10
COLUMNS = (
    *("caption", "n_tokens", "ended", "heard_found", "seen_found", "events", "heard", "seen"),
)


def run(omni: HookedOmni, cases: Cases, config: Config = Config()) -> pd.DataFrame:
    """Greedy answers.

    Returns:
        One row per case with `sample`, `kind`, `question`, `caption`, `n_tokens`, `ended` (whether
        the model ended it, rather than the limit), and `heard_found` and `seen_found`: the share of
        the events in the audio (video) captions that the answer names, 0 to 1; NaN without any, and
        for a model without a tokenizer, whose `caption` is None. `events`, `heard` and `seen` list
        the events of the answer, and of the audio and video captions.
    """
    every = Events.every(config.own)

    def rows(case: Case) -> Iterator[dict[str, Any]]:
        answer = plain_answer(omni, case, embedded(omni, case), config.max_new_tokens)
        events = case.events(config.own)
        found = {f"{name}_found": named.share(answer.text) for name, named in events.items()}
        named = {name: tuple(sorted(own.names)) for name, own in events.items()}
        own = every.named(answer.text or "")
        row = dict(caption=answer.text, n_tokens=len(answer.tokens), **found)
        yield row | dict(ended=answer.ended, events=tuple(sorted(own)), **named)

    return tabulate(omni, rows, cases, COLUMNS)


def plot(table: pd.DataFrame) -> Figure:
    """Share of the reference events that the answers name, by kind and question.

    The answers themselves, without references to compare them with.
    """
    if _compared(table):
        return fidelity.plot(_by_words(table))
    figure, (axes,) = figures.panels(1, "")
    axes.set_axis_off()
    axes.text(0, 1, "\n".join(_answers(table)), va="top", wrap=True)
    return figure


def headline(table: pd.DataFrame) -> list[str]:
    """How much of what is heard and seen the answers name."""
    return fidelity.headline(_by_words(table)) if _compared(table) else _answers(table)


def _compared(table: pd.DataFrame) -> bool:
    """Whether any answer has reference captions that name a sound event."""
    require_rows(table)
    return bool(table[["heard_found", "seen_found"]].notna().to_numpy().any())


def _answers(table: pd.DataFrame) -> list[str]:
    """The first answers, where there is nothing to compare them with."""
    rows: Any = table.head(_MOST_LISTED).to_dict("records")
    texts = (f"{row['sample']}, {row['question']}: {row['caption']}" for row in rows)
    lines = [" ".join(text.split()) for text in texts]
    more = [f"and {len(table) - len(lines)} more, in the table"] * (len(table) > len(lines))
    return [*lines, *more, "No reference captions name a sound event: nothing is compared."]


def _by_words(table: pd.DataFrame) -> pd.DataFrame:
    """The table as scores, given by words."""
    require_rows(table)
    parts = []
    for what, column in (("audio", "heard_found"), ("video", "seen_found")):
        about = table["question"].map(lambda q, what=what: what in POINTS.get(q, (what,)))
        scores = dict(condition="", what=what, judge="words", score=table[column])
        parts.append(table[[*KEYS]].assign(**scores)[about])
    scores = pd.concat(parts, ignore_index=True)
    scores.attrs = table.attrs | {"judge": {"name": "words"}}
    return scores
