"""What do a choice and a contrast cost? `python -m benchmarks.choice [--rounds 5]`.

36 layers x 256, one CPU thread, on clips of noise of some 900 and 1 700 positions: a question of
four lettered options beside one bare pass over its prompt, media and towers apart; a contrast of
two conditions on one prompt beside a plain caption of 32 tokens. The ways take turns; seconds are
of processor time.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from analyses import choice
from analyses.cases import Case
from benchmarks.analyses import N_NEW, clip, models
from benchmarks.timing import in_turn, machine
from data_prep.questions import lettered
from hooked_omni import Prompt, knockout
from hooked_omni.decoding.contrast import Contrast, Term, contrast
from hooked_omni.decoding.generate import Decoding


def main() -> None:
    """Print both ratios at both lengths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    model = models()[0]
    decoding = Decoding(N_NEW)
    how = Contrast((Term(2.0), Term(-1.0, [knockout("last+generated !-> A")])))
    print(f"{machine()}\n\n| positions | way | seconds | beside | ratio |\n{'|---' * 5}|")
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (4, 9):
            question = lettered("What sounds?", ["a dog", "rain", "a bell", "a horn"], 0)
            prompt = model.embed(Prompt(question.text, video=clip(Path(folder), seconds)))
            case = Case(prompt, "clip", choice=question)
            timed = in_turn(
                {
                    "a pass": lambda prompt=prompt: model.model(prompt),
                    "a choice": lambda case=case: choice.run(model, [case]),
                    "a caption": lambda prompt=prompt: model.model.generate(prompt, decoding),
                    "a contrast": lambda prompt=prompt: contrast(
                        model.model, prompt, how, decoding
                    ),
                },
                rounds,
                time.process_time,
            )
            for way, beside in (("a choice", "a pass"), ("a contrast", "a caption")):
                ratio = timed[way] / timed[beside]
                row = f"| {prompt.n_pos} | {way} | {timed[way]:.2f} s | {beside} | {ratio:.2f} |"
                print(row, flush=True)


if __name__ == "__main__":
    main()
