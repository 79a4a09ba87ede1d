"""Which samples are compared with each other? A clip with its twin, which has the same picture."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

import pandas as pd

from hooked_omni.errors import ResultsError

_Rows = TypeVar("_Rows", pd.Series, pd.DataFrame)


def paired(rows: _Rows, twins: Mapping[str, str]) -> _Rows:
    """Rows in which a sample has its twin's name, so that statistics draw, or flip, both at once.

    ```python
    twins = table.attrs["twins"]
    contrast([factual, paired(counterfactual, twins)], lambda f, c: f - c)
    ```

    `rows` are a series that samples index, or a table with `sample`; one without a twin keeps its
    name. Two samples that would have one name, of two kinds or of one twin, are a `ResultsError`.
    """
    samples: Any = rows.index if isinstance(rows, pd.Series) else rows["sample"]
    names: dict[str, str] = {sample: twins.get(sample, sample) for sample in samples}
    if twice := [name for name, n in Counter(names.values()).items() if n > 1]:
        both = [sample for sample, name in names.items() if name == twice[0]]
        raise ResultsError(
            f"expected one sample of each pair of twins, got {both}, all of {twice[0]!r}. Choose "
            "rows of one kind, and of one sound for each picture."
        )
    if isinstance(rows, pd.Series):
        return rows.rename(names)
    return rows.assign(sample=rows["sample"].map(names.get))
