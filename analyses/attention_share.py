"""Where do the words of an answer look?

For every layer, the attention that generated positions pay to audio, to video and to text, as a
mean over generated positions and heads. Patterns are reduced inside the hook, one decode step at a
time, and never kept. Figure 4 of arXiv 2604.02605, where the three shares add up to 100 %.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses.published import published
from hooked_omni import Capture, EmbeddedPrompt, HookedOmni
from hooked_omni.errors import ResultsError

__all__ = ["Config", "plot", "run"]

_COLORS = {"audio": "tab:orange", "video": "tab:blue", "text": "tab:gray", "generated": "tab:green"}
_LABELS = {"audio": "audio", "video": "video", "text": "query text"}


@dataclass(frozen=True)
class Config:
    """How long to listen, and which parts of the prompt to tell apart.

    Attributes:
        max_new_tokens: Longest answer, in tokens; 50 in the paper's scripts.
        segments: Spans that share out the attention. "text" is all that is neither audio nor
            video, the paper's query text; "generated" is the answer so far.
    """

    max_new_tokens: int = 50
    segments: tuple[str, ...] = ("audio", "video", "text", "generated")


def run(
    omni: HookedOmni, prompts: Mapping[str, EmbeddedPrompt], config: Config = Config()
) -> pd.DataFrame:
    """Share of attention per sample, layer and segment.

    The queries are the generated positions: all new tokens but the last, which is never read by
    another pass. The last prompt position, from which the first new token is chosen, is not one.

    Args:
        omni: The model.
        prompts: Embedded prompts by sample id.
        config: What to measure.

    Returns:
        One row per sample, layer and segment of the prompt, with the columns `sample`, `layer`,
        `segment`, `share` (0 to 1, mean over `n_queries` positions and all heads), `n_keys` (tokens
        of the segment in the prompt; 0 for "generated"), `n_queries` and `answer`.

    Raises:
        ResultsError: For no prompts, or an answer too short to have a query.
    """
    rows = pd.DataFrame(_rows(omni, prompts, config))
    if rows.empty:
        raise ResultsError("expected at least one prompt, got none. Check the list of clips.")
    return rows


def _rows(
    omni: HookedOmni, prompts: Mapping[str, EmbeddedPrompt], config: Config
) -> Iterator[dict[str, Any]]:
    for sample, prompt in prompts.items():
        segments = [s for s in config.segments if s == "generated" or s in prompt.spans]
        answer = omni.model.generate(
            prompt, config.max_new_tokens, capture=Capture(segments=tuple(segments))
        )
        n_queries = len(answer.tokens) - 1
        if n_queries < 1 or answer.attention is None:
            raise ResultsError(
                f"expected an answer of two tokens or more for {sample!r}, got {answer.text!r}: "
                "no generated position attends to anything. Ask for more tokens, or leave it out."
            )
        for layer, shares in enumerate(answer.attention.tolist()):
            for segment, share in zip(segments, shares, strict=True):
                n_keys = len(prompt.spans.positions.get(segment, ()))
                yield dict(
                    sample=sample,
                    layer=layer,
                    segment=segment,
                    share=share,
                    n_keys=n_keys,
                    n_queries=n_queries,
                    answer=answer.text,
                )


def plot(table: pd.DataFrame) -> Figure:
    """Mean over samples per layer; audio, video and text are made to add up to 100 %.

    For a model of 36 layers, the paper's certain points for Qwen2.5-Omni-3B are drawn underneath.

    Raises:
        ResultsError: If some samples have a segment that others lack.
    """
    shown = table[table["segment"].isin(_LABELS)]
    kinds = {frozenset(group["segment"]) for _, group in shown.groupby("sample")}
    if len(kinds) > 1:
        raise ResultsError(
            f"expected samples with the same segments, got {sorted(map(sorted, kinds))}: their "
            "means would be over different samples. Plot them apart."
        )
    means = shown.pivot_table(values="share", index="layer", columns="segment", aggfunc="mean")
    percent = 100 * means.div(means.sum(axis=1), axis=0)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for segment in percent.columns:
        axes.plot(percent.index, percent[segment], color=_COLORS[segment], label=_LABELS[segment])
    if len(percent) == 36:
        points = published("figure4_attention_share_qwen2_5_omni_3b")
        for segment, group in points.groupby("segment"):
            color = _COLORS.get(str(segment), "black")
            axes.scatter(group["layer"], group["share_percent"], color=color, alpha=0.35, zorder=0)
    n_samples = table["sample"].nunique()
    axes.set(
        xlabel="layer",
        ylabel="share of attention, %",
        ylim=(0, 100),
        title=f"What generated tokens attend to (n = {n_samples})",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, ncols=3, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
