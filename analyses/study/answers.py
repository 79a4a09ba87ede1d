"""What do the answers show of the paper's claims: fidelity, what is named, what could be?

Each function looks at one claim: the means that it compares, and the effects that decide. What is
missing or too little makes a claim untestable, never false.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from analyses import fidelity
from analyses.judge.agreement import fairness
from analyses.logit_lens.recall import ANY_LAYER, recall
from analyses.plots import published
from analyses.plots.curves import simultaneous_bands
from analyses.plots.statistics import POOL
from analyses.plots.twins import paired
from analyses.study.effect import FEWEST, SMALLEST, Effect, Observed, Untestable, effect
from analyses.study.evidence import Evidence
from analyses.study.judging import ANSWER, conditions, of_other_clips

_WINDOW = ["first_layer", "last_layer"]


def audio_falls(evidence: Evidence) -> Observed:
    """Audio fidelity of counterfactual clips against that of factual ones."""
    own, other = _fidelities(evidence, "audio", "hear")
    means = f"{own.mean():.1f} % -> {other.mean():.1f} %"
    theirs = _fall(evidence, "audio", "hear")
    fall = effect("falls by", [own, other], lambda f, c: f - c, above=SMALLEST, published=theirs)
    prose = (
        f"Asked what it hears, it is {own.mean():.0f} % faithful to the sound of untouched clips, "
        f"and {other.mean():.0f} % once the sound has been exchanged."
    )
    return Observed(means, (fall,), prose)


def more_than_video(evidence: Evidence) -> Observed:
    """How much further audio fidelity falls than video fidelity."""
    groups = [*_fidelities(evidence, "audio", "hear"), *_fidelities(evidence, "video", "see")]
    falls = [_fall(evidence, "audio", "hear"), _fall(evidence, "video", "see")]
    theirs = None if falls[0] is None or falls[1] is None else falls[0] - falls[1]
    more = effect(
        "audio falls by more:",
        groups,
        lambda fa, ca, fv, cv: (fa - ca) - (fv - cv),
        above=SMALLEST,
        published=theirs,
    )
    means = ", ".join(
        f"{what} {own.mean():.1f} % -> {other.mean():.1f} %"
        for what, own, other in (("audio", *groups[:2]), ("video", *groups[2:]))
    )
    return Observed(means, (more,))


def _fidelities(evidence: Evidence, what: str, question: str) -> list[pd.Series]:
    """Of factual clips, and of counterfactual ones, which are drawn together with their twins."""
    own, other = (evidence.fidelity(what, kind, question) for kind in POOL)
    return [own, paired(other, evidence.twins)]


def _fall(evidence: Evidence, what: str, question: str) -> float | None:
    own, other = (evidence.published(f"{what}_fidelity", kind, question) for kind in POOL)
    return None if own is None or other is None else own - other


def names_the_seen(evidence: Evidence) -> Observed:
    """Events that are seen against events that are heard, among what the model claims to hear.

    A sentence that fits every clip names as much of what is seen in any of them: what the answers
    to other clips name of this clip's events (shuffled captions) is subtracted.
    """
    table = evidence.table("captions").set_index("sample")
    named, heard, seen = (_events(table, name) for name in ("events", "heard", "seen"))
    vocabulary = sorted(set().union(*named, *heard, *seen))
    said = _indicators(named, vocabulary)
    more = _shares(seen, vocabulary) - _shares(heard, vocabulary)
    own = 100 * (said * more).sum(1)
    others = 100 * ((said.sum(0) - said) / (len(said) - 1) * more).sum(1)
    constant = 100 * float(np.nanmax(said @ np.nanmean(more, axis=0)))
    shares = [100 * np.nanmean((said * _shares(n, vocabulary)).sum(1)) for n in (seen, heard)]
    means = "seen {:.1f} %, heard {:.1f} % of the events".format(*shares)
    prose = "It then names {:.0f} % of what is seen, and {:.0f} % of what sounds.".format(*shares)
    controls = f"{np.nanmean(others):.1f} by answers to other clips, {constant:.1f} by one for all"
    difference = pd.Series(own - others, table.index)
    found = effect("seen - heard, over that by other clips' answers,", [difference], above=SMALLEST)
    own_mean = f"seen - heard {np.nanmean(own):.1f}"
    return Observed(f"{means}; {own_mean}, {controls}", (found,), prose)


def _events(table: pd.DataFrame, column: str) -> list[frozenset[str]]:
    return [frozenset(own) for own in table[column]]


def _indicators(named: list[frozenset[str]], vocabulary: list[str]) -> np.ndarray:
    return np.array([[event in own for event in vocabulary] for own in named], float)


def _shares(named: list[frozenset[str]], vocabulary: list[str]) -> np.ndarray:
    """Each event's part of a sample's events; NaN for a sample without any."""
    known = _indicators(named, vocabulary)
    n = known.sum(1, keepdims=True)
    return np.divide(known, n, out=np.full(known.shape, np.nan), where=n > 0)


def recalls(evidence: Evidence) -> tuple[str, list[pd.Series]]:
    """Recall of the sounds at the audio positions, recall of the answer, and chance; by whom.

    By the judge where it gave all three, else by words: recall is compared with recall, and what
    other clips' events would find is no hearing.
    """
    lens = evidence.table("logit_lens")
    if set(lens["span"]) != {"audio"}:
        raise Untestable(f"logit_lens: read at {lens['span'].iloc[0]}, not at audio")
    kind = "raw" if "raw" in set(lens["lens"]) else lens["lens"].iloc[0]  # the authors' lens
    found = [evidence.recall(c) for c in (kind, ANSWER, of_other_clips(kind))]
    by = "judged" if all(len(own.dropna()) for own in found) else "by words"
    if by == "by words":
        own = lens[lens["lens"] == kind]
        said = 100 * evidence.table("captions").set_index("sample")["heard_found"]
        found = [_recalled(own, "heard"), said, _recalled(own, "chance")]
    return f"{by}, lens {kind}", found


def latent(evidence: Evidence) -> Observed:
    """What can be read at the audio positions against what is said, and chance."""
    by, (read, said, chance) = recalls(evidence)
    theirs = evidence.published("latent_audio_recall", "counterfactual")
    more = effect("read - said", [read - said], above=SMALLEST)
    true = effect("read - chance", [read - chance], above=SMALLEST)
    anywhere = effect("read", [read], unit="%", published=theirs)
    means = f"{read.mean():.1f} % can be read ({by}), {said.mean():.1f} % is said"
    prose = f"Yet {read.mean():.0f} % of the sounds can be read off inside it."
    return Observed(f"{means}; by chance {chance.mean():.1f} %", (more, true, anywhere), prose)


def _recalled(lens: pd.DataFrame, of: str) -> pd.Series:
    found: Any = recall(lens, of)
    return found[found["layer"] == ANY_LAYER].set_index("sample")["recall"]


def judge_is_fair(evidence: Evidence) -> Observed:
    """Spearman's rho of the judge's scores and people's, over untouched answers."""
    if not evidence.ratings:
        raise Untestable("needs people's ratings: `python -m analyses agreement sheet`")
    points = {
        row["what"]: row for row in fairness(evidence.scores, evidence.ratings).to_dict("records")
    }
    judge = {"model": evidence.scores["judge"].iloc[0]}
    effects = [
        Effect(
            f"{what}: rho",
            points[what],
            above=0.5,
            unit="",
            digits=3,
            published=published.number(f"spearman_{what}", judge, "", ""),
        )
        for what in ("audio", "video")
    ]
    return Observed(
        ", ".join(f"{what} {points[what]['mean']:.3f}" for what in points), tuple(effects)
    )


def knocked_out(key: str, question: str, sign: int) -> Callable[[Evidence], Observed]:
    """Fidelity in the window of the second half that moves it most surely the claimed way."""

    def measure(evidence: Evidence) -> Observed:
        what = "video" if question == "see" else "audio"
        known = _cut(evidence, key, question, what)
        if sign < 0 and known["before"].max() == 0:
            raise Untestable("knockout: 0 % without it, from which nothing can fall")
        untouched = known.assign(value=known["before"])
        sides = (known, untouched) if sign > 0 else (untouched, known)
        bands: Any = simultaneous_bands(*sides, "value", by=_WINDOW)
        best = bands.sort_values(["low", "mean"]).iloc[-1]
        point = best.to_dict() | dict(low=bands["low"].max(), high=bands["high"].max())
        first, last = best["first_layer"], best["last_layer"]
        here = known[(known["first_layer"] == first) & (known["last_layer"] == last)]
        means = f"{here['before'].mean():.1f} % -> {here['value'].mean():.1f} %"
        point["missing"] = known.attrs["n_samples"] - point["n"]
        moved = f"{'gains' if sign > 0 else 'loses'}, at most over {len(bands)} windows,"
        theirs = _moved(key, question, sign, evidence)
        found = Effect(moved, point, above=SMALLEST, published=theirs)
        verb = "comes back to" if sign > 0 else "falls to"
        prose = (
            f"Kept from reading the {key} in its layers {first:.0f} to {last:.0f}, its account of "
            f"the {what} {verb} {here['value'].mean():.0f} %."
        )
        where = f"in layers {first:.0f} to {last:.0f}"
        return Observed(f"{means} {where}", (found,), prose if sign > 0 else "")

    return measure


def _cut(evidence: Evidence, key: str, question: str, what: str) -> Any:
    """Fidelity in percent in each late window, and `before`, in windows with enough samples."""
    table = evidence.table("knockout", question=question)
    judged = fidelity.joined(table.assign(condition=conditions(table)), evidence.scores)
    named: Any = judged.assign(value=100 * judged[f"{what}_fidelity"])
    baseline = named[named["key"] == "none"]
    cut = named[(named["key"] == key) & (named["center"] >= named["n_layers"] / 2)]
    before = baseline[["sample", "value"]].rename(columns={"value": "before"})
    pairs = cut.merge(before, on="sample", how="left", validate="many_to_one")
    known = pairs.dropna(subset=["value", "before"])
    known = known[known.groupby(_WINDOW)["sample"].transform("nunique") >= FEWEST]
    if known.empty:
        raise Untestable(f"knockout: fewer than {FEWEST} samples with scores of {key}")
    known.attrs["n_samples"] = baseline["sample"].nunique()
    return known


def _moved(key: str, question: str, sign: int, evidence: Evidence) -> float | None:
    """The largest published change in a late window, in points."""
    arrow = f"G!->{key[0].upper()}"
    points: Any = evidence.curve("figure6_knockout", "counterfactual", question)
    own = points[(points["knockout"] == arrow) & (points["center_layer"] >= 18)]
    if own.empty:
        return None
    return float((sign * (own["fidelity_percent"] - own["baseline_percent"])).max())
