"""What does each analysis cost, next to one plain caption? `python -m benchmarks.analyses`.

36 layers x 256, 32 new tokens, as row (b) of `benchmarks.sweep`, on real clips of noise whose
prompts have about 860 and 1 660 positions. Each analysis is run alone, and all five on one
`prefilled` case, as in a study, where the pass over the prompt and the answer are made once.
Reading media and the towers stand apart: they are a random model's. Captions of 10 tokens, as many
as captions of AudioCaps have in Qwen's vocabulary; the tiny tokenizer has one for each letter.
Random weights are the dearest case for `knockout`: conditions share their early layers for as long
as they say the same, and here they part after a few tokens. A trained model, as the organisms are,
leaves most captions as they are: `--chained` makes such captions, and says how many knockouts move
theirs. Seconds are of processor time, which is a thread's own on a busy machine, too. `--kernels`
says how much of a knockout is in matrix products and softmax, which no code of ours could spare.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from analyses import (
    attention_map,
    attention_share,
    distribution_shift,
    knockout,
    logit_lens,
    modality_reliance,
)
from analyses.cases import Case, embedded, plain_answer, prefilled
from benchmarks.sweep import chained, peak_bytes
from benchmarks.timing import machine
from data_prep.clips import write_clip
from hooked_omni import HookedOmni, Prompt
from hooked_omni.organisms.random_weights import random_omni, random_vl

N_NEW = 32
SIZE = {"n_layers": 36, "d_model": 256, "n_heads": 4, "n_kv_heads": 2}
FPS, WIDTH, HEIGHT, RATE = 4, 420, 252, 16_000
HEARD, SEEN = "dogs bark.", "a red bus."

ON_REQUEST = "attention_map"  # beside the five
Way = Callable[[Case], object]


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


def a_case(path: Path) -> Case:
    """One case, with captions whose words are looked for."""
    prompt = Prompt("Describe what you hear.", video=path)
    return Case(prompt, "clip", audio_captions=(HEARD,), video_captions=(SEEN,))


def ways(omni: HookedOmni, base: HookedOmni) -> dict[str, Way]:
    """Each analysis of one case, with its own defaults but for the length of the answer."""
    share, cut = attention_share.Config(N_NEW), knockout.Config(max_new_tokens=N_NEW)
    rests, moved = (
        modality_reliance.Config(max_new_tokens=N_NEW),
        distribution_shift.Config(N_NEW),
    )
    return {
        "attention_share": lambda case: attention_share.run(omni, [case], share),
        "logit_lens": lambda case: logit_lens.run(omni, [case]),
        "knockout": lambda case: knockout.run(omni, [case], cut),
        "distribution_shift": lambda case: distribution_shift.run(omni, [case], moved, base=base),
        "modality_reliance": lambda case: modality_reliance.run(omni, [case], rests),
        ON_REQUEST: lambda case: attention_map.run(omni, [case], attention_map.Config(N_NEW)),
    }


@dataclass
class Clock:
    """Seconds in the decoder and everywhere else, apart from those for media and towers."""

    towers: float = 0.0

    @contextmanager
    def on(self, *models: HookedOmni) -> Iterator[None]:
        """Count what these models spend before the decoder."""
        every = [model.towers for model in models]
        named = [(towers, name) for towers in every for name in ("read_media", "embed_media")]
        for towers, name in named:
            setattr(towers, name, self._timed(getattr(towers, name)))
        try:
            yield
        finally:
            for towers, name in named:
                delattr(towers, name)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.process_time()
            made = function(*arguments)
            self.towers += time.process_time() - start
            return made

        return call

    def seconds(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Seconds of `work` without media and towers, and seconds of these."""
        self.towers, start = 0.0, time.process_time()
        work()
        return time.process_time() - start - self.towers, self.towers


Timed = dict[tuple[str, str], tuple[float, float]]


def round_(omni: HookedOmni, every: Mapping[str, Way], case: Case, clock: Clock) -> Timed:
    """Seconds of a caption, of each analysis alone, and of each on one `prefilled` case."""
    prompt = embedded(omni, case)
    made: Timed = {
        ("", "a plain caption"): clock.seconds(
            lambda: omni.model.generate(prompt, max_new_tokens=N_NEW)
        )
    }
    for name, way in every.items():
        made["alone", name] = clock.seconds(lambda way=way: way(case))
    shared: list[Case] = []
    made["prefilled", "the pass"] = clock.seconds(lambda: shared.append(prefilled(omni, case)))
    answer = partial(plain_answer, omni, shared[0], embedded(omni, shared[0]), N_NEW)
    made["prefilled", "the answer"] = clock.seconds(answer)
    for name, way in every.items():
        made["prefilled", name] = clock.seconds(lambda way=way: way(shared[0]))
    return made


def rows(omni: HookedOmni, base: HookedOmni, path: Path, runs: int) -> list[str]:
    """A line of the table for each analysis, and their sum."""
    case, every, clock = a_case(path), ways(omni, base), Clock()
    n_pos = embedded(omni, case).n_pos
    peaks = {name: peak_bytes(lambda way=way: way(case)) for name, way in every.items()}
    five = [name for name in every if name != ON_REQUEST]
    shared: list[Case] = []  # what `prefilled` keeps counts, too
    everything = (
        lambda: shared.append(prefilled(omni, case)),
        *(lambda name=name: every[name](shared[0]) for name in five),
    )
    peaks["all"] = peak_bytes(lambda: [work() for work in everything])
    shared.clear()
    with clock.on(omni, base):
        rounds = [round_(omni, every, case, clock) for _ in range(runs)]
    median = {
        key: [statistics.median(made[key][i] for made in rounds) for i in (0, 1)]
        for key in rounds[0]
    }
    plain = median["", "a plain caption"][0]

    def shown(state: str, *names: str) -> str:
        seconds = sum(median[state, name][0] for name in names)
        return f"{seconds:.2f} s | {seconds / plain:.2f}"

    towers = {
        state: sum(own[1] for (of, _), own in median.items() if of == state)
        for state in ("alone", "prefilled")
    }
    first = ("the pass", "the answer")
    return [
        f"| {n_pos} | a plain caption | {plain:.2f} s | 1 | | | |",
        *(f"| {n_pos} | {name} | | | {shown('prefilled', name)} | |" for name in first),
        *(
            f"| {n_pos} | {name} | {shown('alone', name)} | {shown('prefilled', name)} | "
            f"{peak / 1e6:.0f} MB |"
            for name, peak in peaks.items()
            if name != "all"
        ),
        f"| {n_pos} | **all five** | {shown('alone', *five)} | "
        f"**{shown('prefilled', *first, *five)}** | {peaks['all'] / 1e6:.0f} MB |",
        f"| {n_pos} | media and towers, apart | {towers['alone']:.2f} s | | "
        f"{towers['prefilled']:.2f} s | | |",
    ]


def moved(omni: HookedOmni, path: Path) -> str:
    """How many captions knockouts move, and after how many tokens."""
    table = knockout.run(omni, [a_case(path)], knockout.Config(max_new_tokens=N_NEW))
    after = sorted(table.loc[table["n_same"] < N_NEW, "n_same"].tolist())
    return f"\n{len(after)} of {len(table) - 1} knockouts move the caption, after {after} tokens\n"


_KERNELS = ("mm", "softmax")


def kernels(omni: HookedOmni, base: HookedOmni, path: Path) -> str:
    """What part of a knockout's time, on a `prefilled` case, is in matrix products and softmax."""
    shared, way = prefilled(omni, a_case(path)), ways(omni, base)["knockout"]
    way(shared)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        way(shared)
    every = [(event.key, event.self_cpu_time_total) for event in seen.key_averages()]
    inside = sum(own for key, own in every if any(kernel in key for kernel in _KERNELS))
    return f"matrix products and softmax: {100 * inside / sum(own for _, own in every):.0f} %"


@torch.no_grad()
def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="What does each analysis cost?")
    parser.add_argument("--seconds", type=int, nargs="+", default=[4, 9], help="of the clips")
    parser.add_argument("--runs", type=int, default=3, help="rounds; medians are shown")
    parser.add_argument("--chained", type=int, metavar="STRENGTH", help="as in `benchmarks.sweep`")
    parser.add_argument("--kernels", action="store_true", help="their part, and no table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(), end="\n\n")
    omni, base = models()
    if arguments.chained:
        chained(omni, arguments.chained)
    gc.freeze()  # else a collection of all that was imported, 0.4 s, falls where it likes
    if arguments.kernels:
        with tempfile.TemporaryDirectory() as folder:
            print(kernels(omni, base, clip(Path(folder), arguments.seconds[-1])))
        return
    print(
        "| positions | analysis | alone | in plain captions | on one `prefilled` case | in plain "
        "captions | peak memory |"
    )
    print("|---" * 7 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for seconds in arguments.seconds:
            made = clip(Path(folder), seconds)
            for line in rows(omni, base, made, arguments.runs):
                print(line, flush=True)
            if arguments.chained:
                print(moved(omni, made), flush=True)


if __name__ == "__main__":
    main()
