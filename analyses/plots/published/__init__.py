"""Numbers published in arXiv 2604.02605, to draw under our own curves.

Figures 4 and 6 were read off the published plots (within half a percentage point); `scalars` is
from the text.
"""

from pathlib import Path

import pandas as pd

__all__ = ["published"]


def published(name: str) -> pd.DataFrame:
    """One published table, by file name without its ending."""
    return pd.read_csv(Path(__file__).with_name(f"{name}.csv"))
