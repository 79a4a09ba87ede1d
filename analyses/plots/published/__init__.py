"""Numbers published in arXiv 2604.02605, to draw under our own curves.

Figures 4 and 6 were read off the published plots (within half a percentage point); `scalars` is
from the text.
"""

from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["number", "points"]


def points(name: str) -> pd.DataFrame:
    """One published table, by file name without its ending."""
    return pd.read_csv(Path(__file__).with_name(f"{name}.csv"))


def number(quantity: str, model: str = "qwen2.5-omni-3b") -> float:
    """One number of `scalars.csv`, in the unit that stands there."""
    scalars: Any = points("scalars").set_index(["model", "quantity"])["value"]
    return float(scalars[model, quantity])
