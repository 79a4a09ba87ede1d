"""How much of an answer rests on what is heard, and how much on what is seen?

The model answers once. Then the sound is muted, or shifted against the picture, the picture is
blanked, or either is exchanged for another clip's, and the same answer is scored again, token by
token (teacher forcing): the log-probability that it loses rested on what was taken away. All
variants take the same tokens at the same positions. This is the cheapest first look at a new model:
no caption is judged, and nothing inside the model is touched. Not in arXiv 2604.02605.
"""

from analyses.modality_reliance.figure import headline, plot
from analyses.modality_reliance.table import Config, run

__all__ = ["Config", "headline", "plot", "run"]
