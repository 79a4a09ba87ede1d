"""What are claims checked against: which rows, of which clips and which question?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analyses import fidelity
from analyses.plots import published
from analyses.plots.statistics import POOL, contrast, pooled
from analyses.study.effect import FEWEST, Effect, Untestable


@dataclass(frozen=True, eq=False)
class Evidence:
    """The tables of a study, its judge's scores, and the files in which people rated the same."""

    tables: Mapping[str, pd.DataFrame]
    scores: pd.DataFrame
    ratings: Sequence[Path] = ()

    @property
    def twins(self) -> dict[str, str]:
        """The factual twin of each sample that has one."""
        return next(iter(self.tables.values()), pd.DataFrame()).attrs.get("twins", {})

    def table(self, name: str, kind: str = "counterfactual", question: str = "hear") -> Any:
        """Rows of one panel of an analysis; kind "all" is factual and counterfactual together."""
        return self._panel(self.tables.get(name, pd.DataFrame()), name, kind, question)

    def fidelity(self, what: str, kind: str, question: str) -> pd.Series:
        """The judge's scores of the untouched answers in percent, by sample."""
        own = fidelity.plain(self.scores)
        own = own[own["what"] == what]
        panel = self._panel(own, f"{what} fidelity", kind, question)
        return 100 * panel.set_index("sample")["score"]

    def recall(self, condition: str) -> pd.Series:
        """The judge's recall of what is heard, in percent by sample; empty if it gave none."""
        own: Any = self.scores[
            (self.scores["what"] == "recall")
            & (self.scores["condition"] == condition)
            & (self.scores["kind"] == "counterfactual")
            & (self.scores["question"] == "hear")
        ]
        return 100 * own.set_index("sample")["score"]

    def effect(
        self,
        name: str,
        groups: Sequence[pd.Series],
        of: Callable[..., Any] = lambda mean: mean,
        **more: Any,
    ) -> Effect:
        """The effect that `contrast` computes from the means of groups; `more` as in `Effect`.

        Untestable if most of a group has no numbers: what is left need not stand for the whole.
        """
        for n, n_all in ((int(group.count()), len(group)) for group in groups):
            if n < n_all / 2:
                raise Untestable(f"{name}: {n} of {n_all} samples with numbers, half needed")
        return Effect(name, contrast(groups, of, self.twins), **more)

    def published(self, quantity: str, kind: str, question: str = "hear") -> float | None:
        """The paper's number for this study's model and base, question and kind of clips."""
        return published.number(quantity, self._of, question, kind)

    def curve(self, name: str, kind: str, question: str) -> pd.DataFrame:
        """The paper's points of a figure, as `published`."""
        return published.points(name, self._of, question, kind)

    @property
    def _of(self) -> dict[str, Any]:
        """The names of the model and of its base, the judge, and the order."""
        every = [*self.tables.values(), self.scores]
        names = ("model", "base", "judge", "order")
        return {n: table.attrs[n] for table in every for n in names if n in table.attrs}

    @staticmethod
    def _panel(table: Any, name: str, kind: str, question: str) -> Any:
        n = {} if table.empty else table.groupby(["kind", "question"])["sample"].nunique()
        needed = POOL if kind == "all" else (kind,)
        counts = {one: int(n.get((one, question), 0)) for one in needed}
        if min(counts.values()) < FEWEST:
            found = " and ".join(f"{own} {one}" for one, own in counts.items())
            each = " of each" * (len(counts) > 1)
            raise Untestable(
                f"{name}: {found} samples for question {question}, {FEWEST}{each} needed"
            )
        table = pooled(table) if kind == "all" else table
        return table[(table["kind"] == kind) & (table["question"] == question)]
