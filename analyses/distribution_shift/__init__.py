"""How far is a model that hears from the base model that only sees?

The model answers a clip with sound, greedily. The base model, its vision-only origin, gets the same
words and the same frames in its own chat template, and reads the same answer in one pass (teacher
forcing). At each token the two next-token distributions are compared: Kullback-Leibler divergence
both ways, and the rank that the base gives to the token of the answer, which is unshifted (rank 1),
marginal (2 or 3) or shifted (more). Section 8 and figure 7 of arXiv 2604.02605.

The model's own distributions are read in the same way. Distributions are over the tokens that both
models have; the probability of all others is left out, and stated.
"""

from analyses.distribution_shift.figure import headline, plot
from analyses.distribution_shift.sound_words import retagged
from analyses.distribution_shift.table import Config, run

__all__ = ["Config", "headline", "plot", "retagged", "run"]
