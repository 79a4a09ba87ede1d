"""What does the lens read at each layer and position, and how likely are the reference words?"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analyses.cases import Case, Cases, embedded, tabulate
from analyses.configs import LogitLensConfig as Config
from analyses.text.events import Events
from analyses.text.vocabulary import first_tokens, text_of, tokenizer_of
from hooked_omni import EmbeddedPrompt, HookedOmni
from hooked_omni.decoding.lens import Readout, read_lens
from hooked_omni.errors import ResultsError

COLUMNS = (
    *("span", "lens", "layer", "position", "second", "measure", "k", "token_id", "token_text"),
    *("logprob", "rank", "word", "whole", "events", "heard", "seen"),
)
Place = dict[str, Any]
Words = dict[str, tuple[tuple[str, ...], dict[int, bool]]]
"""By word: the events that it names in the captions, and the tokens that stand for it."""


def run(omni: HookedOmni, cases: Cases, config: Config = Config()) -> pd.DataFrame:
    """The top tokens of each layer at each position, and how likely the reference words are there.

    Returns:
        One row per sample, lens, layer and token that was read, with

        * `sample`, `kind`, `question`: the case.
        * `span`: what was read. `lens`; `layer`: read after this block.
        * `position`; `second` of the clip, NaN if unknown.
        * `measure`: "top" for the likeliest tokens, of which `k` is the rank from 1; "word" for a
          word that was looked for, at its best position unless `words_everywhere`, without `k`.
        * `token_id`; `token_text`: a piece of a character as its bytes.
        * `logprob` in nats; `rank` in the vocabulary, from 1.
        * `word`: what was looked for; `whole`: whether the token is all of it. Of a word of several
          tokens only the first is looked for; a reference word of none has no rows.
        * `events`: list of the sound events that the token, or the word, names.
        * `heard`, `seen`: lists of the events that the sample's audio and video captions name.

    Raises:
        ResultsError: For a model without a tokenizer, or `words` that it has no token for.
    """
    tokenizer, every = tokenizer_of(omni.model), Events.every(config.own)
    own_words: Words = {word: ((), first_tokens(tokenizer, word)) for word in config.words}
    unknown = [word for word, (_, tokens) in own_words.items() if not tokens]
    if unknown:
        raise ResultsError(f"expected words that this model has tokens for, got {unknown}.")
    known: dict[int, Place] = {}

    def described(token: int) -> Place:
        """The columns of a top token; one object for all of its rows."""
        if token not in known:
            text = text_of(tokenizer, token)
            known[token] = dict(token_text=text, events=tuple(sorted(every.named(text))))
        return known[token]

    def rows(case: Case) -> Iterator[dict[str, Any]]:
        prompt = embedded(omni, case, config.span)
        events = case.events(config.own, config.at_least)
        words = dict(own_words)
        for word, event in _reference_words(events["heard"]).items():
            words[word] = (event,), first_tokens(tokenizer, word)
        words = {word: (event, tokens) for word, (event, tokens) in words.items() if tokens}
        groups = [list(tokens) for _, tokens in words.values()]
        read = read_lens(omni.model, prompt, config.span, config.lenses, config.top_k, groups)
        places = _places(prompt, config.span)
        for lens, readout in read.items():
            same = dict(lens=lens, span=config.span, **{n: e.names for n, e in events.items()})
            for row in _top_rows(readout, places):
                yield row | same | described(row["token_id"])
            for row in _word_rows(readout, places, words, config.words_everywhere):
                yield row | same | dict(token_text=described(row["token_id"])["token_text"])

    return tabulate(omni, rows, cases, COLUMNS).astype({"k": "Int64"})


def _reference_words(events: Events) -> dict[str, str]:
    """The event of each word that names one in the captions: as it stands there, and its base."""
    words: dict[str, str] = {}
    for event, spelled in events.caption_words.items():
        for word in spelled:
            words.setdefault(word, event)
            for match in replace(events, reading="words").matches(word):
                words.setdefault(match.entry, event)
    return words


def _places(prompt: EmbeddedPrompt, span: str) -> list[Place]:
    """Position and second of each token of the span."""
    spans = prompt.spans
    second = {
        int(position): float(start)
        for name, starts in spans.seconds.items()
        for position, start in zip(spans.positions[name], starts, strict=True)
    }
    return [dict(position=p, second=second.get(p, np.nan)) for p in (int(p) for p in spans[span])]


def _top_rows(readout: Readout, places: list[Place]) -> Iterator[dict[str, Any]]:
    logprobs = readout.logprobs.tolist()
    for layer, at_layer in enumerate(readout.tokens.tolist()):
        for pos, best in enumerate(at_layer):
            for k, token in enumerate(best, 1):
                row = dict(layer=layer, **places[pos], measure="top", k=k, token_id=token)
                yield row | dict(logprob=logprobs[layer][pos][k - 1], rank=k, word="", whole=True)


def _word_rows(
    readout: Readout, places: list[Place], words: Words, everywhere: bool
) -> Iterator[dict[str, Any]]:
    best = readout.group_logprobs.argmax(1).tolist()
    for layer, at_layer in enumerate(best):
        for i, (word, (event, tokens)) in enumerate(words.items()):
            for pos in range(len(places)) if everywhere else [at_layer[i]]:
                token = int(readout.group_tokens[layer, pos, i])
                row = dict(layer=layer, **places[pos], measure="word", k=None, token_id=token)
                yield row | dict(
                    logprob=float(readout.group_logprobs[layer, pos, i]),
                    rank=int(readout.group_ranks[layer, pos, i]),
                    word=word,
                    whole=tokens[token],
                    events=event,
                )
