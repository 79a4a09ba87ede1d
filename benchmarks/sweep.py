"""What does a knockout sweep cost, next to one caption? One CPU thread: `make bench`.

(a) 12 layers x 512, 800 prompt positions, 24 new tokens, 24 conditions; (b) 36 layers x 256, 1 600
positions, 32 tokens, 72 conditions (36 windows of 9 layers, video and audio); (c) as (a) with a
mixture of 16 experts, two active, in all blocks but one, and 256 wide. The sweep runs beside
one eager Hugging Face run per condition, as the paper's scripts do it, every token is compared, and
beside one plain Hugging Face caption. `--growth` prints how the cost grows instead, `--verify` what
a known caption saves, in seconds of processor time.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import in_turn, machine
from hooked_omni import EmbeddedPrompt, HookedOmni, Spans, knockout, windows
from hooked_omni.organisms.random_qwen3 import random_omni3
from hooked_omni.organisms.random_weights import random_omni

Cut = tuple[str, range]


def build(
    n_layers: int, d_model: int, n_pos: int, n_experts: int = 0
) -> tuple[HookedOmni, EmbeddedPrompt]:
    """A random model, and a prompt of which most is video and a tenth is audio."""
    if n_experts:
        hf, processor = random_omni3(n_layers=n_layers, d_model=d_model, n_experts=n_experts)
        hf.set_experts_implementation("eager")
    else:
        hf, processor = random_omni(n_layers=n_layers, d_model=d_model, n_heads=4, n_kv_heads=2)
    hf.generation_config.eos_token_id = None
    omni = HookedOmni.from_hf(hf, processor)
    tokens = torch.randint(0, 256, (1, n_pos), generator=torch.Generator().manual_seed(0))
    prompt = omni.embed_inputs(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    video, audio = torch.arange(20, n_pos * 8 // 10), torch.arange(n_pos * 8 // 10, n_pos - 20)
    return omni, replace(prompt, spans=Spans({"video": video, "audio": audio}, n_pos))


def cuts(n_layers: int, n_conditions: int) -> list[Cut]:
    """Windows of 9 layers, for video and for audio."""
    step = max(2 * n_layers // n_conditions, 1)
    chosen = windows(n_layers, width=9, step=step)
    return [(key, layers) for key in ("video", "audio") for layers in chosen][:n_conditions]


@contextmanager
def hf_cut(omni: HookedOmni, prompt: EmbeddedPrompt, cut: Cut) -> Iterator[None]:
    """The same knockout in eager Hugging Face, as the paper's scripts do it: in the mask."""
    key, layers = cut
    columns = prompt.spans[key]

    def mask_out(_module: Any, _args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask: Tensor = kwargs["attention_mask"]
        if mask.shape[2] == 1:
            kwargs["attention_mask"] = mask.index_fill(-1, columns, torch.finfo(mask.dtype).min)
        return _args, kwargs

    decoder: Any = omni.hf.get_decoder() if hasattr(omni.hf, "get_decoder") else omni.hf.model
    handles = [
        decoder.layers[layer].self_attn.register_forward_pre_hook(mask_out, with_kwargs=True)
        for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hf_caption(omni: HookedOmni, prompt: EmbeddedPrompt, n: int) -> Tensor:
    """New tokens of a plain Hugging Face caption."""
    inputs = {"input_ids": prompt.tokens, "attention_mask": torch.ones_like(prompt.tokens)}
    out = omni.hf.generate(**inputs, max_new_tokens=n, min_new_tokens=n, do_sample=False)
    return out[0, prompt.n_pos :]


def peak_bytes(work: Callable[[], object]) -> int:
    """How far resident memory rises above its start while `work` runs."""
    Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text
    before = int(status().split("VmRSS:")[1].split()[0])
    work()
    return 1024 * (int(status().split("VmHWM:")[1].split()[0]) - before)


def compare(name: str, model: tuple[int, int, int], n_pos: int, n_new: int, n_cuts: int) -> str:
    """One row of the table, for a model of so many layers, so wide, with so many experts."""
    n_layers, d_model, n_experts = model
    omni, prompt = build(n_layers, d_model, n_pos, n_experts)
    chosen = cuts(n_layers, n_cuts)
    conditions = [[knockout(query="generated", key=k, layers=layers)] for k, layers in chosen]

    def sweep() -> list[Any]:
        return omni.model.generate_many(prompt, conditions, max_new_tokens=n_new, stop_at_eos=False)

    plain_ways = {"sweep": sweep, "plain": lambda: hf_caption(omni, prompt, n_new)}
    seconds = in_turn(plain_ways, runs=3)
    plain_bytes, sweep_bytes = (peak_bytes(plain_ways[way]) for way in ("plain", "sweep"))
    cfg = omni.model.cfg
    suffix = 2 * n_cuts * n_new * cfg.n_layers * cfg.n_key_value_heads * cfg.d_head * 4
    captions = sweep()
    omni.hf.set_attn_implementation("eager")
    equal, start = 0, time.perf_counter()
    for cut, caption in zip(chosen, captions, strict=True):
        with hf_cut(omni, prompt, cut):
            equal += torch.equal(hf_caption(omni, prompt, n_new), caption.tokens)
    one_by_one = time.perf_counter() - start
    shape = f"{n_layers} x {d_model}" + (f", {n_experts} experts" if n_experts else "")
    return (
        f"| {name} | {shape} | {n_pos} | {n_new} | {len(chosen)} | "
        f"{equal} of {len(chosen)} | {one_by_one:.1f} s | {seconds['sweep']:.2f} s | "
        f"{one_by_one / seconds['sweep']:.1f} | {seconds['sweep'] / seconds['plain']:.2f} | "
        f"{len(chosen) * n_new / seconds['sweep']:.0f} | {sweep_bytes / 1e6:.0f} MB; "
        f"{plain_bytes / 1e6:.0f} + {suffix / 1e6:.0f} MB |"
    )


def growth() -> None:
    """How the cost grows with conditions and with the prompt."""
    print("| prompt positions | conditions | sweep | in plain captions |\n|---|---|---|---|")
    for n_pos, counts in ((1600, (1, 8, 24, 72, 144)), (200, (72,)), (800, (72,)), (6400, (72,))):
        omni, prompt = build(36, 256, n_pos)
        plain = in_turn({"plain": lambda p=prompt, o=omni: hf_caption(o, p, 32)}, 1)["plain"]
        for count in counts:
            chosen = (cuts(36, 72) * 2)[:count]
            conditions = [[knockout(query="generated", key=k, layers=w)] for k, w in chosen]
            ways = {
                "sweep": lambda p=prompt, o=omni, c=conditions: o.model.generate_many(
                    p, c, max_new_tokens=32, stop_at_eos=False
                )
            }
            sweep = in_turn(ways, 1)["sweep"]
            print(f"| {n_pos} | {count} | {sweep:.2f} s | {sweep / plain:.2f} |", flush=True)


def chained(omni: HookedOmni, strength: int = 1000) -> None:
    """After each token, the next of the vocabulary: at full strength, no knockout moves captions.

    At 1, all do; in between, some do, as in a model that was trained.
    """
    weight = omni.model.embed.weight.detach()
    weight.mul_(strength)
    chain = weight.roll(-1, 0) / strength
    omni.model.unembed.weight = torch.nn.Parameter(chain, requires_grad=False)


def verify(runs: int, n_new: int = 32) -> None:
    """A draft that rows leave never, at its fifth token, or at the first they can, and none."""
    print(
        "| conditions | rows leave the draft | batch | with the draft | ratio | and its decoding | "
        "ratio | batch, then `score` | draft, scored | ratio |"
    )
    print("|---" * 10 + "|")
    omni, prompt = build(36, 256, 1600)
    chained(omni)
    model, prompt = omni.model, omni.model.prefill(prompt)
    settings: dict[str, Any] = dict(max_new_tokens=n_new, stop_at_eos=False)
    plain = model.generate(prompt, **settings).tokens.tolist()
    for count in (29, 72):
        chosen = (cuts(36, 72)[:: 72 // count] if count < 72 else cuts(36, 72))[:count]
        conditions = [[knockout(query="generated", key=k, layers=w)] for k, w in chosen]
        for name, at in (("never", n_new), ("at the 5th of 32", 4), ("at once", 1)):
            draft = (*plain[:at], *((token + 7) % 256 for token in plain[at:]))

            def sweep(conditions: Any = conditions, **how: Any) -> list[Any]:
                return model.generate_many(prompt, conditions, **settings, **how)

            def scored(conditions: Any = conditions, draft: Any = draft) -> None:
                model.generate_many(prompt, conditions, **settings)
                model.score(prompt, torch.tensor(draft), conditions)

            ways = {
                "batch": sweep,
                "draft": lambda sweep=sweep, draft=draft: sweep(draft=draft),
                "plain": lambda: model.generate(prompt, **settings),
                "batch, score": scored,
                "draft, scored": lambda sweep=sweep, draft=draft: sweep(
                    draft=draft, score_draft=True
                ),
            }
            took = in_turn(ways, runs, time.process_time)
            pairs = zip(sweep(), sweep(draft=draft), strict=True)
            equal = all(torch.equal(a.tokens, b.tokens) for a, b in pairs)
            both, batch = took["draft"] + took["plain"], took["batch"]
            known, scores = took["draft, scored"], took["batch, score"]
            print(
                f"| {len(chosen)} | {name}{'' if equal else ' (TOKENS DIFFER)'} | {batch:.2f} s | "
                f"{took['draft']:.2f} s | {took['draft'] / batch:.2f} | {both:.2f} s | "
                f"{both / batch:.2f} | {scores:.2f} s | {known:.2f} s | {known / scores:.2f} |",
                flush=True,
            )


@torch.no_grad()
def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="What does a sweep cost, next to one caption?")
    parser.add_argument("--growth", action="store_true", help="how the cost grows")
    parser.add_argument("--only", choices=("a", "b", "c"), help="one row")
    parser.add_argument("--verify", type=int, metavar="RUNS", help="what a known caption saves")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(), end="\n\n")
    if arguments.growth or arguments.verify:
        growth() if arguments.growth else verify(arguments.verify)
        return
    print(
        "| | model | positions | new tokens | conditions | captions equal | HF eager, one by one | "
        "sweep | times faster | in plain HF captions | tokens a second | peak memory; of a plain "
        "caption, and the suffixes |"
    )
    print("|---" * 12 + "|")
    rows = (
        ("a", (12, 512, 0), 800, 24, 24),
        ("b", (36, 256, 0), 1600, 32, 72),
        ("c", (12, 256, 16), 800, 24, 24),
    )
    for row in rows:
        if arguments.only in (None, row[0]):
            print(compare(*row), flush=True)


if __name__ == "__main__":
    main()
