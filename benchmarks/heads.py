"""Do the heads that `analyses heads` names matter on other clips, and what does naming them cost?

    python -m benchmarks.heads [--clips 9] [--k 5]

Heads of `organism-balanced` are ranked by their share for having read the sound, on every other
counterfactual clip of a world of seed 11. On the rest, the best k, and 20 draws of k others, write
nothing at the last prompt position and after it: how much of heard minus seen is lost? Then the
cost of the table, prefilled, next to a plain caption of 32 tokens, 36 layers x 256, one thread.
"""

import argparse
import gc
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses import choice, heads
from analyses.cases import Case, embedded, prefilled, read_cases
from analyses.choice.measures import answers, heard_minus_seen
from analyses.heads.ranking import ranking
from benchmarks.analyses import N_NEW, Clock, clip, models
from benchmarks.timing import machine
from data_prep.organism.world.dataset import write_world
from data_prep.questions import ChoiceQuestion
from hooked_omni import Prompt, ablate, load
from hooked_omni.hooks.interventions import Condition

MODEL, SEED, DRAWS = "organism-balanced", 11, 20
Head = tuple[int, int]


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=9, help="of each of the world's things")
    parser.add_argument("--k", type=int, default=5, help="heads")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder), given.clips, SEED, "test")
        cases = read_cases(Path(folder, "pairs.jsonl"), ("forced",), ["counterfactual"])
        _ablated(cases, given.k)
        _cost(Path(folder))


def _ablated(cases: list[Case], k: int) -> None:
    omni = load(MODEL)
    best = ranking(heads.run(omni, cases[::2]), "audio")
    every: list[Head] = list(zip(best["layer"].astype(int), best["head"].astype(int), strict=True))
    dice = np.random.default_rng(SEED)
    draws = [dice.choice(len(every) - k, k, replace=False) + k for _ in range(DRAWS)]
    chosen = {"best": every[:k]}
    chosen |= {f"draw {i}": [every[n] for n in own] for i, own in enumerate(draws)}
    conditions = {name: _without(own) for name, own in chosen.items()}
    table = choice.run(omni, cases[1::2], conditions=conditions)
    odds: Any = heard_minus_seen(answers(table))
    mean = odds.groupby("condition")["odds"].mean()
    lost = (mean["plain"] - mean.drop("plain")).to_dict()
    others = [lost[name] for name in lost if name != "best"]
    print(f"{k} of {len(every)} heads, ranked on {len(cases[::2])} clips: {chosen['best']}")
    print(f"heard minus seen on {len(cases[1::2])} other clips: {mean['plain']:.2f} nats a token")
    print(f"lost without the best: {lost['best']:.2f}")
    print(f"lost without others: {np.mean(others):.2f}, at most {max(others):.2f}")
    print(f"ratio: {lost['best'] / np.mean(others):.1f}\n", flush=True)


def _without(own: list[Head]) -> Condition:
    layers = sorted({layer for layer, _ in own})
    return [
        ablate(
            "attn.hook_z", span="last+generated", layers=[n], heads=[h for m, h in own if m == n]
        )
        for n in layers
    ]


@torch.no_grad()
def _cost(folder: Path) -> None:
    omni, _ = models()
    given = ChoiceQuestion("?", ("a dog barks", "a bus drives"), "a dog barks")
    case = Case(Prompt("Describe what you hear.", video=clip(folder, 9)), "clip", choice=given)
    clock = Clock()
    gc.freeze()
    with clock.on(omni):
        prompt = embedded(omni, case)
        plain, _ = clock.seconds(lambda: omni.model.generate(prompt, max_new_tokens=N_NEW))
        alone, _ = clock.seconds(lambda: heads.run(omni, [case]))
        shared = prefilled(omni, case)
        more, _ = clock.seconds(lambda: heads.run(omni, [shared]))
    print(f"{prompt.n_pos} positions, a plain caption {plain:.2f} s of processor time")
    print(f"heads alone {alone / plain:.2f} captions, on a prefilled case {more / plain:.2f}")


if __name__ == "__main__":
    main()
