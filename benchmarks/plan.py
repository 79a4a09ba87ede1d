"""Is a plan's memory what is measured? `python -m benchmarks.plan`: within 20 % at every stage.

Each shape runs in a process of its own, on the CPU with random weights and embeddings in place of a
clip. Peaks are of resident memory above that before the model was made. `10 minutes` is a tiny
model on 100 000 positions, of which 15 000 are sound. `--towers CLIP` measures instead what towers
of small random models take of a clip, of which inputs are the most.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from analyses import attention_share, distribution_shift, knockout, logit_lens, modality_reliance
from analyses.cases import Case, embedded, plain_answer, prefilled
from analyses.costs import Costs, PromptSizes
from benchmarks.timing import machine
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, Spans, load
from hooked_omni import knockout as cut
from hooked_omni.decoder.memory import opened_bytes
from hooked_omni.decoding.prefill import prefill
from hooked_omni.hf.capture import captured_inputs
from hooked_omni.hf.loading import unloaded
from hooked_omni.hf.tower_memory import tower_bytes
from hooked_omni.organisms.random_weights import built, random_omni, random_vl

N_NEW = 32


class Shape(NamedTuple):
    """Of a decoder, and of a prompt."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_mlp: int
    n_pos: int


SHAPES = {
    "small": Shape(2, 128, 8, 4, 8192, 2_000),
    "wide": Shape(2, 512, 8, 2, 8192, 4_000),
    "deep": Shape(24, 256, 4, 4, 512, 4_000),
    "10 minutes": Shape(2, 64, 4, 2, 128, 100_000),
}


def model(shape: Shape, build: Callable[..., Any]) -> HookedOmni:
    """A random model whose captions end by their length alone."""
    hf, processor = build(0, *shape[:4])
    hf.config.get_text_config().intermediate_size = shape.d_mlp
    omni = HookedOmni.from_hf(built(type(hf), hf.config, 0, processor.tokenizer), processor)
    omni.model.cfg.eos_tokens = ()
    return omni


def prompt_of(omni: HookedOmni, n_pos: int, hears: bool) -> EmbeddedPrompt:
    """Random tokens, of which most stand for video and 15 % for sound."""
    tokens = torch.randint(0, 256, (1, n_pos), generator=torch.Generator().manual_seed(0))
    prompt = omni.model.as_prompt(tokens.to(omni.model.cfg.device))
    video, audio = (
        torch.arange(20, n_pos * 8 // 10),
        torch.arange(n_pos * 8 // 10, n_pos * 95 // 100),
    )
    spans = {"video": video} | ({"audio": audio} if hears else {})
    return replace(prompt, spans=Spans(spans, n_pos), facts={})


def resident(what: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at its peak."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0])


def stages(shape: Shape) -> Iterator[tuple[str, float, float]]:
    """Each stage with its measured and its planned peak, in bytes."""
    gc.collect()
    start = resident("VmRSS")
    omni, base = model(shape, random_omni), model(shape, random_vl)
    prompt = prompt_of(omni, shape.n_pos, hears=True)
    theirs = prompt_of(base, shape.n_pos * 8 // 10, hears=False)
    every = {id(p): p.nbytes for one in (omni, base) for p in one.hf.parameters()}
    costs = Costs(omni.model.cfg, sum(every.values()), base.model.cfg)
    configs = settings(N_NEW, 2**29)
    counts = {"prompt": prompt.n_pos, **{k: len(at) for k, at in prompt.spans.positions.items()}}
    sizes = PromptSizes(counts, theirs.n_pos)
    # The base's prompt stands all the time here; a run embeds it when it comes to it.
    beside = start + theirs.embeds.nbytes

    for name, work in works(omni, base, prompt, theirs, configs).items():
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        work()
        own = {"pass": costs.prefill(shape.n_pos), "answer": costs.answer(shape.n_pos, N_NEW)}
        planned = own.get(name) or costs.analysis(name, configs[name], sizes)
        yield name, resident("VmHWM") - beside, costs.standing(sizes) + planned[0]
    yield "a cut of the prompt's own positions", *opened(omni, prompt, costs, sizes, beside)


def settings(n_new: int, memory_budget: int | None) -> dict[str, Any]:
    """Configs of the five analyses, for answers of so many tokens."""
    return {
        "attention_share": attention_share.Config(n_new),
        "logit_lens": logit_lens.Config(),
        "knockout": knockout.Config(max_new_tokens=n_new, memory_budget=memory_budget),
        "distribution_shift": distribution_shift.Config(n_new),
        "modality_reliance": modality_reliance.Config(("mute",), max_new_tokens=n_new),
    }


def works(
    omni: HookedOmni,
    base: HookedOmni,
    prompt: EmbeddedPrompt,
    theirs: EmbeddedPrompt,
    configs: dict[str, Any],
) -> dict[str, Callable[[], object]]:
    """All that is done with one case, in order: the pass, the answer, and five analyses."""
    shared, n_new = [Case(prompt, "clip")], configs["attention_share"].max_new_tokens

    def rests() -> None:
        before, other = shared[0].prefilled_prompt, replace(prompt, embeds=prompt.embeds.clone())
        other.embeds[:, 20:] *= 0.5  # as if frames were blank
        assert before is not None
        omni.model.score(prefill(omni.model, other, like=before), torch.arange(n_new), [[]])

    return {
        "pass": lambda: shared.append(prefilled(omni, shared.pop())),
        "answer": lambda: plain_answer(omni, shared[0], embedded(omni, shared[0]), n_new),
        "attention_share": lambda: attention_share.run(omni, shared, configs["attention_share"]),
        "logit_lens": lambda: logit_lens.run(omni, shared, configs["logit_lens"]),
        "knockout": lambda: knockout.run(omni, shared, configs["knockout"]),
        "distribution_shift": lambda: distribution_shift.run(
            omni,
            shared,
            configs["distribution_shift"],
            base=base,
            base_prompts={shared[0].id: theirs},
        ),
        "modality_reliance": rests,
    }


def opened(
    omni: HookedOmni, prompt: EmbeddedPrompt, costs: Costs, sizes: PromptSizes, beside: int
) -> tuple[float, float]:
    """A knockout that opens the prompt's own attention, in the last layer, within its budget."""
    last = omni.model.cfg.n_layers - 1
    omni.model.cfg.attention_budget = 2**28
    streams = 8 * prompt.embeds.nbytes
    scores = opened_bytes(omni.model.cfg, prompt.n_pos, prompt.n_pos) + streams
    n_bytes = costs.answer(prompt.n_pos, 1)[0] + max(scores, costs.prefill(prompt.n_pos)[0])
    Path("/proc/self/clear_refs").write_text("5")
    omni.model.generate(prompt, max_new_tokens=1, fwd_hooks=[cut(f"A !-> V @ {last}")])
    return resident("VmHWM") - beside, costs.standing(sizes) + n_bytes


def towers(name: str, clip: Path) -> tuple[float, float]:
    """Measured and planned peak of the towers of a model that comes with the package, in bytes."""
    ours, real = unloaded(name), load(name).towers
    assert real is not None
    made: Any = {"use_audio_in_video": ours.family.hears} if ours.family.sees else {}
    made["video" if ours.family.sees else "audio"] = clip
    prompt = Prompt("What?", **made)
    header, inputs = ours.header_inputs(prompt), real._inputs(prompt, real.read_media(prompt))
    planned = tower_bytes(ours, header)
    captured_inputs(real.hf, real.family, inputs)  # code is loaded when it is first used
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    start = resident("VmRSS") - sum(v.nbytes for v in inputs.values() if hasattr(v, "nbytes"))
    Path("/proc/self/clear_refs").write_text("5")
    captured_inputs(real.hf, real.family, inputs)
    return resident("VmHWM") - start, planned or float("nan")


def main() -> None:
    """Print the table, or with `--shape` what one process measured, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=[*SHAPES])
    parser.add_argument("--towers", type=Path, metavar="CLIP")
    given = parser.parse_args()
    if given.towers:
        for name in ("omni", "omni3", "qwen2-vl", "vl", "vl3", "audio", "qwen3-asr", "phi4"):
            measured, planned = towers(f"random-{name}", given.towers)
            print(f"| {name} | {measured / 2**20:.1f} MiB | {planned / measured:.2f} |", flush=True)
        return
    if chosen := given.shape:
        list(stages(Shape(2, 64, 4, 2, 128, 500)))  # code is loaded when it is first used
        for row in stages(SHAPES[chosen]):
            print(json.dumps(row), flush=True)
        return
    print(f"{machine()}\n\n| shape | stage | planned | measured | planned / measured |")
    print("|---|---|---|---|---|")
    for name in SHAPES:
        for stage, measured, planned in rows(name):
            sizes = " | ".join(f"{n / 2**20:.0f} MiB" for n in (planned, measured))
            print(f"| {name} | {stage} | {sizes} | {planned / measured:.2f} |", flush=True)


def rows(shape: str) -> list[tuple[str, float, float]]:
    """What a process of its own measured."""
    # Else freed memory of some megabytes stays with the process.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.plan", "--shape", shape]
    out = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [tuple(json.loads(line)) for line in out.splitlines() if line.startswith("[")]


if __name__ == "__main__":
    main()
