"""Where do the words of an answer look?

For every layer, the attention that generated positions pay to audio, to video and to text, and to
the parts of the text. The answer is generated, and then read once more in one pass (teacher
forcing), in which the generated positions' patterns are reduced, a layer at a time, and never kept.
Figure 4 of arXiv 2604.02605, where audio, video and query text add up to 100 %.
"""

from analyses.attention_share.figure import headline, percents, plot
from analyses.attention_share.table import Config, run

__all__ = ["Config", "headline", "percents", "plot", "run"]
