"""Do heard minus seen, and a contrast against silence, do what they are for on the organisms?

    python -m benchmarks.listening [--clips 9]

Counterfactual clips of a world of seed 11. First `forced` and `which` of `choice`, the latter in
the organisms' words: heard minus seen of both, the effect of the order, how well it tells them
apart (AUC over clips), and its rank correlation with each clip's fidelity by words. Then captions
of `organism-biased` whose every token is chosen with weights 1 + a for the clip and -a for the clip
without its sound, and of how many the right event is named.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.stats import mannwhitneyu, spearmanr

from analyses import captions, choice
from analyses.cases import Case, read_cases
from analyses.choice.measures import answers, heard_minus_seen
from benchmarks.timing import machine
from data_prep.organism.world.dataset import write_world
from hooked_omni import HookedOmni, knockout, load, prefill
from hooked_omni.decoding.contrast import Contrast, Term, contrast
from hooked_omni.decoding.generate import Decoding

N_NEW, SEED = 16, 11
WITHOUT_SOUND = [knockout("generated+last !-> A")]
WORDS = {"which": "You can hear a {} and a {}. Describe what you hear.", "which answer": "a {}"}
BY: dict[str, Any] = {"forced": "per token", "which": "whole"}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=9, help="of each of the world's things")
    clips = parser.parse_args().clips
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder), clips, SEED, "test")
        cases = {
            question: read_cases(
                Path(folder, "pairs.jsonl"), (question,), ["counterfactual"], wording=WORDS
            )
            for question in (*BY, "hear", "see")
        }
        print(f"{machine()}\n\n{len(cases['hear'])} counterfactual clips\n")
        for question in BY:
            _heard_minus_seen(question, cases)
        _contrasts(load("organism-biased"), cases)


def _heard_minus_seen(question: str, cases: dict[str, list[Case]]) -> None:
    unit = "nats a token" if BY[question] == "per token" else "nats"
    columns = f"heard minus seen, {unit}", "order effect", "names what is heard", "Spearman"
    print(f"| `{question}` | {' | '.join(columns)} |\n{'|---' * 5}|")
    odds = []
    for name in ("organism-biased", "organism-balanced"):
        omni = load(name)
        table = choice.run(omni, cases[question], choice.Config(by=BY[question]))
        own = heard_minus_seen(answers(table)).set_index("sample")
        said = captions.run(omni, cases["hear"], captions.Config(N_NEW)).set_index("sample")
        faithful = 1.0 * ((said["heard_found"] == 1) & (said["seen_found"] == 0))
        odds.append(own["odds"].to_numpy())
        both = odds[-1], faithful.loc[own.index].to_numpy()
        rank = np.nan if both[1].std() == 0 else cast(Any, spearmanr(*both)).statistic
        numbers = f"{both[0].mean():.2f} | {own['order_effect'].mean():.2f}"
        print(f"| {name} | {numbers} | {100 * both[1].mean():.0f} % | {rank:.2f} |")
    auc = mannwhitneyu(odds[1], odds[0]).statistic / (len(odds[0]) * len(odds[1]))
    print(f"\nAUC {auc:.3f}, n = {len(odds[0])} each\n", flush=True)


def _contrasts(omni: HookedOmni, cases: dict[str, list[Case]]) -> None:
    columns = "asked to hear, what is heard", "asked to see, what is seen"
    print(f"| a | {' | '.join(columns)} |\n{'|---' * 3}|")
    for a in (0.0, 1.0, 4.0):
        how = Contrast((Term(1 + a), Term(-a, WITHOUT_SOUND)))
        shares = [_named(omni, cases[q], what, how) for q, what in (("hear", 0), ("see", 1))]
        print(f"| {a:g} | {100 * shares[0]:.0f} % | {100 * shares[1]:.0f} % |", flush=True)


def _named(omni: HookedOmni, cases: list[Case], what: int, how: Contrast) -> float:
    """Share of the captions that name all of "heard" or "seen", and nothing of the other."""
    right = []
    for case in cases:
        prompt = prefill(omni.model, omni.embed(case.prompt))  # pyright: ignore[reportArgumentType]
        text = contrast(omni.model, prompt, how, Decoding(N_NEW)).text
        events = [case.events()[name] for name in ("heard", "seen")]
        right.append(events[what].share(text) == 1 and not events[1 - what].share(text))
    return float(np.mean(right))


if __name__ == "__main__":
    main()
