"""What do hooks cost? 12 layers x 512, 800 positions, one CPU thread: `make bench`.

Prefill without hooks against HF sdpa, everything cached against HF eager that returns all
attentions and hidden states, a decode step against HF's, and the memory that adopting a model adds.
"""

import gc
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import in_turn, machine
from hooked_omni import HookedOmni, HookedTransformer
from hooked_omni.organisms.random_weights import random_omni

N_POS, NEW_TOKENS, RUNS = 800, 33, 9


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@torch.no_grad()
def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    hf, processor = random_omni(n_layers=12, d_model=512, n_heads=8, n_kv_heads=2)
    weights = sum(p.numel() * p.element_size() for p in hf.parameters())
    gc.collect()
    before = resident_bytes()
    omni = HookedOmni.from_hf(hf, processor)
    added = resident_bytes() - before
    assert isinstance(omni.model, HookedTransformer)  # imported before, with what it needs
    tokens = torch.randint(0, 256, (1, N_POS), generator=torch.Generator().manual_seed(0))
    inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    prompt = omni.embed_inputs(**inputs)

    assert torch.equal(hf(**inputs).logits, omni.model(prompt))
    prefill = in_turn(
        {"hf": lambda: hf(**inputs, use_cache=False), "ours": lambda: omni.model(prompt)}, RUNS
    )

    hf.generation_config.eos_token_id = None
    ways = {}
    for n in (1, NEW_TOKENS):
        given = {**inputs, "max_new_tokens": n, "do_sample": False}
        ways["hf", n] = partial(hf.generate, **given)
        ways["ours", n] = partial(omni.model.generate, prompt, max_new_tokens=n, stop_at_eos=False)
    caption = in_turn(ways, RUNS)
    step = {
        who: (caption[who, NEW_TOKENS] - caption[who, 1]) / (NEW_TOKENS - 1)
        for who in ("hf", "ours")
    }

    hf.set_attn_implementation("eager")
    everything = {"output_attentions": True, "output_hidden_states": True, "use_cache": False}
    cached = in_turn(
        {
            "hf": lambda: hf(**inputs, **everything),
            "ours": lambda: omni.model.run_with_cache(prompt),
        },
        RUNS,
    )
    print(machine(), end="\n\n")
    print("| | Hugging Face | hooked_omni | ratio | at most |\n|---|---|---|---|---|")
    for what, times, limit in (
        ("prefill, no hooks, against sdpa", prefill, 1.05),
        ("everything cached, against eager with all outputs", cached, 1.5),
        ("decode step, against sdpa", step, 1.0),
    ):
        hf_ms, our_ms = 1000 * times["hf"], 1000 * times["ours"]
        print(f"| {what} | {hf_ms:.1f} ms | {our_ms:.1f} ms | {our_ms / hf_ms:.3f} | {limit} |")
    print(f"\nadopting the model added {added / 1e6:.1f} MB to {weights / 1e6:.1f} MB of weights")


if __name__ == "__main__":
    main()
