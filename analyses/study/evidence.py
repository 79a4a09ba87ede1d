"""What do our tables show of each of the paper's claims?

Each function looks at one claim: the means that it compares, what decides (a bootstrap band over
samples, or a permutation test corrected over the windows), and whether it holds. What is missing or
too little makes a claim untestable, never false.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analyses import fidelity
from analyses.attention_share import percents
from analyses.logit_lens.recall import ANY_LAYER, recall
from analyses.plots import published
from analyses.plots.statistics import contrast, in_words, paired_permutation
from analyses.study.judging import conditions

_WINDOW = ["first_layer", "last_layer"]
_FEWEST = 12  # samples; bands of fewer are too narrow


class Untestable(Exception):
    """What a claim needs is not there; says what."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What claims are checked against."""

    tables: Mapping[str, pd.DataFrame]
    scores: pd.DataFrame

    def table(self, name: str, kind: str = "counterfactual", question: str = "hear") -> Any:
        """Rows of one panel of an analysis."""
        return self._panel(self.tables.get(name, pd.DataFrame()), name, kind, question)

    def fidelity(self, what: str, kind: str, question: str) -> pd.Series:
        """The judge's scores of the untouched answers, 0 to 1, by sample."""
        own = fidelity.plain(self.scores)
        own = own[own["what"] == what]
        panel = self._panel(own, f"{what} fidelity", kind, question)
        return panel.set_index("sample")["score"]

    @staticmethod
    def _panel(table: Any, name: str, kind: str, question: str) -> Any:
        if not table.empty:
            table = table[(table["kind"] == kind) & (table["question"] == question)]
        n = table["sample"].nunique() if not table.empty else 0
        if n < _FEWEST:
            raise Untestable(f"{name}: {n} {kind} samples asked to {question}, {_FEWEST} needed")
        return table


@dataclass(frozen=True)
class Observed:
    """The means that a claim compares, what decides (a band or p, with n), and if it holds here."""

    means: str
    rests_on: str
    agrees: bool


def audio_falls(evidence: Evidence) -> Observed:
    """Audio fidelity of counterfactual clips against half of that of factual ones."""
    own, other = (evidence.fidelity("audio", k, "hear") for k in ("factual", "counterfactual"))
    # A ratio would not be defined where nothing is right.
    below = _band([own, other], lambda f, c: 100 * (f / 2 - c))
    if float(own.mean()) <= 0:
        raise Untestable("audio fidelity: 0 % for factual clips, from which nothing can fall")
    means = f"{100 * own.mean():.1f} % -> {100 * other.mean():.1f} %"
    fall = f"falls by {100 * (1 - other.mean() / own.mean()):.1f} %"
    rests_on = f"{fall}, below half by {in_words(below, 'points')}"
    return Observed(means, rests_on, below["low"] > 0)


def more_than_video(evidence: Evidence) -> Observed:
    """How much further audio fidelity falls than video fidelity."""
    points = [("audio", "hear"), ("video", "see")]
    groups = [
        evidence.fidelity(what, kind, question)
        for what, question in points
        for kind in ("factual", "counterfactual")
    ]
    more = _band(groups, lambda fa, ca, fv, cv: 100 * ((fa - ca) - (fv - cv)))
    return Observed("", f"audio falls by more: {in_words(more, 'points')}", more["low"] > 0)


def names_the_seen(evidence: Evidence) -> Observed:
    """Events that are seen against events that are heard, among what the model claims to hear."""
    table = evidence.table("captions").set_index("sample")
    more = _band([100 * (table["seen_found"] - table["heard_found"])])
    seen, heard = (100 * table[f"{name}_found"].mean() for name in ("seen", "heard"))
    means = f"seen {seen:.1f} %, heard {heard:.1f} % of the events"
    return Observed(means, f"difference {in_words(more, 'points')}", more["low"] > 0)


def latent(evidence: Evidence) -> Observed:
    """Sounds that can be read at the audio positions against sounds in the answer, and chance."""
    lens = evidence.table("logit_lens")
    if set(lens["span"]) != {"audio"}:
        raise Untestable(f"logit_lens: read at {lens['span'].iloc[0]}, not at audio")
    kind = "raw" if "raw" in set(lens["lens"]) else lens["lens"].iloc[0]  # the authors' lens
    words, chance = (_recalled(lens[lens["lens"] == kind], of) for of in ("heard", "chance"))
    judged: Any = evidence.scores[
        (evidence.scores["what"] == "recall")
        & (evidence.scores["condition"] == kind)
        & (evidence.scores["kind"] == "counterfactual")
        & (evidence.scores["question"] == "hear")
    ]
    by = "judged" if len(judged) else "by words"
    latent = 100 * judged.set_index("sample")["score"] if len(judged) else words
    said = 100 * evidence.fidelity("audio", "counterfactual", "hear")
    more = _band([latent - said])
    # What the words of other clips' captions would find there is no hearing.
    true = _band([words - chance])
    read = f"{latent.mean():.1f} % can be read ({by}, lens {kind}), {said.mean():.1f} % is said"
    rests_on = f"difference {in_words(more, 'points')}; by chance {chance.mean():.1f} %"
    return Observed(read, rests_on, more["low"] > 0 and true["low"] > 0)


def _recalled(lens: pd.DataFrame, of: str) -> pd.Series:
    found: Any = recall(lens, of)
    return found[found["layer"] == ANY_LAYER].set_index("sample")["recall"]


def knocked_out(key: str, question: str, sign: int) -> Callable[[Evidence], Observed]:
    """Fidelity in the window of the second half that moves it most surely the claimed way."""

    def measure(evidence: Evidence) -> Observed:
        table = evidence.table("knockout", question=question)
        what = "video" if question == "see" else "audio"
        judged = fidelity.joined(table.assign(condition=conditions(table)), evidence.scores)
        named: Any = judged.assign(value=100 * judged[f"{what}_fidelity"])
        baseline = named[named["key"] == "none"]
        cut = named[(named["key"] == key) & (named["center"] >= named["n_layers"] / 2)]
        before = baseline[["sample", "value"]].rename(columns={"value": "before"})
        pairs = cut.merge(before, on="sample", how="left", validate="many_to_one")
        known = pairs.dropna(subset=["value", "before"])
        enough = known.groupby(_WINDOW)["sample"].transform("nunique") >= _FEWEST
        known = known[enough]
        if known.empty:
            raise Untestable(f"knockout: fewer than {_FEWEST} samples with scores of {key}")
        if sign < 0 and known["before"].max() == 0:
            raise Untestable("knockout: 0 % without it, from which nothing can fall")
        untouched = known.assign(value=known["before"])
        tested: Any = paired_permutation(known, untouched, "value", by=_WINDOW)
        claimed = tested[sign * tested["difference"] > 0]
        # The surest of the windows that move it as claimed, if one does; of equals the largest.
        order = (claimed if len(claimed) else tested).assign(least=-tested["difference"].abs())
        best = order.sort_values(["p_corrected", "least"]).iloc[0]
        first, last = best["first_layer"], best["last_layer"]
        here = known[(known["first_layer"] == first) & (known["last_layer"] == last)]
        means = f"{here['before'].mean():.1f} % -> {here['value'].mean():.1f} %"
        moved = sign * best["difference"] > 0 and best["p_corrected"] < 0.05
        n_missing = baseline["sample"].nunique() - len(here)
        missing = f", {n_missing} missing" if n_missing else ""
        p = f"p = {best['p_corrected']:.2g}, corrected for {len(tested)} windows"
        layers = f"layers {first:.0f} to {last:.0f}"
        return Observed(f"{means} in {layers}", f"{p}, n = {len(here)}{missing}", bool(moved))

    return measure


def unshifted(evidence: Evidence) -> Observed:
    """Share of the tokens that name sounds which are the base's first choice."""
    events = _event_tokens(evidence)
    share = 100 * (events["shift"] == "unshifted").groupby(events["sample"]).mean()
    band = _band([share])
    rests_on = f"mean over answers {in_words(band)}"
    return Observed(f"{band['mean']:.1f} %", rests_on, band["low"] > 50)


def median_rank(evidence: Evidence) -> Observed:
    """Median rank in the base of the tokens that name sounds, with a band over answers."""
    events = _event_tokens(evidence)
    ranks = [own.to_numpy() for _, own in events.groupby("sample")["base_rank"]]
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(ranks), (1000, len(ranks)))
    medians = [float(np.median(np.concatenate([ranks[i] for i in row]))) for row in drawn]
    low, high = np.percentile(medians, [2.5, 97.5])
    median = events["base_rank"].median()
    rests_on = f"[{low:g}, {high:g}], {len(events)} tokens of {len(ranks)} answers"
    return Observed(f"{median:g}", rests_on, bool(high == 1))


def _event_tokens(evidence: Evidence) -> Any:
    table = evidence.table("distribution_shift")
    events = table[table["events"].str.len() > 0]
    n = events["sample"].nunique()
    if n < _FEWEST:
        raise Untestable(f"distribution_shift: {n} answers name a sound event")
    return events


def divergence(evidence: Evidence) -> Observed:
    """KL(base || model) over all tokens."""
    table = evidence.table("distribution_shift")
    band = _band([table.groupby("sample")["kl_base_model"].mean()])
    theirs = published.number("kl_divergence", "qwen2.5-omni-3b|qwen2.5-vl")
    near = 0.5 * theirs <= band["low"] and band["high"] <= 2 * theirs
    return Observed("", in_words(band, "nats", 3), near)


def early_audio(evidence: Evidence) -> Observed:
    """Attention on audio in the first twelfth of the layers against the rest."""
    percents = _percents(evidence, "audio")
    first = max(round(percents.shape[1] / 12), 1)  # 3 of 36 layers, as in the figure
    early, late = percents.iloc[:, :first].mean(axis=1), percents.iloc[:, first:].mean(axis=1)
    more = _band([early - late])
    means = f"{early.mean():.1f} % in layers 0 to {first - 1}, {late.mean():.1f} % after"
    return Observed(means, f"difference {in_words(more, 'points')}", more["low"] > 0)


def late_video(evidence: Evidence) -> Observed:
    """Attention on video against that on audio, in the last third of the layers."""
    video, audio = _percents(evidence, "video"), _percents(evidence, "audio")
    last = video.shape[1] - max(video.shape[1] // 3, 1)
    more = _band([(video - audio).iloc[:, last:].mean(axis=1)])
    return Observed("", f"video - audio: {in_words(more, 'points')}", more["low"] > 0)


def _percents(evidence: Evidence, segment: str) -> pd.DataFrame:
    table: Any = percents(evidence.table("attention_share"))
    own = table[table["segment"] == segment]
    if own.empty:
        raise Untestable(f"attention_share: no rows of {segment}")
    return own.pivot_table("percent", "sample", "layer")


def _band(groups: Sequence[Any], of: Callable[..., Any] = lambda mean: mean) -> dict[str, Any]:
    band = contrast(groups, of)
    if band["n"] < _FEWEST:
        raise Untestable(f"{band['n']} samples with numbers, {_FEWEST} needed")
    return band


def no_people(_: Evidence) -> Observed:
    """Nobody has rated here what the judge did."""
    raise Untestable("needs people's ratings: `python -m analyses agreement sheet`")
