"""What do the answers show of the paper's claims: fidelity, what is named, what could be?

Each function looks at one claim: the means that it compares, and the effects that decide. What is
missing or too little makes a claim untestable, never false.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from analyses import fidelity
from analyses.choice import measures
from analyses.configs import PLAIN
from analyses.judge.agreement import fairness
from analyses.knockout.figure import changes
from analyses.logit_lens.recall import ANY_LAYER, recall
from analyses.plots import published
from analyses.plots.statistics import POOL
from analyses.study.effect import FEWEST, SMALLEST, Effect, Observed, Untestable
from analyses.study.evidence import Evidence
from analyses.study.judging import ANSWER, conditions, of_other_clips

_HALLUCINATION = "Video-driven Audio Hallucination"  # the task's name in AVHBench's QA.json


def audio_falls(evidence: Evidence) -> Observed:
    """Audio fidelity of counterfactual clips against that of factual ones."""
    own, other = _fidelities(evidence, "audio", "hear")
    means = f"{own.mean():.1f} % -> {other.mean():.1f} %"
    fall = _falls(evidence)
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
    more = evidence.effect(
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
    # Where video rises, audio "falls by more" while it rises too.
    return Observed(means, (_falls(evidence), more))


def _falls(evidence: Evidence) -> Effect:
    groups, theirs = _fidelities(evidence, "audio", "hear"), _fall(evidence, "audio", "hear")
    more: Any = dict(above=SMALLEST, published=theirs)
    return evidence.effect("falls by", groups, lambda f, c: f - c, **more)


def _fidelities(evidence: Evidence, what: str, question: str) -> list[pd.Series]:
    """Of factual clips, and of counterfactual ones."""
    return [evidence.fidelity(what, kind, question) for kind in POOL]


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
    found = evidence.effect(
        "seen - heard, over that by other clips' answers,", [difference], above=SMALLEST
    )
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
    judged = by.startswith("judged")  # as the paper's is
    theirs = evidence.published("latent_audio_recall", "counterfactual") if judged else None
    more = evidence.effect("read - said", [read - said], above=SMALLEST)
    true = evidence.effect("read - chance", [read - chance], above=SMALLEST)
    anywhere = evidence.effect("read", [read], unit="%", published=theirs)
    means = f"{read.mean():.1f} % can be read ({by}), {said.mean():.1f} % is said"
    prose = (
        f"Inside it, {read.mean():.0f} % of the sounds can be read off, "
        f"and {chance.mean():.0f} % of those of other clips."
    )
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


def without_video(evidence: Evidence) -> Observed:
    """Accuracy on AVHBench's video-driven audio hallucination, and with nothing reading the video.

    The condition is named "no video", as in `examples/studies/avhbench.toml`.
    """
    names: tuple[str, str] = PLAIN, "no video"
    table: Any = evidence.tables.get("choice", pd.DataFrame())
    if table.empty or not {*names} <= {*table["condition"]}:
        raise Untestable("choice: AVHBench's questions, and the condition 'no video', needed")
    found = measures.answers(table[table["task"] == _HALLUCINATION])
    if found.empty:
        raise Untestable(f"choice: no questions of {_HALLUCINATION}")
    clips = measures.by_clip(found, "correct")
    both, alone = (
        100 * clips[clips["condition"] == name].set_index("sample")["correct"] for name in names
    )
    limits: Any = dict(above=-SMALLEST, below=SMALLEST)
    more = evidence.effect("both - without", [both, alone], lambda b, a: b - a, **limits)
    test = measures.mcnemar(found, "no video", PLAIN)
    means = f"{both.mean():.1f} % with both, {alone.mean():.1f} % without video"
    return Observed(f"{means}; McNemar's p = {test['p']:.2g} of {test['n']} questions", (more,))


def knocked_out(key: str, question: str, sign: int) -> Callable[[Evidence], Observed]:
    """Fidelity in the window of the second half that moves it most surely the claimed way."""

    def measure(evidence: Evidence) -> Observed:
        what = "video" if question == "see" else "audio"
        bands = _late(evidence, key, question, what)
        if sign < 0 and bands["before"].max() == 0:
            raise Untestable("knockout: 0 % without it, from which nothing can fall")
        if sign < 0:
            bands = bands.assign(mean=-bands["mean"], low=-bands["high"], high=-bands["low"])
        surely, at_most = (bands.loc[bands[end].idxmax()].to_dict() for end in ("low", "high"))
        # If none surely moves it by so much, the one that may move it furthest decides.
        point = surely if surely["low"] > SMALLEST else at_most
        where = f"in layers {point['first_layer']:.0f} to {point['last_layer']:.0f}"
        verb, theirs = "gains" if sign > 0 else "loses", _moved(key, question, sign, evidence)
        moved = f"{verb} there (of {len(bands)} late windows)"
        found = Effect(moved, point, above=SMALLEST, published=theirs)
        prose = (
            f"Kept from reading the {key} {where}, its account of the {what} goes from "
            f"{point['before']:.0f} to {point['after']:.0f} %."
        )
        means = f"{point['before']:.1f} % -> {point['after']:.1f} % {where}"
        return Observed(means, (found,), prose if sign > 0 else "")

    return measure


def _late(evidence: Evidence, key: str, question: str, what: str) -> Any:
    """Changes of fidelity, in points, in late windows with numbers of enough samples.

    The bands hold for all windows, early ones too, as in the sentences beside figure 6.
    """
    table = evidence.table("knockout", question=question)
    judged = fidelity.joined(table.assign(condition=conditions(table)), evidence.scores)
    named: Any = judged.assign(right=100 * judged[f"{what}_fidelity"])
    cut, untouched = (named[named["key"] == one] for one in (key, "none"))
    bands = changes(cut, untouched, "right")
    late = bands["center"] >= table["n_layers"].iloc[0] / 2
    enough = bands["n"] >= np.maximum(FEWEST, bands["missing"])
    if not (late & enough).any():
        raise Untestable(
            f"knockout: no late window of {key} with scores of {FEWEST} samples and of half of them"
        )
    return bands[late & enough]


def _moved(key: str, question: str, sign: int, evidence: Evidence) -> float | None:
    """The largest published change in a late window, in points."""
    arrow = f"G!->{key[0].upper()}"
    points: Any = evidence.curve("figure6_knockout", "counterfactual", question)
    own = points[(points["knockout"] == arrow) & (points["center_layer"] >= 18)]
    if own.empty:
        return None
    return float((sign * (own["fidelity_percent"] - own["baseline_percent"])).max())
