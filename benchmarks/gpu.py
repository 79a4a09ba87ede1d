"""What do captions, sweeps and analyses cost at real sizes? Random weights in bf16, on a GPU.

`python -m benchmarks.gpu --out benchmarks/gpu.md` for the 3B and 7B shapes of Qwen2.5-Omni's
thinker: 3 250 prompt positions, 64 new tokens, 72 conditions, the five analyses beside a base of
Qwen2.5-VL. Tables in Markdown: how far logits are from Hugging Face's, sdpa and eager; then each
figure with its time and its peak of memory. `--dry-run` makes all of it in small, on any machine.
The floor of a decode step is the time to read the weights once at the memory bandwidth given.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.plan import prompt_of, settings, works
from benchmarks.sweep import Cut, hf_caption, hf_cut, peak_bytes
from benchmarks.timing import machine
from hooked_omni import EmbeddedPrompt, HookedOmni, knockout, prove, windows
from hooked_omni.decoder.memory import in_words
from hooked_omni.organisms.random_weights import built, random_omni, random_vl

NO_GRAPHS = (
    "no: a decode step reads as many keys as there are, so its shapes change with every token, and "
    "it looks for NaN on the host"
)
"""Why decode steps are not captured; README.md beside this file has what it would take."""


class Sizes(NamedTuple):
    """Of a decoder, and of what is asked of it."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_mlp: int
    d_vocab: int
    n_pos: int = 3250
    n_new: int = 64
    n_cuts: int = 72


SHAPES = {
    "3B": Sizes(36, 2048, 16, 2, 11008, 151936),
    "7B": Sizes(28, 3584, 28, 4, 18944, 152064),
    "dry run": Sizes(10, 32, 4, 2, 64, 320, 96, 4, 4),
}


@dataclass(frozen=True)
class Machine:
    """Where it runs: a device, and the bytes a second that its memory gives."""

    device: str
    bandwidth: float

    def measured(self, work: Callable[[], object], runs: int = 1) -> tuple[float, int]:
        """Median seconds after a warm-up, queue empty at both ends, and the peak of memory.

        On a GPU all that is allocated, weights too; on a CPU what comes to the process.
        """
        times = []
        peak = peak_bytes(work) if self.device == "cpu" else self._peak(work)
        for _ in range(runs):
            self._wait()
            start = time.perf_counter()
            work()
            self._wait()
            times.append(time.perf_counter() - start)
        return sorted(times)[runs // 2], peak

    def _peak(self, work: Callable[[], object]) -> int:
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        work()
        self._wait()
        return torch.cuda.max_memory_allocated()

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


def chosen_cuts(sizes: Sizes) -> list[Cut]:
    """Windows of 9 layers for video and audio, and of 7 where a model has too few of these."""
    every = [
        (key, layers)
        for width in (9, 7)
        for layers in windows(sizes.n_layers, width=width)
        for key in ("video", "audio")
    ]
    return [*dict.fromkeys(every)][: sizes.n_cuts]  # cut off at an end, two may be one


def build(sizes: Sizes, device: str, make: Callable[..., Any]) -> HookedOmni:
    """A model of the real class and these sizes, in bf16, with tiny towers, which are not used."""
    tiny, processor = make()
    config = deepcopy(tiny.config)
    text, half = config.get_text_config(), sizes.d_model // sizes.n_heads // 2
    side = half * 3 // 8
    text.num_hidden_layers, text.hidden_size = sizes.n_layers, sizes.d_model
    text.num_attention_heads, text.num_key_value_heads = sizes.n_heads, sizes.n_kv_heads
    text.intermediate_size, text.vocab_size = sizes.d_mlp, sizes.d_vocab
    text.layer_types = ["full_attention"] * sizes.n_layers
    text.rope_parameters["mrope_section"] = [half - 2 * side, side, side]
    config.vision_config.out_hidden_size = sizes.d_model
    if hasattr(config, "audio_config"):
        config.audio_config.output_dim = sizes.d_model
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            hf = built(type(tiny), config, 0, processor.tokenizer)
    finally:
        torch.set_default_dtype(before)
    hf.generation_config.eos_token_id = None
    omni = HookedOmni.from_hf(hf, processor)
    omni.model.cfg.eos_tokens = ()
    return omni


def parity(omni: HookedOmni, prompt: EmbeddedPrompt, steps: int) -> Iterator[tuple[str, str]]:
    """Largest differences of logits from Hugging Face's: at prefill, and in decode steps."""
    report = prove(omni, prompt, decode_steps=steps)
    yield "logits, HF sdpa", f"{report.prefill:g} / {report.decode:g}"
    yield (
        "logits, HF eager, all layers opened",
        f"{report.prefill_opened:g} / {report.decode_opened:g}",
    )


def figures(
    omni: HookedOmni, base: HookedOmni, sizes: Sizes, on: Machine
) -> Iterator[tuple[str, float, int]]:
    """Each figure's name, seconds, and peak of memory in bytes."""
    model, n_new = omni.model, sizes.n_new
    prompt = prompt_of(omni, sizes.n_pos, hears=True)
    theirs = prompt_of(base, sizes.n_pos * 8 // 10, hears=False)
    chosen = chosen_cuts(sizes)
    conditions: list[Any] = [[knockout(query="generated", key=k, layers=w)] for k, w in chosen]
    length: dict[str, Any] = dict(max_new_tokens=n_new, stop_at_eos=False)
    yield "plain caption, HF sdpa", *on.measured(partial(hf_caption, omni, prompt, n_new), 3)
    yield "plain caption", *on.measured(partial(model.generate, prompt, **length), 3)
    yield "its first token", *on.measured(partial(model.generate, prompt, max_new_tokens=1), 3)
    sweep = partial(model.generate_many, prompt, conditions, **length)
    yield f"sweep of {len(chosen)} conditions", *on.measured(sweep)
    for name, work in works(omni, base, prompt, theirs, settings(n_new, None)).items():
        yield f"a prefilled case: {name}", *on.measured(work)
    omni.hf.set_attn_implementation("eager")
    with hf_cut(omni, prompt, chosen[0]):
        yield "one condition, HF eager", *on.measured(partial(hf_caption, omni, prompt, n_new))


def table(name: str, on: Machine, graphs: bool) -> Iterator[str]:
    """The lines of a shape's table."""
    sizes = SHAPES[name]
    omni, base = (build(sizes, on.device, make) for make in (random_omni, random_vl))
    yield f"\n### {name}: {sizes.n_layers} layers x {sizes.d_model}, bf16, random weights\n"
    yield f"{sizes.n_pos} positions, {sizes.n_new} new tokens\n"
    yield "| largest difference | prefill / decode |\n|---|---|"
    for what, differences in parity(omni, prompt_of(omni, sizes.n_pos, True), sizes.n_new):
        yield f"| {what} | {differences} |"
    yield "\n| | ms | in plain HF sdpa captions | peak memory |\n|---|---|---|---|"
    took = dict[str, float]()
    for what, seconds, peak in figures(omni, base, sizes, on):
        took[what] = seconds
        ratio = seconds / took["plain caption, HF sdpa"]
        yield f"| {what} | {1000 * seconds:.1f} | {ratio:.2f} | {in_words(peak)} |"
    five = sum(seconds for what, seconds in took.items() if what.startswith("a prefilled case"))
    step = (took["plain caption"] - took["its first token"]) / (sizes.n_new - 1)
    floor = sum(p.nbytes for p in omni.model.parameters()) / on.bandwidth
    sweep, eager = took[f"sweep of {sizes.n_cuts} conditions"], took["one condition, HF eager"]
    plain = took["plain caption, HF sdpa"]
    yield f"| **all five analyses, pass and answer** | {1000 * five:.1f} | {five / plain:.2f} | |"
    yield (
        f"\nA decode step takes {1000 * step:.2f} ms, {step / floor:.1f} x the {1000 * floor:.3f} "
        f"ms in which weights are read; the sweep is {sizes.n_cuts * eager / sweep:.1f} times "
        f"faster than eager runs. CUDA graphs: {NO_GRAPHS if graphs else 'not requested'}."
    )


@torch.no_grad()
def main(given: list[str] | None = None) -> None:
    """Print the tables, and write them."""
    parser = argparse.ArgumentParser(description="Captions, sweeps, analyses at real sizes.")
    parser.add_argument("--dry-run", action="store_true", help="a tiny shape, on the CPU")
    parser.add_argument("--cuda-graphs", action="store_true", help="of decode steps, or why not")
    parser.add_argument("--bandwidth", type=float, default=4.8e12, help="bytes a second; H200")
    parser.add_argument("--only", choices=("3B", "7B"), help="one shape")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    chosen = parser.parse_args(given)
    if not (chosen.dry_run or torch.cuda.is_available()):
        raise SystemExit("expected a GPU, got none. Use --dry-run to try the script.")
    on = Machine("cpu" if chosen.dry_run else "cuda", chosen.bandwidth)
    kind = "a dry run on the CPU: no number here is of a GPU" if chosen.dry_run else "on a GPU"
    lines = [f"{machine()}; {kind}"]
    print(lines[0])
    names = [chosen.only] if chosen.only else ["3B", "7B"]
    for name in ["dry run"] if chosen.dry_run else names:
        for line in table(name, on, chosen.cuda_graphs):
            print(line, flush=True)
            lines.append(line)
    if chosen.out is not None:
        chosen.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
