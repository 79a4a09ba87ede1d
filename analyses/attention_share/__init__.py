"""Where do the words of an answer look?

For every layer, the attention that generated positions pay to audio, to video and to text, and to
the parts of the text. The answer is made, and then read once more in one pass (teacher forcing), in
which the generated positions' patterns are reduced, a layer at a time, and never kept. Figure 4 of
arXiv 2604.02605, where audio, video and query text add up to 100 %.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from analyses.attention_share.forced_attention import forced_shares
from analyses.attention_share.sinks import SinkWatch
from analyses.cases import Asked, Case, Skip, door, plain_answer, tabulate
from analyses.plots import figures
from analyses.plots.published import published
from analyses.plots.statistics import in_words, mean_band
from analyses.text.pieces import pieces, words
from hooked_omni import EmbeddedPrompt, HookedOmni
from hooked_omni.decoding.generate import Generation
from hooked_omni.decoding.prefill import prefill
from hooked_omni.errors import ResultsError

__all__ = ["COLUMNS", "Config", "headline", "percents", "plot", "run"]

COLUMNS = (
    *("layer", "head", "token", "token_text", "saying", "segment"),
    *("share", "percent", "per_key", "n_keys", "n_queries", "answer"),
)
_THREE = ("audio", "video", "text")
_COLORS = {"audio": "tab:orange", "video": "tab:blue", "text": "tab:gray"}
_LABELS = {"audio": "audio", "video": "video", "text": "query text"}


@dataclass(frozen=True)
class Config:
    """How long to listen, and what to tell apart.

    Attributes:
        max_new_tokens: Longest answer, in tokens; 50 in the paper's scripts.
        segments: Spans that share out the attention. "text" is all that is neither audio nor
            video, the paper's query text, and the sum of "question", "system" and "markup";
            "generated" is the answer so far.
        heads: Rows for each head, in place of their mean.
        tokens: Rows for each generated position, in place of their mean.
        sinks: "kept" counts them as what else they are; "apart" finds them (see `sinks.py`), takes
            them out of every segment, and gives them one of their own, "sink".
    """

    max_new_tokens: int = 50
    segments: tuple[str, ...] = (*_THREE, "question", "system", "markup", "generated")
    heads: bool = False
    tokens: bool = False
    sinks: Literal["kept", "apart"] = "kept"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 2:
            raise ResultsError(
                f"expected at least 2 new tokens, got {self.max_new_tokens}: no pass reads the "
                "last one, so an answer of one attends to nothing."
            )
        if self.sinks not in ("kept", "apart") or not self.segments or "sink" in self.segments:
            raise ResultsError(
                f"expected sinks 'kept' or 'apart' and segments other than 'sink', got "
                f"{self.sinks!r} and {self.segments!r}."
            )


def run(omni: HookedOmni, cases: Asked, config: Config = Config()) -> pd.DataFrame:
    """Share of attention per sample, layer and segment; per head and per token on request.

    The queries are the generated positions: all new tokens but the last, which is never read by
    another pass. The last prompt position, from which the first new token is chosen, is not one.

    Args:
        omni: The model.
        cases: Who is asked what.
        config: What to measure.

    Returns:
        One row per case, layer, segment of the prompt, and head and token if asked for, with the
        columns

        * `sample`, `kind`, `question`: the case.
        * `layer`; `head` (missing for the mean over heads).
        * `token`: the generated position that looks, counted from 0 (missing for the mean);
          `token_text`: the token that stands there; `saying`: the word whose next token is chosen
          from there, so that "what does 'siren' look at" is `table[table["saying"] == "siren"]`.
        * `segment`.
        * `share`: of all attention, 0 to 1.
        * `percent`: of the attention on audio, video and text, the paper's 100 %; only of segments
          in the prompt, missing for "generated" and "sink".
        * `per_key`: share divided by the segment's part of all keys that may be read at that step;
          uniform attention is 1. Missing where there is no key.
        * `n_keys`: tokens of the segment in the prompt; 0 for "generated".
        * `n_queries`: generated positions in the mean, or 1.
        * `answer`.

        A clip without sound has no rows for audio. An answer without a generated position that
        looks at anything is skipped.
    """

    def rows_of(case: Case) -> Iterator[dict[str, Any]]:
        prompt = prefill(omni.model, door(omni, case), SinkWatch.at(omni.model))
        answer = plain_answer(omni, case, prompt, config.max_new_tokens)
        yield from _rows(omni, prompt, config, answer)

    table = tabulate(rows_of, cases, COLUMNS)
    return table.astype({"head": "Int64", "token": "Int64"})


def _rows(
    omni: HookedOmni, prompt: EmbeddedPrompt, config: Config, answer: Generation
) -> Iterator[dict[str, Any]]:
    segments = [s for s in config.segments if s == "generated" or s in prompt.spans]
    measured = tuple(dict.fromkeys([*segments, *(s for s in _THREE if s in prompt.spans)]))
    if len(answer.tokens) < 2:
        raise Skip(
            f"expected an answer of two tokens or more, got {answer.text!r}: no generated position "
            "attends to anything."
        )
    watch = SinkWatch(omni.model, prompt) if config.sinks == "apart" else None
    more = [] if watch is None else watch.hooks()
    shares = forced_shares(omni.model, prompt, answer.tokens, measured, more)
    n_keys = {s: len(prompt.spans[s]) if s in prompt.spans else 0 for s in measured}
    if watch is not None:
        _take_out_sinks(watch, prompt, shares, n_keys)
        segments.append("sink")
    n_real = prompt.n_pos if prompt.mask is None else int((prompt.mask != 0).sum())
    yield from _measures(shares, n_keys, segments, n_real, config, _said(omni, answer))


def _take_out_sinks(
    watch: SinkWatch, prompt: EmbeddedPrompt, shares: dict[str, Tensor], n_keys: dict[str, int]
) -> None:
    sinks, paid = watch.sinks(), watch.paid().double()
    for segment in [s for s in shares if s in prompt.spans]:
        inside = torch.isin(sinks, prompt.spans[segment])
        shares[segment] = shares[segment] - paid[..., inside].sum(-1)
        n_keys[segment] -= int(inside.sum())
    shares["sink"], n_keys["sink"] = paid.sum(-1), len(sinks)


@dataclass(frozen=True)
class _Said:
    """An answer, and at each of its queries the token that stands there and the word that comes."""

    text: str | None
    tokens: list[str]
    words: list[str]


def _measures(
    shares: dict[str, Float[Tensor, "query layer head"]],
    n_keys: dict[str, int],
    segments: list[str],
    n_prompt: int,
    config: Config,
    said: _Said,
) -> Iterator[dict[str, Any]]:
    three = torch.stack([shares[s] for s in _THREE if s in shares]).sum(0)
    n_queries, n_layers, n_heads = three.shape
    own = torch.arange(1, n_queries + 1).double()  # a query reads itself too
    tokens: list[int | None] = list(range(n_queries)) if config.tokens else [None]
    heads: list[int | None] = list(range(n_heads)) if config.heads else [None]
    reduced = [0] * (not config.tokens) + [2] * (not config.heads)
    for segment in segments:
        keys = own if segment == "generated" else torch.full_like(own, n_keys[segment])
        per_key = shares[segment] * ((n_prompt + own) / keys)[:, None, None]
        share, per_key, whole = (
            t.mean(reduced, keepdim=True) if reduced else t
            for t in (shares[segment], per_key, three)
        )
        of_three = segment not in ("generated", "sink")
        percent = 100 * share / whole if of_three else torch.full_like(share, torch.nan)
        columns = [t.tolist() for t in (share, percent, per_key)]
        for q, token in enumerate(tokens):
            for layer in range(n_layers):
                for h, head in enumerate(heads):
                    numbers = (column[q][layer][h] for column in columns)
                    yield dict(
                        layer=layer,
                        head=head,
                        token=token,
                        token_text=None if token is None else said.tokens[token],
                        saying=None if token is None else said.words[token],
                        segment=segment,
                        **dict(zip(("share", "percent", "per_key"), numbers, strict=True)),
                        n_keys=n_keys.get(segment, 0),
                        n_queries=n_queries if token is None else 1,
                        answer=said.text,
                    )


def _said(omni: HookedOmni, answer: Generation) -> _Said:
    tokens, tokenizer = answer.tokens.tolist(), omni.model.tokenizer
    if tokenizer is None:
        return _Said(answer.text, [str(t) for t in tokens], [""] * len(tokens))
    read = pieces(tokenizer, tokens)
    return _Said(answer.text, read, words(read)[1:])


def plot(table: pd.DataFrame) -> Figure:
    """Mean over samples per layer, with 95 % bands; audio, video and text add up to 100 %.

    One panel for each kind and question. Samples without all the segments that others have are
    left out, as the title says: their 100 % is another. For a model of 36 layers, the paper's
    certain points for Qwen2.5-Omni-3B are drawn underneath.

    Raises:
        ResultsError: For a table without rows.
    """
    shown = percents(table)
    groups = list(shown.groupby(["kind", "question"], sort=False))
    figure, panels = figures.panels(len(groups))
    for axes, (_, group) in zip(panels, groups, strict=True):
        _panel(axes, group)
    left_out = len(set(table["sample"]) - set(shown["sample"]))
    if left_out:
        figure.suptitle(f"{left_out} samples without all of audio, video and text left out")
    panels[0].set(ylabel="share of attention, %", ylim=(0, 100))
    return figure


def _panel(axes: Axes, percents: pd.DataFrame) -> None:
    bands: Any = mean_band(percents, "percent", by=["segment", "layer"])
    kind, question = percents[["kind", "question"]].iloc[0]
    axes.set_title(f"What generated tokens attend to\n{kind}, asked to {question}")
    for segment in [s for s in _THREE if s in set(bands["segment"])]:
        band = bands[bands["segment"] == segment]
        figures.draw(axes, band, "layer", _COLORS[segment], _LABELS[segment])
    if bands["layer"].nunique() == 36:
        points = published("figure4_attention_share_qwen2_5_omni_3b")
        for segment, group in points.groupby("segment"):
            color = _COLORS.get(str(segment), "black")
            axes.scatter(group["layer"], group["share_percent"], color=color, alpha=0.35, zorder=0)
    figures.layers_below(axes)
    axes.legend(frameon=False, loc="upper center")


def headline(table: pd.DataFrame) -> list[str]:
    """What Figure 4 says, with this table's numbers: where each modality peaks, where it ends.

    Raises:
        ResultsError: For a table without rows.
    """
    said, shown = [], percents(table)
    n_layers = max(shown["layer"]) + 1
    late = range(n_layers - max(n_layers // 3, 1), n_layers)
    groups: Any = shown.groupby(["kind", "question"], sort=False)
    for (kind, question), group in groups:
        by_layer: Any = mean_band(group, "percent", by=["segment", "layer"])
        inside = group[group["layer"].isin(late)]
        means = inside.groupby(["sample", "segment"], as_index=False)["percent"].mean()
        ends = mean_band(means, "percent", by=["segment"]).set_index("segment")
        for segment in [s for s in _THREE if s in ends.index]:
            band = by_layer[by_layer["segment"] == segment]
            peak = band.loc[band["mean"].idxmax()]
            said.append(
                f"{kind}, {question}: {_LABELS[segment]} gets most of its attention in layer "
                f"{int(peak['layer'])}, {in_words(peak)}; in the last third "
                f"of the layers, from {late[0]} on, it gets {in_words(ends.loc[segment])}."
            )
    points = published("figure4_attention_share_qwen2_5_omni_3b").to_dict("records")
    theirs = ", ".join("{segment} {share_percent} % in {layer}".format(**p) for p in points)
    return [*said, f"Published for Qwen2.5-Omni-3B, 36 layers: {theirs}."]


def percents(table: pd.DataFrame) -> pd.DataFrame:
    """Percent of the three by case and layer, over heads and tokens, of the complete samples.

    Raises:
        ResultsError: For a table without rows for one of the three that its prompts have.
    """
    three: Any = table[table["segment"].isin(_THREE)]
    keys = ["sample", "kind", "question", "layer"]
    if three.empty:
        raise ResultsError("expected rows for audio, video or text, got none. Measure them too.")
    each = three.groupby([*keys, "head", "token"], dropna=False, sort=False)["percent"].sum()
    if (each - 100).abs().max() > 0.01:
        raise ResultsError(
            "expected rows for all of audio, video and text that the prompts have, got "
            f"{sorted(set(three['segment']))}: their 100 % is not known. Measure them too."
        )
    most = max((set(own) for _, own in three.groupby("sample")["segment"]), key=len)
    complete = three.groupby("sample")["segment"].transform(lambda own: set(own) == most)
    shares = three[complete].groupby([*keys, "segment"], sort=False)["share"].mean()
    whole = shares.groupby(level=keys, sort=False).transform("sum")
    return (100 * shares / whole).rename("percent").reset_index()
