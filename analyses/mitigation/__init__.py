"""What gives the sound back, and what does it cost?

Contrasts and interventions change the answers to questions about the sound, and about the picture;
the setting of each is chosen on one half of the clips, and reported on the other, beside a random
intervention of the same size.
"""

from analyses.mitigation.figure import headline, plot
from analyses.mitigation.table import Config, run

__all__ = ["Config", "headline", "plot", "run"]
