"""Does what we found agree with what was published?

The paper's claims, each with its number, what would show it, and what we found, in two ways.
Direction: is there an effect of this sign, beyond the smallest that would be of interest? The claim
agrees if the whole 95 % band says so, differs if none of it does, and is undecided if it contains
both sides; of a knockout the band holds for all windows at once. Size: does the band contain the
paper's number for the same model, question and clips? With fewer than 12 samples that have numbers,
or than half of them, a claim is not testable. Claims of the *bias* are those that a model which
trusts its eyes shows and one that does not must fail; the others are of how the model works inside.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analyses.study import answers, inside
from analyses.study.effect import Observed, Untestable, Verdict
from analyses.study.evidence import Evidence
from hooked_omni.errors import FileError, ResultsError


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
        """Of the direction."""
        return "not testable here" if self.observed is None else self.observed.verdict

    @property
    def ours(self) -> str:
        """Our numbers with their bands, or why there are none."""
        if self.observed is None:
            return self.why_not
        return "; ".join([self.observed.means, *(e.direction for e in self.observed.effects)])

    @property
    def size(self) -> str:
        """Whether our bands contain the paper's numbers of this model; a dash if it has none."""
        effects = () if self.observed is None else self.observed.effects
        return "; ".join(one.size for one in effects if one.size) or "-"


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="audio collapses",
        sentence="With another clip's sound, audio fidelity falls.",
        published="53.0 % -> 23.2 %",
        source="figure 6 B, D",
        of_bias=True,
        measure=answers.audio_falls,
    ),
    Claim(
        name="video holds",
        sentence="Audio fidelity falls by more than video fidelity does.",
        published="by 29.8 against 6.7 points",
        source="figure 6, baselines",
        of_bias=True,
        measure=answers.more_than_video,
    ),
    Claim(
        name="the picture is named",
        sentence="Asked what it hears, the model names more of what is seen than of what is heard.",
        published="no number",
        source="sections 1, 6",
        of_bias=True,
        measure=answers.names_the_seen,
    ),
    Claim(
        name="heard, not said",
        sentence="More of the sounds can be read off the audio positions than is said.",
        published="61.4 % read, 23 % said",
        source="section 6",
        of_bias=True,
        measure=answers.latent,
    ),
    Claim(
        name="late video suppresses",
        sentence="Cut off from the video in deep layers, the model names more of what is heard.",
        published="23.2 % -> 36.8 % around layer 30 of 36",
        source="figure 6 D",
        of_bias=True,
        measure=answers.knocked_out("video", "hear", 1),
    ),
    Claim(
        name="as the base would",
        sentence="Most words that name sounds are the vision-only base's own first choice.",
        published="66.06 % unshifted",
        source="section 8",
        of_bias=True,
        measure=inside.unshifted,
    ),
    Claim(
        name="the base's rank",
        sentence="The median rank of these words in the base is 1.",
        published="1",
        source="section 8",
        of_bias=True,
        measure=inside.median_rank,
    ),
    Claim(
        name="close to the base",
        sentence="KL(base || model) over all tokens lies between half of the published and twice.",
        published="0.4 nats",
        source="section 8",
        measure=inside.divergence,
    ),
    Claim(
        name="audio is needed",
        sentence="Cut off from the audio in deep layers, the model names less of what is heard.",
        published="23.2 % -> 10.5 % around layer 28 of 36",
        source="figure 6 D",
        measure=answers.knocked_out("audio", "hear", -1),
    ),
    Claim(
        name="video carries seeing",
        sentence="Cut off from the video in deep layers, the model tells less of what is seen.",
        published="56.0 % -> 15.2 % around layer 30 of 36",
        source="figure 6 C",
        measure=answers.knocked_out("video", "see", -1),
    ),
    Claim(
        name="audio is read early",
        sentence="Audio gets much attention in the first layers, and near to none after them.",
        published="44, 32, 28 % in layers 0 to 2, 2 % in layer 3",
        source="figure 4",
        measure=inside.early_audio,
    ),
    Claim(
        name="video is read late",
        sentence="In the last third of the layers, video gets more attention than audio.",
        published="40.6 % of video in layer 27 of 36",
        source="figure 4",
        measure=inside.late_video,
    ),
    Claim(
        name="the judge is fair",
        sentence="The judge's ranks agree with people's.",
        published="rho = 0.816 audio, 0.732 video",
        source="supplement B.1",
        measure=answers.judge_is_fair,
    ),
    Claim(
        name="no need of video",
        sentence="Without reading the video, accuracy on AVHBench's video-driven audio "
        "hallucination changes by less than 5 points.",
        published="75.6 % with both, 73.0 % without video",
        source="remark on AVHBench",
        measure=answers.without_video,
    ),
)
"""In the order of the paper's argument."""


def check(
    tables: Mapping[str, pd.DataFrame],
    scores: pd.DataFrame,
    ratings: Sequence[Path] = (),
    claims: Sequence[Claim] = CLAIMS,
) -> list[Finding]:
    """Every claim against the tables of a study, its judge's scores, and people's ratings."""
    given, found = Evidence(tables, scores, ratings), []
    for claim in claims:
        try:
            found.append(Finding(claim, claim.measure(given)))
        except (Untestable, ResultsError, FileError) as reason:
            found.append(Finding(claim, None, str(reason)))
    return found
