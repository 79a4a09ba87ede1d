"""Which sounds can be read off the audio positions inside the model?

The residual stream after every block is unembedded at every audio (or video) position. The
likeliest tokens are kept, onomatopoeia and words of other languages as they are, and so are the
log-probability and rank of the words by which the reference captions name what is heard. An event
is recalled in a layer if a token there names it, by the lexical matcher of `events.py`; the paper
has a language model judge the tokens. Figure 5 of arXiv 2604.02605: latent audio understanding.
"""

from analyses.logit_lens.figure import headline, plot
from analyses.logit_lens.table import Config, run

__all__ = ["Config", "headline", "plot", "run"]
