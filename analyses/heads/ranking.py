"""Which heads carry a span, over clips?"""

from typing import Any

import pandas as pd

from analyses.plots.statistics import mean_band


def ranking(table: pd.DataFrame, span: str) -> pd.DataFrame:
    """Heads by how much they add for having read a span, the most first.

    ```python
    best = ranking(table, "audio").head(5)
    [(row.layer, row.head) for row in best.itertuples()]
    ```

    Returns:
        A row per head: `layer`, `head`, and `mean`, `low`, `high`, `n` and `missing` of its share
        in nats, as `mean_band`. Sorted by the mean: what pushes towards what is heard comes first,
        what pushes towards what is seen comes last. A table of several kinds or questions is one
        of all its clips, each with the mean of its rows.
    """
    rows: Any = table[(table["component"] == "head") & (table["span"] == span)]
    own = rows.groupby(["sample", "layer", "head"], as_index=False)["share"].mean()
    own.attrs = table.attrs
    bands: Any = mean_band(own, "share", by=["layer", "head"])
    return bands.sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def specialists(table: pd.DataFrame) -> pd.DataFrame:
    """How much more a head adds for sound than for picture: one row per head.

    `audio` and `video` are mean absolute shares over clips, in nats; `specialty` is their
    difference over their sum, from -1 (picture alone) to 1 (sound alone).
    """
    rows: Any = table[(table["component"] == "head") & table["span"].isin(["audio", "video"])]
    sizes = rows.assign(size=rows["share"].abs())
    every = sizes.pivot_table("size", ["layer", "head"], "span", aggfunc="mean")
    both = every.reindex(columns=["audio", "video"]).fillna(0.0)
    whole = both["audio"] + both["video"]
    return both.assign(specialty=(both["audio"] - both["video"]) / whole).reset_index()
