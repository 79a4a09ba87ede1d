"""Does what we found agree with what was published?

The paper's claims, each with its number, what would show it, and what we found. A claim agrees if
its 95 % band lies wholly on the claim's side (of a knockout: if a permutation test, corrected over
the windows, gives p < 0.05), and differs if it does not. With fewer than 12 samples that have
numbers, where such bands are too narrow, it is not testable. Claims of the *bias* are those that a
model which trusts its eyes shows and one that does not must fail; the others are of how the model
works inside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from analyses.study import evidence
from analyses.study.evidence import Evidence, Seen, Untestable
from hooked_omni.errors import ResultsError

__all__ = ["CLAIMS", "Claim", "Finding", "check"]

Verdict = Literal["agrees", "differs", "not testable here"]


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
    look: Callable[[Evidence], Seen]


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
    given, found = Evidence(tables, scores), []
    for claim in CLAIMS:
        try:
            found.append(Finding(claim, claim.look(given)))
        except (Untestable, ResultsError) as reason:
            found.append(Finding(claim, None, str(reason)))
    return found


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "audio collapses",
        "With another clip's sound, audio fidelity falls by half or more.",
        "60 % -> 23 %; 53.0 % -> 23.2 %",
        "section 6; figure 6 B, D",
        True,
        evidence.audio_falls,
    ),
    Claim(
        "video holds",
        "Audio fidelity falls by more than video fidelity does.",
        "by 29.8 against 6.7 points",
        "figure 6, baselines",
        True,
        evidence.more_than_video,
    ),
    Claim(
        "the picture is named",
        "Asked what it hears, the model names what is seen rather than what is heard.",
        "no number",
        "sections 1, 6",
        True,
        evidence.names_the_seen,
    ),
    Claim(
        "heard, not said",
        "More of the sounds can be read off the audio positions than is said.",
        "61.4 % against 23 %",
        "section 6",
        True,
        evidence.latent,
    ),
    Claim(
        "late video suppresses",
        "Cut off from the video in deep layers, the model names more of what is heard.",
        "23.2 % -> 36.8 % around layer 30 of 36",
        "figure 6 D",
        True,
        evidence.knocked_out("video", "hear", 1),
    ),
    Claim(
        "as the base would",
        "Most tokens that name sounds are the vision-only base's own first choice.",
        "66.06 % unshifted",
        "section 8",
        True,
        evidence.unshifted,
    ),
    Claim(
        "the base's rank",
        "The median rank of these tokens in the base is 1.",
        "1",
        "section 8",
        True,
        evidence.median_rank,
    ),
    Claim(
        "close to the base",
        "KL(base || model) over all tokens is about as published: between half of it and twice.",
        "0.4 nats",
        "section 8",
        False,
        evidence.divergence,
    ),
    Claim(
        "audio is needed",
        "Cut off from the audio in deep layers, the model names less of what is heard.",
        "23.2 % -> 10.5 % around layer 28 of 36",
        "figure 6 D",
        False,
        evidence.knocked_out("audio", "hear", -1),
    ),
    Claim(
        "video carries seeing",
        "Cut off from the video in deep layers, the model tells less of what is seen.",
        "56.0 % -> 15.2 % around layer 30 of 36",
        "figure 6 C",
        False,
        evidence.knocked_out("video", "see", -1),
    ),
    Claim(
        "audio is read early",
        "Audio gets more attention in the first layers than behind them.",
        "44, 32, 28 % in layers 0 to 2, 2 % in layer 3",
        "figure 4",
        False,
        evidence.early_audio,
    ),
    Claim(
        "video is read late",
        "In the last third of the layers, video gets more attention than audio.",
        "40.6 % of video in layer 27 of 36",
        "figure 4",
        False,
        evidence.late_video,
    ),
    Claim(
        "the judge is fair",
        "The judge's ranks agree with people's.",
        "rho = 0.816 audio, 0.732 video",
        "supplement B.1",
        False,
        evidence.no_people,
    ),
)
"""In the order of the paper's argument."""
