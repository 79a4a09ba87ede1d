"""Where on the picture and in the sound did each token of an answer look?

The answer is read once more in one pass (teacher forcing), as in `attention_share`. Of each
generated position, layer and head the largest weights on positions of the prompt are kept, and the
sum of all weights on each frame, second of sound and segment; beside them the cells of the picture
and the seconds of the sound that these positions are (`Spans.grid`), and the largest errors.
Figures 1 and 7 of arXiv 2604.02605 look at a model in this way; `python -m analyses explore` draws
it on the clip.
"""

from analyses.attention_map.figure import headline, plot
from analyses.attention_map.table import Config, run

__all__ = ["Config", "headline", "plot", "run"]
