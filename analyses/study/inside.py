"""What do attention and the base's predictions show of the paper's claims?

As in `answers.py`; sections 5 and 8 of the paper use the whole set, factual and counterfactual.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from analyses.attention_share import percents
from analyses.distribution_shift.sound_words import first_pieces
from analyses.plots.statistics import N_RESAMPLES, pairs_of, seeded_draws
from analyses.study.effect import FEWEST, Effect, Observed, Untestable
from analyses.study.evidence import Evidence


def unshifted(evidence: Evidence) -> Observed:
    """Share of the words that name sounds which are the base's first choice, over all of them.

    Counterfactual clips decide: with its own sound, a clip's picture is reason enough to name it.
    """
    decides = _unshifted(evidence, "counterfactual", above=50.0)
    effects = (decides, *_of_all(evidence, _unshifted, "audio_tokens_unshifted"))
    return Observed(f"{decides.point['mean']:.1f} %", effects)


def _of_all(evidence: Evidence, of: Callable[..., Effect], quantity: str) -> Iterator[Effect]:
    """Of the whole set, beside the paper's number; nothing without one of its two kinds."""
    with suppress(Untestable):
        yield of(evidence, "all", published=evidence.published(quantity, "all"))


def _unshifted(evidence: Evidence, kind: str, **more: Any) -> Effect:
    words = _sound_words(evidence, kind)
    own = 100.0 * (words["shift"] == "unshifted").groupby(words["sample"]).sum()
    n = 1.0 * words.groupby("sample").size()
    answers = f"mean over answers {(own / n).mean():.1f} %"
    name = f"{kind}: of {len(words)} words ({answers})"
    return evidence.effect(name, [own, n], lambda own, n: own / n, unit="%", **more)


def median_rank(evidence: Evidence) -> Observed:
    """Median rank in the base of the words that name sounds; clips as for `unshifted`."""
    decides = _rank(evidence, "counterfactual", below=1.5)
    effects = (decides, *_of_all(evidence, _rank, "median_base_rank"))
    return Observed(f"{decides.point['mean']:g}", effects)


def _rank(evidence: Evidence, kind: str, **more: Any) -> Effect:
    words = _sound_words(evidence, kind).sort_values("base_rank")
    ranks, pairs = words["base_rank"].to_numpy(float), pairs_of(words["sample"], evidence.twins)
    upto = seeded_draws(pairs.max() + 1, N_RESAMPLES, 0)[:, pairs].cumsum(1)  # words drawn so far
    n = upto[:, -1:]
    middle = [(upto > place).argmax(1) for place in ((n - 1) // 2, n // 2)]
    low, high = np.percentile(ranks[middle].mean(0), [2.5, 97.5]).tolist()
    median = float(np.median(ranks))
    point = dict(mean=median, low=low, high=high, n=words["sample"].nunique(), missing=0)
    return Effect(f"{kind}: median of {len(words)} words", point, unit="", **more)


def _sound_words(evidence: Evidence, kind: str) -> Any:
    """The first token of each word that names a sound: the later ones follow from it."""
    table: Any = first_pieces(evidence.table("distribution_shift", kind))
    n = table["sample"].nunique()
    if n < FEWEST:
        raise Untestable(f"distribution_shift: {n} answers name a sound event, {FEWEST} needed")
    return table


def divergence(evidence: Evidence) -> Observed:
    """KL(base || model) over all tokens."""
    table = evidence.table("distribution_shift", "all")
    own, n = (table.groupby("sample")["kl_base_model"].agg(how) for how in ("sum", "size"))
    theirs = evidence.published("kl_divergence", "all")
    near = evidence.effect(
        "mean over tokens",
        [own, 1.0 * n],
        lambda nats, n: nats / n,
        above=0.2,
        below=0.8,
        unit="nats",
        digits=3,
        published=theirs,
    )
    return Observed(f"{near.point['mean']:.3f} nats", (near,))


def early_audio(evidence: Evidence) -> Observed:
    """Attention on audio in the first twelfth of the layers, and after them."""
    share, per_key = (
        _attention(evidence, "audio", "percent"),
        _attention(evidence, "audio", "per_key"),
    )
    first = max(round(share.shape[1] / 12), 1)  # 3 of 36 layers, as in the figure
    early, late = share.iloc[:, :first].mean(axis=1), share.iloc[:, first:].mean(axis=1)
    theirs: Any = evidence.curve("figure4_attention_share", "all", "both")
    known = theirs[(theirs["segment"] == "audio") & (theirs["layer"] < first)]["share_percent"]
    published = float(known.mean()) if len(known) == first else None
    by_key = per_key.iloc[:, :first].mean(axis=1)
    return Observed(
        f"{early.mean():.1f} % in layers 0 to {first - 1}, {late.mean():.1f} % after",
        (
            evidence.effect("early", [early], above=10.0, unit="%", published=published),
            evidence.effect("early, a key,", [by_key], above=1.0, unit="x uniform"),
            evidence.effect("after", [late], below=10.0, unit="%"),
        ),
    )


def late_video(evidence: Evidence) -> Observed:
    """Attention on video against that on audio in the last third of the layers, whole and a key."""
    both = ("video", "audio")
    video, audio = (_last_third(_attention(evidence, s, "percent")) for s in both)
    key_video, key_audio = (_last_third(_attention(evidence, s, "per_key")) for s in both)
    a_key: Any = dict(above=0.1, unit="x uniform", digits=2)
    return Observed(
        f"video {video.mean():.1f} %, audio {audio.mean():.1f} %",
        (
            evidence.effect("video - audio", [video - audio], above=10.0),
            evidence.effect("a key, video - audio", [key_video - key_audio], **a_key),
        ),
    )


def _last_third(layers: pd.DataFrame) -> pd.Series:
    return layers.iloc[:, layers.shape[1] - max(layers.shape[1] // 3, 1) :].mean(axis=1)


def _attention(evidence: Evidence, segment: str, column: str) -> pd.DataFrame:
    """Mean over heads and steps by sample and layer, of answers to "both", as in section 5."""
    table = evidence.table("attention_share", "all", "both")
    table = percents(table) if column == "percent" else table
    own = table[table["segment"] == segment]
    if own.empty:
        raise Untestable(f"attention_share: no rows of {segment}")
    return own.pivot_table(column, "sample", "layer")
