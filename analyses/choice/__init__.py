"""Which answer does the model prefer?

The options of a question are scored as its answers (teacher forcing), in one pass over the prompt,
plain and under any interventions; nothing is decoded, and nobody judges. Asked which of two sounds
is heard, the log-odds of the right one are *heard minus seen*. Benchmarks: AVHBench
(arXiv 2410.18325) and others, as `data_prep import` reads them.
"""

from analyses.choice.figure import headline, plot
from analyses.choice.table import Config, run

__all__ = ["Config", "headline", "plot", "run"]
