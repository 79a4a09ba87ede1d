"""What does each head, MLP and the embedding add to heard minus seen?"""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analyses.cases import Case, Cases, tabulate
from analyses.circuit_configs import HeadsConfig as Config
from analyses.forks import fork_of
from analyses.heads.direct import Direct, direct
from hooked_omni import HookedOmni

COLUMNS = ("component", "layer", "head", "span", "share", "odds")


def run(omni: HookedOmni, cases: Cases, config: Config = Config()) -> pd.DataFrame:
    """Shares of heard minus seen, at the word where the two answers of a question part.

    Returns:
        One row per case and part, with

        * `sample`, `kind`, `question`: the case, of `which` or `forced`.
        * `component`: "head", "mlp", or "embedding" (with what blocks are given of the picture).
        * `layer`: missing for the embedding. `head`, `span`: which head, and what it read there;
          missing for others. The span "other" is all that `config.spans` do not have.
        * `share`: what it adds to the log-odds, in nats; above 0, towards what is heard. The final
          norm is divided by its scale in this run, as if the part could not change it.
        * `odds`: heard minus seen, the sum of a case's shares but for rounding.

        Cases of other questions, or whose answers do not part, are skipped.
    """
    table = tabulate(omni, lambda case: _rows(omni, case, config), cases, COLUMNS)
    return table.astype({"layer": "Int64", "head": "Int64"})


def _rows(omni: HookedOmni, case: Case, config: Config) -> Iterator[dict[str, Any]]:
    at, before = fork_of(omni, case, config.options)
    spans = [name for name in config.spans if name in at.prompt.spans]
    yield from _measures(direct(omni.model, at, spans, before))


def _measures(found: Direct) -> Iterator[dict[str, Any]]:
    nothing: dict[str, Any] = dict(layer=None, head=None, span=None, odds=found.odds)
    yield nothing | dict(component="embedding", share=found.embedding)
    for layer, mlp in enumerate(found.mlps.tolist()):
        yield nothing | dict(component="mlp", layer=layer, share=mlp)
        for head, own in enumerate(found.heads[layer].tolist()):
            for span, share in zip(found.spans, own, strict=True):
                named = dict(component="head", layer=layer, head=head, span=span)
                yield nothing | named | dict(share=share)
