"""How often does each claim agree, when the truth is known?

    python -m benchmarks.claims [--studies 400] [--n 250] [--seed 0]

Studies of 250 factual and 250 counterfactual clips are simulated, as in the paper: once with the
paper's own numbers as the truth, once without the effect, and once with what only looks like it (a
constant sentence, near-uniform attention, the later pieces of a word, ...). A judge's scores are
drawn from beta distributions of that mean, with a spread of about a third, on a grid of 0.05; what
one clip gets under several conditions correlates (Gaussian copula, 0.6).
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta, norm

from analyses.plots.statistics import POOL
from analyses.study.claims import CLAIMS, check
from analyses.study.effect import Verdict
from analyses.study.judging import conditions

Tables = dict[str, pd.DataFrame]
Study = tuple[Tables, pd.DataFrame]
Make = Callable[[np.random.Generator, int], Study]

MODEL = {"model": "Qwen/Qwen2.5-Omni-3B", "base": "Qwen/Qwen2.5-VL-3B-Instruct"}
_EVENTS = [f"event {i}" for i in range(40)]
_CONCENTRATION, _SHARED = 1.3, 0.6
_CENTERS, _LAYERS = range(4, 31, 2), 36


@dataclass(frozen=True)
class Scenario:
    """A claim and a truth: with `agrees`, nine in ten studies must; without, one in twenty may."""

    claim: str
    truth: str
    agrees: bool
    make: Make


def rates(scenario: Scenario, n_studies: int, n: int, seed: int = 0) -> Counter[Verdict]:
    """How many studies of `n` clips of each kind give each verdict."""
    claims = tuple(claim for claim in CLAIMS if claim.name == scenario.claim)
    counts: Counter[Verdict] = Counter()
    for number in range(n_studies):
        tables, scores = scenario.make(np.random.default_rng([seed, number]), n)
        for table in tables.values():
            table.attrs |= MODEL
        counts[check(tables, scores, claims=claims)[0].verdict] += 1
    return counts


def judged(rng: np.random.Generator, n: int, means: Sequence[float]) -> np.ndarray:
    """Scores of `n` clips under conditions with these means, as `[clip, condition]`."""
    own, shared = rng.standard_normal((n, len(means))), rng.standard_normal((n, 1))
    ranks = norm.cdf(np.sqrt(_SHARED) * shared + np.sqrt(1 - _SHARED) * own)
    # Where the distribution passes from one point of the grid to the next: quicker than quantiles.
    edges = (np.arange(20) + 0.5)[:, None] / 20
    mean = np.clip(np.asarray(means), 0.001, 0.999)
    steps = beta.cdf(edges, _CONCENTRATION * mean, _CONCENTRATION * (1 - mean))
    columns = zip(ranks.T, steps.T, strict=True)
    return np.stack([np.searchsorted(step, rank) for rank, step in columns], axis=1) / 20


def fidelity(**means: tuple[float, float]) -> Make:
    """Audio (asked to hear) and video (asked to see) fidelity, factual and counterfactual."""

    def make(rng: np.random.Generator, n: int) -> Study:
        rows = []
        for what, both in means.items():
            question = "see" if what == "video" else "hear"
            for kind, mean in zip(POOL, both, strict=True):
                scores = judged(rng, n, [mean])[:, 0]
                rows += [
                    dict(_keys(i, kind, question), condition="", what=what, score=score)
                    for i, score in enumerate(scores)
                ]
        return {}, pd.DataFrame(rows)

    return make


def captions(seen: float, heard: float, constant: bool = False, read: float = 0.0) -> Make:
    """How often an answer names what is seen and heard, and how often a sound can be read inside.

    A `constant` answer names the same five of the likelier events for every clip.
    """

    def make(rng: np.random.Generator, n: int) -> Study:
        skewed = np.arange(len(_EVENTS), 0, -1.0) ** 2
        rows, lens = [], []
        for i in range(n):
            see = set(rng.choice(_EVENTS, 2, replace=False, p=skewed / skewed.sum()))
            hear = set(rng.choice(_EVENTS, 2, replace=False))
            said = {e for e in see if rng.random() < seen} | {
                e for e in hear if rng.random() < heard
            }
            said = set(_EVENTS[:5]) if constant else said
            inside = {e for e in hear if rng.random() < read}
            inside |= {e for e in _EVENTS if rng.random() < 0.2}  # whatever is played
            found = dict(heard_found=len(said & hear) / 2, seen_found=len(said & see) / 2)
            named = dict(events=tuple(said), heard=tuple(hear), seen=tuple(see))
            rows.append(_keys(i, "counterfactual", "hear") | found | named)
            place = dict(span="audio", lens="raw", layer=20, position=1, measure="top")
            events = dict(events=tuple(inside), heard=tuple(hear), seen=tuple(see))
            lens.append(_keys(i, "counterfactual", "hear") | place | events)
        return {"captions": pd.DataFrame(rows), "logit_lens": pd.DataFrame(lens)}, _no_scores()

    return make


def knockouts(key: str, question: str, baseline: float, moved: Callable[[int], float]) -> Make:
    """Fidelity without a knockout, and by the center of each window."""

    def make(rng: np.random.Generator, n: int) -> Study:
        what = "video" if question == "see" else "audio"
        means = [baseline, *(baseline + moved(center) for center in _CENTERS)]
        drawn = judged(rng, n, means)
        clips, window = (one.ravel() for one in np.indices(drawn.shape))
        center = np.array([0, *_CENTERS])[window]
        table = _keyed(
            clips,
            "counterfactual",
            question,
            query="generated",
            n_layers=_LAYERS,
            key=np.where(window > 0, key, "none"),
            center=center,
            first_layer=center - 4,
            last_layer=center + 4,
        )
        keys = table[["sample", "kind", "question"]]
        scores = keys.assign(condition=conditions(table), what=what, score=drawn.ravel())
        return {"knockout": table}, scores

    return make


def ranks(unshifted: float, marginal: float, pieces: int = 1, kl: float = 0.4) -> Make:
    """Ranks in the base of one to five words for sounds an answer, among 25 other tokens.

    With more `pieces`, these classes are of the later ones, and each word begins with rank 9.
    """

    def make(rng: np.random.Generator, n: int) -> Study:
        parts = []
        for kind in POOL:
            own = np.clip(rng.normal(0, 0.15, n), -0.3, 0.3)  # answers differ
            n_words = rng.integers(1, 6, n)
            clips = np.repeat(np.arange(n), n_words * pieces)
            piece = np.tile(np.arange(pieces), n_words.sum())
            drawn = rng.random(len(clips)) - own[clips]
            first = (piece == 0) & (pieces > 1)
            classes = [first, drawn < unshifted, drawn < unshifted + marginal]
            rank = np.select(classes, [9, 1, 2], 9)
            texts = np.where(piece > 0, "ing", " siren")
            words = _keyed(clips, kind, "hear", token_text=texts, base_rank=rank)
            others = _keyed(
                np.repeat(np.arange(n), 25), kind, "hear", token_text=" the", base_rank=1
            )
            parts += [words.assign(events=[("siren",)] * len(words))]
            parts += [others.assign(events=[()] * len(others))]
        table = pd.concat(parts, ignore_index=True)
        table["shift"] = np.where(table["base_rank"] == 1, "unshifted", "shifted")
        # Most tokens cost next to nothing, few cost much.
        table["kl_base_model"] = kl / 0.7 * rng.gamma(0.3, 1 / 0.3, len(table)) * 0.7
        return {"distribution_shift": table}, _no_scores()

    return make


def attention(uniform: bool) -> Make:
    """Shares by layer: figure 4's, or those of nearly uniform attention over 3 000 + 250 keys."""

    def make(rng: np.random.Generator, n: int) -> Study:
        layer = np.arange(_LAYERS)
        audio = np.full(_LAYERS, 6.0) + 0.1 * (layer < 3) if uniform else np.full(_LAYERS, 2.0)
        video = (
            np.full(_LAYERS, 74.0)
            if uniform
            else np.interp(layer, [0, 21, 27, 35], [20, 49.5, 40.6, 30])
        )
        audio[:3] = audio[:3] if uniform else [44, 32, 28]
        parts = []
        for kind in POOL:
            jitter = rng.lognormal(0, 0.05 if uniform else 0.3, (2, n, _LAYERS))
            heard = audio * jitter[0]
            seen = np.minimum(video * jitter[1], 95 - heard)
            percents = dict(audio=heard, video=seen, text=100 - heard - seen)
            keys = dict(audio=250, video=3000, text=750)
            for segment, percent in percents.items():
                clips, layers = (one.ravel() for one in np.indices(percent.shape))
                share = percent.ravel() / 100
                place = dict(layer=layers, segment=segment, head=None, step=None)
                measures = dict(share=share, percent=100 * share)
                measures["per_key"] = share / (keys[segment] / 4000)
                parts.append(_keyed(clips, kind, "both", **place, **measures))
        return {"attention_share": pd.concat(parts, ignore_index=True)}, _no_scores()

    return make


def _keyed(clips: np.ndarray, kind: str, question: str, **columns: Any) -> pd.DataFrame:
    """A row for each number in `clips`."""
    names = np.array([f"{kind} {i}" for i in range(clips.max() + 1)], object)
    return pd.DataFrame(dict(sample=names[clips], kind=kind, question=question, **columns))


def _keys(i: int, kind: str, question: str) -> dict[str, Any]:
    return dict(sample=f"{kind} {i}", kind=kind, question=question)


def _no_scores() -> pd.DataFrame:
    return pd.DataFrame(columns=["sample", "kind", "question", "condition", "what", "score"])


def _peak(height: float, at: int = 30) -> Callable[[int], float]:
    return lambda center: height * max(0.0, 1 - abs(center - at) / 8)


def _everywhere(move: float) -> Callable[[int], float]:
    return lambda center: move


PAPER = {
    ("late video suppresses", "video", "hear"): (0.232, 0.136, 30),
    ("audio is needed", "audio", "hear"): (0.232, -0.127, 28),
    ("video carries seeing", "video", "see"): (0.560, -0.408, 30),
}
SCENARIOS: tuple[Scenario, ...] = (
    Scenario("audio collapses", "53.0 % -> 23.2 %", True, fidelity(audio=(0.53, 0.232))),
    Scenario("audio collapses", "53.0 % twice", False, fidelity(audio=(0.53, 0.53))),
    Scenario("audio collapses", "53 % -> 50 %", False, fidelity(audio=(0.53, 0.50))),
    Scenario(
        "video holds",
        "audio 53.0 % -> 23.2 %, video 62.7 % -> 56.0 %",
        True,
        fidelity(audio=(0.53, 0.232), video=(0.627, 0.56)),
    ),
    Scenario(
        "video holds",
        "both fall by 20 points",
        False,
        fidelity(audio=(0.53, 0.33), video=(0.627, 0.427)),
    ),
    Scenario(
        "video holds",
        "audio 23 % -> 33 %, video 30 % -> 60 %",
        False,
        fidelity(audio=(0.23, 0.33), video=(0.30, 0.60)),
    ),
    Scenario("the picture is named", "60 % seen, 23 % heard", True, captions(0.60, 0.23)),
    Scenario("the picture is named", "23 % of both", False, captions(0.23, 0.23)),
    Scenario("the picture is named", "a constant sentence", False, captions(0, 0, constant=True)),
    Scenario("heard, not said", "61.4 % read, 23 % said", True, captions(0.4, 0.23, read=0.52)),
    Scenario("heard, not said", "61.4 % read, 61.4 % said", False, captions(0.4, 0.61, read=0.52)),
    Scenario("heard, not said", "read by chance alone", False, captions(0.1, 0.0, read=0.0)),
    *(
        Scenario(name, f"{100 * start:.1f} % {100 * move:+.1f} at layer {at}", True,
                 knockouts(key, question, start, _peak(move, at)))
        for (name, key, question), (start, move, at) in PAPER.items()
    ),
    *(
        Scenario(name, "no knockout moves it", False,
                 knockouts(key, question, start, _everywhere(0.0)))
        for (name, key, question), (start, _, _) in PAPER.items()
    ),
    *(
        Scenario(name, "4 points, in every window", False,
                 knockouts(key, question, start, _everywhere(0.04 if move > 0 else -0.04)))
        for (name, key, question), (start, move, _) in PAPER.items()
    ),
    Scenario("as the base would", "66.06, 19.30, 14.63 %", True, ranks(0.6606, 0.1930)),
    Scenario("as the base would", "45, 30, 25 %", False, ranks(0.45, 0.30)),
    Scenario("as the base would", "ranks 9, 1, 1 of a word's pieces", False, ranks(1.0, 0.0, 3)),
    Scenario("the base's rank", "66.06, 19.30, 14.63 %", True, ranks(0.6606, 0.1930)),
    Scenario("the base's rank", "45, 30, 25 %", False, ranks(0.45, 0.30)),
    Scenario("the base's rank", "ranks 9, 1, 1 of a word's pieces", False, ranks(1.0, 0.0, 3)),
    Scenario("close to the base", "0.4 nats", True, ranks(0.66, 0.19)),
    Scenario("close to the base", "1.2 nats", False, ranks(0.66, 0.19, kl=1.2)),
    Scenario("audio is read early", "figure 4", True, attention(False)),
    Scenario("audio is read early", "near-uniform attention", False, attention(True)),
    Scenario("video is read late", "figure 4", True, attention(False)),
    Scenario("video is read late", "near-uniform attention", False, attention(True)),
)  # fmt: skip


def main(n_studies: int, n: int, seed: int) -> None:
    """Print the table."""
    print("| claim | planted | must agree | n | agrees | undecided | differs |")
    print("|---|---|---|---|---|---|---|")
    for one in SCENARIOS:
        found = rates(one, n_studies, n, seed)
        shares = " | ".join(
            f"{100 * found[v] / n_studies:.1f} %" for v in ("agrees", "undecided", "differs")
        )
        must = ">= 90 %" if one.agrees else "<= 5 %"
        print(f"| {one.claim} | {one.truth} | {must} | {n} + {n} | {shares} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--n", type=int, default=250, help="clips of each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.studies, given.n, given.seed)
