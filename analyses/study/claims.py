"""Does what we found agree with what was published?

The paper's claims, each with its number, what would show it, and what we found. A claim agrees if
its 95 % band lies wholly on the claim's side (of a knockout: if a permutation test, corrected over
the windows, gives p < 0.05), and differs if it does not; with fewer than 12 samples that have
numbers it is not testable. Claims of the *bias* are those that a model which trusts its eyes shows
and one that does not must fail; the others are of how the model works inside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from analyses.study import evidence
from analyses.study.evidence import Evidence, Observed, Untestable
from hooked_omni.errors import ResultsError

Verdict = Literal["agrees", "differs", "not testable here"]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        name: In two or three words.
        sentence: What is claimed, in a form that a number decides.
        published: The paper's number.
        source: Where it stands.
        measure: From the evidence to what we found, and whether it agrees.
        of_bias: Whether a model without the bias must fail it.
    """

    name: str
    sentence: str
    published: str
    source: str
    measure: Callable[[Evidence], Observed]
    of_bias: bool = False


@dataclass(frozen=True)
class Finding:
    """A claim, and what we found of it: None if it is not testable here, for `why_not`."""

    claim: Claim
    observed: Observed | None
    why_not: str = ""

    @property
    def verdict(self) -> Verdict:
        """The comparison."""
        if self.observed is None:
            return "not testable here"
        return "agrees" if self.observed.agrees else "differs"

    @property
    def ours(self) -> str:
        """Our number with its band, or why there is none."""
        if self.observed is None:
            return self.why_not
        return "; ".join(filter(None, (self.observed.means, self.observed.rests_on)))


def check(tables: Mapping[str, pd.DataFrame], scores: pd.DataFrame) -> list[Finding]:
    """Every claim against the tables of a study and its judge's scores."""
    given, found = Evidence(tables, scores), []
    for claim in CLAIMS:
        try:
            found.append(Finding(claim, claim.measure(given)))
        except (Untestable, ResultsError) as reason:
            found.append(Finding(claim, None, str(reason)))
    return found


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="audio collapses",
        sentence="With another clip's sound, audio fidelity falls by half or more.",
        published="60 % -> 23 %; 53.0 % -> 23.2 %",
        source="section 6; figure 6 B, D",
        of_bias=True,
        measure=evidence.audio_falls,
    ),
    Claim(
        name="video holds",
        sentence="Audio fidelity falls by more than video fidelity does.",
        published="by 29.8 against 6.7 points",
        source="figure 6, baselines",
        of_bias=True,
        measure=evidence.more_than_video,
    ),
    Claim(
        name="the picture is named",
        sentence="Asked what it hears, the model names what is seen rather than what is heard.",
        published="no number",
        source="sections 1, 6",
        of_bias=True,
        measure=evidence.names_the_seen,
    ),
    Claim(
        name="heard, not said",
        sentence="More of the sounds can be read off the audio positions than is said.",
        published="61.4 % against 23 %",
        source="section 6",
        of_bias=True,
        measure=evidence.latent,
    ),
    Claim(
        name="late video suppresses",
        sentence="Cut off from the video in deep layers, the model names more of what is heard.",
        published="23.2 % -> 36.8 % around layer 30 of 36",
        source="figure 6 D",
        of_bias=True,
        measure=evidence.knocked_out("video", "hear", 1),
    ),
    Claim(
        name="as the base would",
        sentence="Most tokens that name sounds are the vision-only base's own first choice.",
        published="66.06 % unshifted",
        source="section 8",
        of_bias=True,
        measure=evidence.unshifted,
    ),
    Claim(
        name="the base's rank",
        sentence="The median rank of these tokens in the base is 1.",
        published="1",
        source="section 8",
        of_bias=True,
        measure=evidence.median_rank,
    ),
    Claim(
        name="close to the base",
        sentence="KL(base || model) over all tokens lies between half of the published and twice.",
        published="0.4 nats",
        source="section 8",
        measure=evidence.divergence,
    ),
    Claim(
        name="audio is needed",
        sentence="Cut off from the audio in deep layers, the model names less of what is heard.",
        published="23.2 % -> 10.5 % around layer 28 of 36",
        source="figure 6 D",
        measure=evidence.knocked_out("audio", "hear", -1),
    ),
    Claim(
        name="video carries seeing",
        sentence="Cut off from the video in deep layers, the model tells less of what is seen.",
        published="56.0 % -> 15.2 % around layer 30 of 36",
        source="figure 6 C",
        measure=evidence.knocked_out("video", "see", -1),
    ),
    Claim(
        name="audio is read early",
        sentence="Audio gets more attention in the first layers than after them.",
        published="44, 32, 28 % in layers 0 to 2, 2 % in layer 3",
        source="figure 4",
        measure=evidence.early_audio,
    ),
    Claim(
        name="video is read late",
        sentence="In the last third of the layers, video gets more attention than audio.",
        published="40.6 % of video in layer 27 of 36",
        source="figure 4",
        measure=evidence.late_video,
    ),
    Claim(
        name="the judge is fair",
        sentence="The judge's ranks agree with people's.",
        published="rho = 0.816 audio, 0.732 video",
        source="supplement B.1",
        measure=evidence.no_people,
    ),
)
"""In the order of the paper's argument."""
