"""Which layers carry sound and picture to the words of an answer?

Generated positions are stopped from reading audio, or video, in a window of layers that slides
through the model, and the answer is generated again under each window: if it names other things,
they came through these layers. All conditions and the untouched baseline decode as one batch after
one pass over the prompt. Beside the captions, two measures that need none: the log-probability of
the untouched caption, and of the words of the reference captions for what is heard and seen.
Figures 6 and 12 of arXiv 2604.02605: panels A to D are factual and counterfactual clips, with the
question what is seen and what is heard; its fidelity, which a judge gives, joins this table by row.
"""

from analyses.knockout.figure import headline, plot
from analyses.knockout.table import Config, run

__all__ = ["Config", "headline", "plot", "run"]
