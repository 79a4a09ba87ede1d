"""Is an effect there, large enough to matter, and as large as the published one?

Three answers to the first two at once: a 95 % band that lies wholly beyond the smallest effect of
interest agrees with the claim, one that lies wholly short of it differs, and one that contains both
sides decides nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from analyses.plots.statistics import in_words

Verdict = Literal["agrees", "undecided", "differs", "not testable here"]

SMALLEST = 5.0
"""Points: the smallest effect of interest on fidelity, recall and names."""

FEWEST = 12
"""Samples; bands of fewer are too narrow."""


class Untestable(Exception):
    """What a claim needs is not there; says what."""


@dataclass(frozen=True, eq=False)
class Effect:
    """One number that a claim rests on.

    Attributes:
        name: What it is.
        point: Its `mean`, 95 % band (`low`, `high`), `n` and `missing`, as `mean_band` has them.
        above: The claim holds above this: the smallest effect of interest.
        below: And below this.
        unit: Of all these numbers.
        digits: After the point, in words.
        published: The paper's number for this model, question and kind of clips, if it has one.
    """

    name: str
    point: Mapping[str, Any]
    above: float = -math.inf
    below: float = math.inf
    unit: str = "points"
    digits: int = 1
    published: float | None = None

    def __post_init__(self) -> None:
        if self.point["n"] < FEWEST:
            raise Untestable(
                f"{self.name}: {self.point['n']} samples with numbers, {FEWEST} needed"
            )
        if not math.isfinite(self.point["low"]):
            raise Untestable(f"{self.name}: numbers that do not vary, or of too few samples")

    @property
    def verdict(self) -> Verdict:
        """Whether the whole band, a part of it, or none of it is where the claim says."""
        low, high = self.point["low"], self.point["high"]
        if self.above < low and high < self.below:
            return "agrees"
        return "differs" if high <= self.above or low >= self.below else "undecided"

    @property
    def direction(self) -> str:
        """The number with its band, and what decides."""
        limits = [f"over {self.above:g}"] * math.isfinite(self.above)
        limits += [f"under {self.below:g}"] * math.isfinite(self.below)
        found = f"{self.name} {in_words(self.point, self.unit, self.digits)}"
        return f"{found}, claimed {' and '.join(limits)}: {self.verdict}" if limits else found

    @property
    def size(self) -> str:
        """Whether the published number lies in our band; empty without one."""
        if self.published is None:
            return ""
        where = "inside" if self.point["low"] <= self.published <= self.point["high"] else "outside"
        return f"published {self.published:.{self.digits}f}: {where} our band"


@dataclass(frozen=True, eq=False)
class Observed:
    """What we found of a claim.

    Attributes:
        means: What it compares.
        effects: What decides.
        prose: The means as a sentence for any reader, about a model that is named before it.
    """

    means: str
    effects: tuple[Effect, ...]
    prose: str = ""

    @property
    def verdict(self) -> Verdict:
        """Agrees if every effect does, differs if one does."""
        verdicts = [effect.verdict for effect in self.effects]
        order: Sequence[Verdict] = ("differs", "undecided", "agrees")
        return next(verdict for verdict in order if verdict in verdicts)
