"""What does each analysis cost, next to one plain caption? `python -m benchmarks.analyses`.

36 layers x 256, 32 new tokens, as row (b) of `benchmarks.sweep`, on real clips of noise whose
prompts have about 860 and 1 660 positions. All analyses are asked of the prompt at the decoder's
door, alone and behind one prefilled prompt, as in a notebook; `modality_reliance` shows the towers
changed clips, so its part of the time for media and towers is listed too.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analyses import (
    attention_share,
    distribution_shift,
    knockout,
    logit_lens,
    modality_reliance,
)
from analyses.cases import Case
from benchmarks.sweep import peak_bytes
from benchmarks.timing import in_turn, machine
from data_prep.clips import write_clip
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt
from hooked_omni.organisms.random_weights import random_omni, random_vl
from hooked_omni.prefill import prefill

N_NEW = 32
SIZE = {"n_layers": 36, "d_model": 256, "n_heads": 4, "n_kv_heads": 2}
FPS, WIDTH, HEIGHT, RATE = 4, 420, 252, 16_000

Ways = dict[str, Callable[[], pd.DataFrame]]


def models() -> tuple[HookedOmni, HookedOmni]:
    """A random model that hears and sees, and one that sees; neither ends a caption early."""
    made = []
    for build in (random_omni, random_vl):
        hf, processor = build(**SIZE)
        hf.generation_config.eos_token_id = None
        omni = HookedOmni.from_hf(hf, processor)
        omni.model.cfg.eos_tokens = ()
        made.append(omni)
    return made[0], made[1]


def clip(folder: Path, seconds: int) -> Path:
    """Noise to see and to hear."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (FPS * seconds, HEIGHT, WIDTH, 3), dtype=np.uint8)
    sound = random.normal(0, 0.1, RATE * seconds)
    return write_clip(folder / f"{seconds}.mp4", frames, FPS, sound, RATE)


def asked(prompt: Prompt | EmbeddedPrompt) -> list[Case]:
    """One case, with captions whose words are looked for."""
    heard, seen = ("A dog barks while a siren wails.",), ("A train passes a station.",)
    return [Case(prompt, "clip", audio_captions=heard, video_captions=seen)]


def ways(
    omni: HookedOmni, base: HookedOmni, prompt: Prompt, door: EmbeddedPrompt
) -> dict[str, Callable[[], pd.DataFrame]]:
    """Each analysis of one case, with its own defaults but for the length of the answer."""
    cases = asked(door)
    silent = base.embed(replace(prompt, use_audio_in_video=False))
    shift = distribution_shift.Config(max_new_tokens=N_NEW)
    return {
        "attention_share": lambda: attention_share.run(
            omni, cases, attention_share.Config(max_new_tokens=N_NEW)
        ),
        "logit_lens": lambda: logit_lens.run(omni, cases),
        "knockout": lambda: knockout.run(omni, cases, knockout.Config(max_new_tokens=N_NEW)),
        "distribution_shift": lambda: distribution_shift.run(
            omni, cases, shift, base=base, base_prompts={cases[0].id: silent}
        ),
        "modality_reliance": lambda: modality_reliance.run(
            omni, asked(prompt), modality_reliance.Config(max_new_tokens=N_NEW)
        ),
    }


def tower_seconds(omni: HookedOmni, way: Callable[[], pd.DataFrame]) -> float:
    """Seconds that one run spends on media and towers, before the decoder's door."""
    spent, kept = [0.0], {name: getattr(omni, name) for name in ("read_media", "embed_media")}

    def timed(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            made = kept[name](*arguments)
            spent[0] += time.perf_counter() - start
            return made

        return call

    for name in kept:
        setattr(omni, name, timed(name))
    try:
        way()
    finally:
        for name in kept:
            delattr(omni, name)
    return spent[0]


def rows(omni: HookedOmni, base: HookedOmni, path: Path, runs: int) -> list[str]:
    """A line of the table for each analysis, and their sum."""
    prompt = Prompt("Describe what you hear.", video=path)
    door = omni.embed(prompt)
    alone = ways(omni, base, prompt, door)
    ready = ways(omni, base, prompt, prefill(omni.model, door))
    timed: dict[Any, Callable[[], object]] = {
        "caption": lambda: omni.model.generate(door, N_NEW),
        "prefill": lambda: prefill(omni.model, door),
        **{("alone", name): way for name, way in alone.items()},
        **{("ready", name): way for name, way in ready.items()},
    }
    seconds = in_turn(timed, runs)
    towers = tower_seconds(omni, alone["modality_reliance"])
    for state in ("alone", "ready"):
        seconds[state, "modality_reliance"] -= towers
    plain = seconds["caption"]
    bytes_ = {name: peak_bytes(way) for name, way in alone.items()}
    shown = [
        f"| {door.n_pos} | a plain caption | {plain:.2f} s | 1 | | {_mega(timed['caption'])} |"
    ]
    for name, peak in bytes_.items():
        one, other = seconds["alone", name], seconds["ready", name]
        extra = f" (and {towers:.2f} s of media and towers)" if name == "modality_reliance" else ""
        shown.append(
            f"| {door.n_pos} | {name} | {one:.2f} s{extra} | {one / plain:.2f} | "
            f"{other / plain:.2f} | {peak / 1e6:.0f} MB |"
        )
    sums = [sum(seconds[state, name] for name in alone) for state in ("alone", "ready")]
    sums[1] += seconds["prefill"]
    return [
        *shown,
        f"| {door.n_pos} | all five | {sums[0]:.2f} s | {sums[0] / plain:.2f} | "
        f"{sums[1] / plain:.2f}, the pass included | {max(bytes_.values()) / 1e6:.0f} MB |",
    ]


def _mega(way: Callable[[], object]) -> str:
    return f"{peak_bytes(way) / 1e6:.0f} MB"


@torch.no_grad()
def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="What does each analysis cost?")
    parser.add_argument("--seconds", type=int, nargs="+", default=[4, 9], help="of the clips")
    parser.add_argument("--runs", type=int, default=3, help="rounds; medians are shown")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(), end="\n\n")
    print(
        "| positions | analysis | time | in plain captions | behind a prefilled prompt | peak "
        "memory |"
    )
    print("|---" * 6 + "|")
    omni, base = models()
    with tempfile.TemporaryDirectory() as folder:
        for seconds in arguments.seconds:
            for line in rows(omni, base, clip(Path(folder), seconds), arguments.runs):
                print(line, flush=True)


if __name__ == "__main__":
    main()
