"""What do captions and sweeps cost at real sizes? Random weights in bf16, on a GPU.

`python -m benchmarks.gpu` for the 3B and 7B shapes: 3 250 prompt positions, 64 new tokens, 72
conditions; `--dry-run` shows on any machine that the script works. The floor of a step is the time
to read the weights once at the memory bandwidth given.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import transformers

from benchmarks.sweep import cuts, hf_caption, hf_cut
from benchmarks.timing import machine
from hooked_omni import HookedOmni, Spans, knockout, prove

SHAPES = {
    "3B": dict(layers=36, d_model=2048, heads=16, kv_heads=2, d_mlp=11008, vocab=151936),
    "7B": dict(layers=28, d_model=3584, heads=28, kv_heads=4, d_mlp=18944, vocab=152064),
    "dry run": dict(layers=12, d_model=64, heads=4, kv_heads=2, d_mlp=128, vocab=512),
}


def build(shape: dict[str, int], device: str) -> HookedOmni:
    """A thinker of the given shape with small towers, which are not used."""
    half = shape["d_model"] // shape["heads"] // 2
    side = half * 3 // 8
    no_declared_field: dict[str, Any] = {"vision_start_token_id": 151652}  # but it is read
    config = transformers.Qwen2_5OmniThinkerConfig(
        text_config=dict(
            vocab_size=shape["vocab"],
            hidden_size=shape["d_model"],
            intermediate_size=shape["d_mlp"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["kv_heads"],
            rope_theta=1e6,
            rope_scaling={"type": "default", "mrope_section": [half - 2 * side, side, side]},
        ),
        vision_config=dict(depth=1, hidden_size=32, num_heads=2, out_hidden_size=shape["d_model"]),
        audio_config=dict(
            d_model=32, encoder_layers=1, encoder_attention_heads=2, output_dim=shape["d_model"]
        ),
        **no_declared_field,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        hf = transformers.Qwen2_5OmniThinkerForConditionalGeneration(config).eval()
    torch.set_default_dtype(torch.float32)
    hf.generation_config.eos_token_id = None
    return HookedOmni.from_hf(hf.requires_grad_(False))


def seconds(work: Callable[[], object], runs: int) -> float:
    """Median seconds, after a warm-up, with the device's queue empty at both ends."""
    times = []
    for _ in range(runs + 1):
        _wait()
        start = time.perf_counter()
        work()
        _wait()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[runs // 2]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@torch.no_grad()
def row(name: str, n_pos: int, n_new: int, n_cuts: int, device: str, bandwidth: float) -> str:
    """One row of the table."""
    omni = build(SHAPES[name], device)
    words = min(SHAPES[name]["vocab"], 100_000)  # below the placeholders of sound and picture
    tokens = torch.randint(0, words, (1, n_pos), device=device)
    prompt = omni.model.as_prompt(tokens)
    video, audio = torch.arange(20, n_pos * 9 // 10), torch.arange(n_pos * 9 // 10, n_pos - 20)
    prompt = replace(prompt, spans=Spans({"video": video, "audio": audio}, n_pos))
    chosen = cuts(omni.model.cfg.n_layers, n_cuts)
    conditions: list[Any] = [[knockout(query="generated", key=k, layers=w)] for k, w in chosen]
    report = prove(omni, prompt)
    sdpa = seconds(lambda: hf_caption(omni, prompt, n_new), 3)
    ours = seconds(lambda: omni.model.generate(prompt, max_new_tokens=n_new, stop_at_eos=False), 3)
    first = seconds(lambda: omni.model.generate(prompt, max_new_tokens=1), 3)
    sweep = seconds(
        lambda: omni.model.generate_many(
            prompt, conditions, max_new_tokens=n_new, stop_at_eos=False
        ),
        1,
    )
    omni.hf.set_attn_implementation("eager")
    with hf_cut(omni, prompt, chosen[0]):
        eager = seconds(lambda: hf_caption(omni, prompt, n_new), 1)
    weights = sum(p.numel() * p.element_size() for p in omni.model.parameters())
    floor = weights / bandwidth
    step = (ours - first) / (n_new - 1)
    return (
        f"| {name} | {n_pos} | {n_new} | {len(chosen)} | {1000 * sdpa:.0f} | {1000 * eager:.0f} | "
        f"{1000 * ours:.0f} | {1000 * step:.2f} = {step / floor:.1f} x {1000 * floor:.2f} | "
        f"{1000 * sweep:.0f} | {sweep / sdpa:.2f} | {len(chosen) * eager / sweep:.1f} | "
        f"{report.prefill:g} / {report.decode:g} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Captions and sweeps at real sizes, in bf16.")
    parser.add_argument("--dry-run", action="store_true", help="a tiny shape, on any machine")
    parser.add_argument("--bandwidth", type=float, default=4.8e12, help="bytes a second; H200")
    arguments = parser.parse_args()
    print(machine(), end="\n\n")
    print(
        "| model | positions | new tokens | conditions | HF sdpa, ms | HF eager with a mask, ms | "
        "ours, ms | decode step, ms | sweep, ms | in HF sdpa captions | times faster than eager "
        "runs | largest logit difference, prefill / decode |"
    )
    print("|---" * 12 + "|")
    if arguments.dry_run:
        print(row("dry run", 400, 8, 8, "cpu", arguments.bandwidth))
        return
    if not torch.cuda.is_available():
        raise SystemExit("expected a GPU, found none. Use --dry-run to try the script.")
    for name in ("3B", "7B"):
        print(row(name, 3250, 64, 72, "cuda", arguments.bandwidth), flush=True)


if __name__ == "__main__":
    main()
