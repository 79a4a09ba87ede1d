"""Stand-ins for models whose code is not in transformers: their names, layouts and calls.

Towers are single projections of fixed width. What is true of the released models is which tensors
a checkpoint has, under which names and in which order; the calls; what reaches the decoder; and
what the released code did when it was run with tiny weights, silently or with an error. The code
was written for these tests.
"""

from tests.support.standins.internvl import random_internvl
from tests.support.standins.minicpm_o import random_minicpm_o
from tests.support.standins.minicpm_o_4_5 import random_minicpm_o_4_5
from tests.support.standins.parts import write
from tests.support.standins.videollama2 import random_videollama2

__all__ = ["STANDINS", "write"]

STANDINS = {
    "minicpm-o-2.6": random_minicpm_o,
    "minicpm-o-4.5": random_minicpm_o_4_5,
    "videollama2.1-av": random_videollama2,
    "internvl2": lambda seed=0: random_internvl(False, seed),
    "internomni": lambda seed=0: random_internvl(True, seed),
}
"""Model and processor by family."""
