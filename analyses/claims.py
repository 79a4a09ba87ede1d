"""Does what we found agree with what was published?

The paper's claims, each with its number, what would show it, and what we found. A claim agrees if
its 95 % band lies wholly on the claim's side (of a knockout: if a permutation test, corrected over
the windows, gives p < 0.05), and differs if it does not. With fewer than 12 samples that have
numbers, where such bands are too narrow, it is not testable. Claims of the *bias* are those that a
model which trusts its eyes shows and one that does not must fail; the others are of how the model
works inside.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from analyses import fidelity
from analyses.attention_share import percents
from analyses.judged import conditions
from analyses.published import published
from analyses.recall import ANY_LAYER, recall
from analyses.statistics import contrast, in_words, paired_permutation
from hooked_omni.errors import ResultsError

__all__ = ["CLAIMS", "Claim", "Finding", "Seen", "check"]

Verdict = Literal["agrees", "differs", "not testable here"]
_WINDOW = ["first_layer", "last_layer"]
_FEWEST = 12  # samples


class _Untestable(Exception):
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
            raise _Untestable(f"{name}: {n} {kind} samples asked to {question}, {_FEWEST} needed")
        return table


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        name: In two or three words.
        sentence: What is claimed, in a form that a number decides.
        published: The paper's number.
        source: Where it stands.
        of_bias: Whether a model without the bias must fail it.
        look: From the evidence to what we found, and whether it agrees.
    """

    name: str
    sentence: str
    published: str
    source: str
    of_bias: bool
    look: Callable[[Evidence], "Seen"]


@dataclass(frozen=True)
class Seen:
    """What we found of a claim.

    Attributes:
        means: The means that it compares, in short.
        rests_on: What decides: a band or p, with n and what is missing.
        agrees: Whether the claim holds here.
    """

    means: str
    rests_on: str
    agrees: bool


@dataclass(frozen=True)
class Finding:
    """A claim, what we found of it, and how the two compare.

    Attributes:
        claim: The claim.
        seen: What we found; None if it is not testable here.
        why_not: Why it is not.
    """

    claim: Claim
    seen: Seen | None
    why_not: str = ""

    @property
    def verdict(self) -> Verdict:
        """The comparison."""
        if self.seen is None:
            return "not testable here"
        return "agrees" if self.seen.agrees else "differs"

    @property
    def ours(self) -> str:
        """Our number with its band, or why there is none."""
        if self.seen is None:
            return self.why_not
        return "; ".join(filter(None, (self.seen.means, self.seen.rests_on)))


def check(tables: Mapping[str, pd.DataFrame], scores: pd.DataFrame) -> list[Finding]:
    """Every claim against the tables of a study and its judge's scores."""
    evidence, found = Evidence(tables, scores), []
    for claim in CLAIMS:
        try:
            found.append(Finding(claim, claim.look(evidence)))
        except (_Untestable, ResultsError) as reason:
            found.append(Finding(claim, None, str(reason)))
    return found


def _audio_falls(evidence: Evidence) -> "Seen":
    own, other = (evidence.fidelity("audio", k, "hear") for k in ("factual", "counterfactual"))
    # A ratio would not be defined where nothing is right.
    below = _band([own, other], lambda f, c: 100 * (f / 2 - c))
    if float(own.mean()) <= 0:
        raise _Untestable("audio fidelity: 0 % for factual clips, from which nothing can fall")
    means = f"{100 * own.mean():.1f} % -> {100 * other.mean():.1f} %"
    fall = f"falls by {100 * (1 - other.mean() / own.mean()):.1f} %"
    rests_on = f"{fall}, below half by {in_words(below, 'points')}"
    return Seen(means, rests_on, below["low"] > 0)


def _more_than_video(evidence: Evidence) -> "Seen":
    asked = [("audio", "hear"), ("video", "see")]
    groups = [
        evidence.fidelity(what, kind, question)
        for what, question in asked
        for kind in ("factual", "counterfactual")
    ]
    more = _band(groups, lambda fa, ca, fv, cv: 100 * ((fa - ca) - (fv - cv)))
    return Seen("", f"audio falls by more: {in_words(more, 'points')}", more["low"] > 0)


def _names_the_seen(evidence: Evidence) -> "Seen":
    table = evidence.table("captions").set_index("sample")
    more = _band([100 * (table["seen_found"] - table["heard_found"])], lambda mean: mean)
    seen, heard = (100 * table[f"{name}_found"].mean() for name in ("seen", "heard"))
    means = f"seen {seen:.1f} %, heard {heard:.1f} % of the events"
    return Seen(means, f"difference {in_words(more, 'points')}", more["low"] > 0)


def _latent(evidence: Evidence) -> "Seen":
    lens = evidence.table("logit_lens")
    if set(lens["span"]) != {"audio"}:
        raise _Untestable(f"logit_lens: read at {lens['span'].iloc[0]}, not at audio")
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
    more = _band([latent - said], lambda mean: mean)
    # What the words of other clips' captions would find there is no hearing.
    true = _band([words - chance], lambda mean: mean)
    read = f"{latent.mean():.1f} % can be read ({by}, lens {kind}), {said.mean():.1f} % is said"
    rests_on = f"difference {in_words(more, 'points')}; by chance {chance.mean():.1f} %"
    return Seen(read, rests_on, more["low"] > 0 and true["low"] > 0)


def _recalled(lens: pd.DataFrame, of: str) -> pd.Series:
    """Recall in any layer, percent, by sample."""
    found: Any = recall(lens, of)
    return found[found["layer"] == ANY_LAYER].set_index("sample")["recall"]


def _knocked_out(key: str, question: str, sign: int) -> Callable[[Evidence], "Seen"]:
    """Fidelity in the window of the second half that moves it most surely the claimed way."""

    def look(evidence: Evidence) -> "Seen":
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
            raise _Untestable(f"knockout: fewer than {_FEWEST} samples with scores of {key}")
        if sign < 0 and known["before"].max() == 0:
            raise _Untestable("knockout: 0 % without it, from which nothing can fall")
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
        return Seen(f"{means} in {layers}", f"{p}, n = {len(here)}{missing}", bool(moved))

    return look


def _unshifted(evidence: Evidence) -> "Seen":
    events = _event_tokens(evidence)
    share = 100 * (events["shift"] == "unshifted").groupby(events["sample"]).mean()
    band = _band([share], lambda mean: mean)
    return Seen(f"{band['mean']:.1f} %", f"mean over answers {in_words(band)}", band["low"] > 50)


def _median_rank(evidence: Evidence) -> "Seen":
    events = _event_tokens(evidence)
    ranks = [own.to_numpy() for _, own in events.groupby("sample")["base_rank"]]
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(ranks), (1000, len(ranks)))
    medians = [float(np.median(np.concatenate([ranks[i] for i in row]))) for row in drawn]
    low, high = np.percentile(medians, [2.5, 97.5])
    median = events["base_rank"].median()
    rests_on = f"[{low:g}, {high:g}], {len(events)} tokens of {len(ranks)} answers"
    return Seen(f"{median:g}", rests_on, bool(high == 1))


def _event_tokens(evidence: Evidence) -> Any:
    table = evidence.table("distribution_shift")
    events = table[table["event"] != ""]
    if events["sample"].nunique() < _FEWEST:
        raise _Untestable(
            f"distribution_shift: {events['sample'].nunique()} answers name a sound event"
        )
    return events


def _divergence(evidence: Evidence) -> "Seen":
    table = evidence.table("distribution_shift")
    band = _band([table.groupby("sample")["kl_base_model"].mean()], lambda mean: mean)
    near = 0.5 * _kl() <= band["low"] and band["high"] <= 2 * _kl()
    return Seen("", in_words(band, "nats", 3), near)


def _early_audio(evidence: Evidence) -> "Seen":
    percents = _percents(evidence, "audio")
    first = max(round(percents.shape[1] / 12), 1)  # 3 of 36 layers, as in the figure
    early, late = percents.iloc[:, :first].mean(axis=1), percents.iloc[:, first:].mean(axis=1)
    more = _band([early - late], lambda mean: mean)
    means = f"{early.mean():.1f} % in layers 0 to {first - 1}, {late.mean():.1f} % behind"
    return Seen(means, f"difference {in_words(more, 'points')}", more["low"] > 0)


def _late_video(evidence: Evidence) -> "Seen":
    video, audio = _percents(evidence, "video"), _percents(evidence, "audio")
    last = video.shape[1] - max(video.shape[1] // 3, 1)
    more = _band([(video - audio).iloc[:, last:].mean(axis=1)], lambda mean: mean)
    return Seen("", f"video - audio: {in_words(more, 'points')}", more["low"] > 0)


def _percents(evidence: Evidence, segment: str) -> pd.DataFrame:
    """Percent of the attention on audio, video and text, by sample and layer."""
    table: Any = percents(evidence.table("attention_share"))
    own = table[table["segment"] == segment]
    if own.empty:
        raise _Untestable(f"attention_share: no rows of {segment}")
    return own.pivot_table("percent", "sample", "layer")


def _band(groups: Sequence[Any], of: Callable[..., Any]) -> dict[str, Any]:
    band = contrast(groups, of)
    if band["n"] < _FEWEST:
        raise _Untestable(f"{band['n']} samples with numbers, {_FEWEST} needed")
    return band


def _no_people(_: Evidence) -> "Seen":
    raise _Untestable("needs people's ratings: `python -m analyses agreement sheet`")


def _kl() -> float:
    scalars = published("scalars").set_index(["model", "quantity"])["value"]
    return float(cast(Any, scalars["qwen2.5-omni-3b|qwen2.5-vl", "kl_divergence"]))


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "audio collapses",
        "With another clip's sound, audio fidelity falls by half or more.",
        "60 % -> 23 %; 53.0 % -> 23.2 %",
        "section 6; figure 6 B, D",
        True,
        _audio_falls,
    ),
    Claim(
        "video holds",
        "Audio fidelity falls by more than video fidelity does.",
        "by 29.8 against 6.7 points",
        "figure 6, baselines",
        True,
        _more_than_video,
    ),
    Claim(
        "the picture is named",
        "Asked what it hears, the model names what is seen rather than what is heard.",
        "no number",
        "sections 1, 6",
        True,
        _names_the_seen,
    ),
    Claim(
        "heard, not said",
        "More of the sounds can be read off the audio positions than is said.",
        "61.4 % against 23 %",
        "section 6",
        True,
        _latent,
    ),
    Claim(
        "late video suppresses",
        "Cut off from the video in deep layers, the model names more of what is heard.",
        "23.2 % -> 36.8 % around layer 30 of 36",
        "figure 6 D",
        True,
        _knocked_out("video", "hear", 1),
    ),
    Claim(
        "as the base would",
        "Most tokens that name sounds are the vision-only base's own first choice.",
        "66.06 % unshifted",
        "section 8",
        True,
        _unshifted,
    ),
    Claim(
        "the base's rank",
        "The median rank of these tokens in the base is 1.",
        "1",
        "section 8",
        True,
        _median_rank,
    ),
    Claim(
        "close to the base",
        "KL(base || model) over all tokens is about as published: between half of it and twice.",
        "0.4 nats",
        "section 8",
        False,
        _divergence,
    ),
    Claim(
        "audio is needed",
        "Cut off from the audio in deep layers, the model names less of what is heard.",
        "23.2 % -> 10.5 % around layer 28 of 36",
        "figure 6 D",
        False,
        _knocked_out("audio", "hear", -1),
    ),
    Claim(
        "video carries seeing",
        "Cut off from the video in deep layers, the model tells less of what is seen.",
        "56.0 % -> 15.2 % around layer 30 of 36",
        "figure 6 C",
        False,
        _knocked_out("video", "see", -1),
    ),
    Claim(
        "audio is read early",
        "Audio gets more attention in the first layers than behind them.",
        "44, 32, 28 % in layers 0 to 2, 2 % in layer 3",
        "figure 4",
        False,
        _early_audio,
    ),
    Claim(
        "video is read late",
        "In the last third of the layers, video gets more attention than audio.",
        "40.6 % of video in layer 27 of 36",
        "figure 4",
        False,
        _late_video,
    ),
    Claim(
        "the judge is fair",
        "The judge's ranks agree with people's.",
        "rho = 0.816 audio, 0.732 video",
        "supplement B.1",
        False,
        _no_people,
    ),
)
"""In the order of the paper's argument."""
