"""Which sounds can be read off the audio positions inside the model?

The residual stream after every block is unembedded at every audio (or video) position. The
likeliest tokens are kept, onomatopoeia and words of other languages as they are, and so are the
log-probability and rank of the words by which the reference captions name what is heard. An event
is recalled in a layer if a token there names it, by the lexical matcher of `events.py`; the paper
has a language model judge the tokens. Figure 5 of arXiv 2604.02605: latent audio understanding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses.cases import KEYS, Asked, Case, door, tabulate
from analyses.logit_lens.recall import ANY_LAYER, listed, recall
from analyses.plots.figures import draw, layers_below
from analyses.plots.published import published
from analyses.plots.statistics import in_words, mean_band
from analyses.text.events import Events
from analyses.text.vocabulary import first_tokens, text_of, tokenizer_of
from hooked_omni import EmbeddedPrompt, HookedOmni
from hooked_omni.decoding.lens import LENSES, LensKind, Readout, read_lens
from hooked_omni.errors import ResultsError

__all__ = ["Config", "headline", "plot", "run"]

_COLUMNS = (
    *(
        "span",
        "lens",
        "layer",
        "position",
        "second",
        "measure",
        "place",
        "token",
        "text",
        "logprob",
    ),
    *("rank", "word", "whole", "event", "heard", "seen"),
)


@dataclass(frozen=True)
class Config:
    """Where to read, with which lens, and which words to ask for.

    Attributes:
        span: SpanPositions to read: "audio", "video", or any span, such as "audio@3.0-4.0s".
        lenses: "norm" puts the final norm before the unembedding, "raw" does not (the paper's
            scripts).
        top_k: How many of the likeliest tokens to keep at each position.
        words: Words to ask for besides those of the reference captions.
        words_everywhere: Keep a row for every word and position, not for its best one alone.
        own: Words or phrases by sound event, besides the table of `events.py`.
        at_least: Reference captions that must name an event for it to count.
    """

    span: str = "audio"
    lenses: tuple[LensKind, ...] = LENSES
    top_k: int = 1
    words: tuple[str, ...] = ()
    words_everywhere: bool = False
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)
    at_least: int = 1


def run(omni: HookedOmni, cases: Asked, config: Config = Config()) -> pd.DataFrame:
    """What each layer says at each position, and how likely the words are that it should say.

    Args:
        omni: The model.
        cases: Who is asked what; without reference captions there is nothing to recall.
        config: What to read.

    Returns:
        One row per sample, lens, layer and token that was read, with the columns

        * `sample`, `kind`, `question`: the case.
        * `span`: what was read. `lens`; `layer`: read after this block.
        * `position`; `second` of the clip, NaN if unknown.
        * `measure`: "top" for the likeliest tokens, which `place` counts from 1; "word" for a word
          that was asked for, at its best position unless `words_everywhere`, with a `place` of 0.
        * `token`; `text`: a piece of a character is shown as its bytes.
        * `logprob` in nats; `rank` from 1.
        * `word`: what was asked for; `whole`: whether the token is all of it. Of a word of several
          tokens only the first is looked for; a reference word of none has no rows.
        * `event`: sound events that the text, or the word, names, comma-separated.
        * `heard`, `seen`: events that the sample's audio and video captions name.

    Raises:
        ResultsError: For a model without a tokenizer, or `words` that it has no token for.
    """
    tokenizer, every = tokenizer_of(omni.model), Events.every(config.own)
    said: dict[int, tuple[str, str]] = {}
    own_words = {word: ("", first_tokens(tokenizer, word)) for word in config.words}
    unsaid = [word for word, (_, tokens) in own_words.items() if not tokens]
    if unsaid:
        raise ResultsError(f"expected words that this model has tokens for, got {unsaid}.")

    def says(token: int) -> tuple[str, str]:
        if token not in said:
            text = text_of(tokenizer, token)
            said[token] = text, ", ".join(sorted(every.named(text)))
        return said[token]

    def rows(case: Case) -> Iterator[dict[str, Any]]:
        prompt = door(omni, case, config.span)
        heard = Events.of(case.audio_captions, config.own, config.at_least)
        seen = Events.of(case.video_captions, config.own, config.at_least)
        asked = dict(own_words)
        for word, event in _reference_words(heard).items():
            asked[word] = event, first_tokens(tokenizer, word)
        asked = {word: (event, tokens) for word, (event, tokens) in asked.items() if tokens}
        read = read_lens(
            omni.model,
            prompt,
            config.span,
            config.lenses,
            config.top_k,
            [list(tokens) for _, tokens in asked.values()],
        )
        known: dict[str, Any] = dict(span=config.span)
        known |= dict(heard=", ".join(heard.names), seen=", ".join(seen.names))
        places = _places(prompt, config.span)
        for lens, readout in read.items():
            for row in _top_rows(readout, places):
                text, event = says(row["token"])
                yield dict(lens=lens, **row, text=text, word="", whole=True, event=event, **known)
            for row in _word_rows(readout, places, list(asked), config.words_everywhere):
                event, tokens = asked[row["word"]]
                text, whole = says(row["token"])[0], tokens[row["token"]]
                yield dict(lens=lens, **row, text=text, whole=whole, event=event, **known)

    return tabulate(rows, cases, _COLUMNS)


def _reference_words(events: Events) -> dict[str, str]:
    """The event of each word that names one in the captions: as it stands there, and its base."""
    words: dict[str, str] = {}
    for event, said in events.said.items():
        for word in said:
            words.setdefault(word, event)
            for match in events.matches(word):
                words.setdefault(match.entry, event)
    return words


def _places(prompt: EmbeddedPrompt, span: str) -> list[dict[str, Any]]:
    """Position and second of each token of the span."""
    spans = prompt.spans
    second = {
        int(position): float(start)
        for name, starts in spans.seconds.items()
        for position, start in zip(spans.positions[name], starts, strict=True)
    }
    return [dict(position=p, second=second.get(p, np.nan)) for p in (int(p) for p in spans[span])]


def _top_rows(readout: Readout, places: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    tokens, logprobs = readout.tokens.tolist(), readout.logprobs.tolist()
    for layer, at_layer in enumerate(tokens):
        for pos, best in enumerate(at_layer):
            for k, token in enumerate(best):
                yield dict(
                    layer=layer,
                    **places[pos],
                    measure="top",
                    place=k + 1,
                    token=token,
                    logprob=logprobs[layer][pos][k],
                    rank=k + 1,
                )


def _word_rows(
    readout: Readout, places: list[dict[str, Any]], words: list[str], everywhere: bool
) -> Iterator[dict[str, Any]]:
    best = readout.group_logprobs.argmax(1).tolist()
    for layer, at_layer in enumerate(best):
        for i, word in enumerate(words):
            for pos in range(len(places)) if everywhere else [at_layer[i]]:
                yield dict(
                    layer=layer,
                    **places[pos],
                    measure="word",
                    place=0,
                    token=int(readout.group_tokens[layer, pos, i]),
                    logprob=float(readout.group_logprobs[layer, pos, i]),
                    rank=int(readout.group_ranks[layer, pos, i]),
                    word=word,
                )


def plot(table: pd.DataFrame) -> Figure:
    """A row of panels for each lens: recall, log-probability of reference words, recall in time.

    Dotted: the same for the events of other samples, which is chance. For a model of 36 layers, the
    paper's number for Qwen2.5-Omni-3B stands in the first panel.
    """
    lenses = list(dict.fromkeys(table["lens"]))
    figure = Figure(figsize=(15, 3.8 * len(lenses)), layout="constrained")
    grid = figure.subplots(len(lenses), 3, squeeze=False)
    heard, chance, words = recall(table), recall(table, "chance"), _word_curves(table)
    for (left, middle, right), lens in zip(grid, lenses, strict=True):
        left.set(ylabel="sound events recalled, %", ylim=(0, 100), title=f"lens: {lens}")
        middle.set(ylabel="log p of reference words, nats", title="best position, mean over events")
        _curves(left, heard.query("lens == @lens"), "recall", "-", "")
        _curves(left, chance.query("lens == @lens"), "recall", ":", ", by chance")
        _curves(middle, words.query("lens == @lens"), "logprob", "-", "")
        if len(set(table["layer"])) == 36:
            left.axhline(_published(), color="black", ls="--", lw=1, alpha=0.5, zorder=0)
            note = f"published, all layers, judged: {_published()} %"
            left.annotate(note, (0, _published()), va="bottom", fontsize="small")
        _heat(figure, right, table.query("lens == @lens"))
        for axes in (left, middle):
            layers_below(axes)
            axes.spines[["top", "right"]].set_visible(False)
            if axes.get_lines():
                axes.legend(frameon=False, fontsize="small")
    return figure


def _published() -> float:
    scalars = published("scalars").set_index(["model", "quantity"])
    return float(scalars.at[("qwen2.5-omni-3b", "latent_audio_recall"), "value"])  # pyright: ignore[reportArgumentType]


def _curves(axes: Axes, table: pd.DataFrame, value: str, style: str, note: str) -> None:
    known = table.query("layer != @ANY_LAYER").dropna(subset=[value])
    if known.empty:
        return
    bands = mean_band(table.query("layer != @ANY_LAYER"), value, by=["kind", "question", "layer"])
    groups: Any = bands.groupby(["kind", "question"], sort=False)
    for i, ((kind, question), band) in enumerate(groups):
        draw(axes, band, "layer", f"C{i}", f"{kind}, {question}{note}", style)


def _word_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over a sample's events of the log-probability of the likeliest word for each."""
    words: Any = table.query("measure == 'word' and event != ''")
    keys = [*KEYS, "lens", "layer"]
    best = words.groupby([*keys, "event"], sort=False, as_index=False)["logprob"].max()
    return best.groupby(keys, sort=False, as_index=False)["logprob"].mean()


def _heat(figure: Figure, axes: Axes, table: pd.DataFrame) -> None:
    """How many positions of each second say something that is heard."""
    top: Any = table.query("measure == 'top' and heard != ''").dropna(subset=["second"])
    n = len(top[["sample", "question"]].drop_duplicates())
    axes.set(title=f"positions that name what is heard, % (n = {n})")
    axes.set(xlabel="second of the clip", ylabel="layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if top.empty:
        return
    said = zip(top["event"], top["heard"], strict=True)
    hits = [100.0 * bool(listed(event) & listed(heard)) for event, heard in said]
    top = top.assign(hit=hits, second=top["second"].astype(int))
    once = ["sample", "question", "layer", "second", "position"]
    named = top.groupby(once, as_index=False)["hit"].max()
    share = named.pivot_table("hit", index="layer", columns="second")
    drawn = axes.pcolormesh(share.columns, share.index, share, cmap="magma", vmin=0, vmax=100)
    figure.colorbar(drawn, ax=axes)


def headline(table: pd.DataFrame) -> list[str]:
    """How much of what is heard can be read inside the model, by kind, question and lens."""
    heard, chance = recall(table), recall(table, "chance")
    lines, groups = [], cast(Any, heard.groupby(["kind", "question", "lens"], sort=False))
    for (kind, question, lens), part in groups:
        title = f"{kind}, {question}, lens {lens}"
        bands: Any = mean_band(part, "recall", by=["layer"])
        if not bands["n"].any():
            lines.append(f"{title}: no sample has captions that name a sound event.")
            continue
        points = {point["layer"]: point for point in bands.to_dict("records")}
        anywhere = points.pop(ANY_LAYER)
        best = max(points.values(), key=lambda point: point["mean"])
        same = "kind == @kind and question == @question and lens == @lens and layer == @ANY_LAYER"
        others = mean_band(chance.query(same), "recall", by=["layer"]).to_dict("records")[0]
        by_chance = f" (events of other clips: {in_words(others)})" if others["n"] else ""
        lines.append(
            f"{title}: {in_words(anywhere)} of the sound events that the captions name can be read "
            f"off in some layer{by_chance}; in the best one, {best['layer']}, {in_words(best)}."
        )
    return [*lines, f"Published for Qwen2.5-Omni-3B, all layers, judged: {_published()} %."]
