"""Which heads carry sound, which carry picture?

At the word where an answer goes with the sound or with the picture, what every head writes into the
residual stream is split by what it reads: exact direct attribution of heard minus seen. After
arXiv 2010.12527 (direct logit attribution) and arXiv 2310.04625 (attribution by source).
"""

from analyses.heads.figure import headline, plot
from analyses.heads.table import Config, run

__all__ = ["Config", "headline", "plot", "run"]
