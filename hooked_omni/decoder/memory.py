"""How much memory do scores take, how much is free, and into how many blocks are queries cut?"""

import math
from itertools import pairwise
from pathlib import Path

import torch

SCORE_BYTES = 12
"""Of one score, at its peak: itself or its edit, the softmax in float32, and the pattern."""
ATTENTION_BUDGET = 2**31
"""Bytes that the scores of one layer may take before they are made in blocks of queries."""
_FEWEST = 16  # queries in a block: matrix products of fewer rows use kernels that round otherwise


def query_blocks(window: range, bytes_a_query: int, budget: int) -> list[range]:
    """`window` in as few parts as fit the budget, of about one size and of 16 queries at least."""
    n_blocks = math.ceil(len(window) * bytes_a_query / budget)
    n_blocks = max(min(n_blocks, len(window) // _FEWEST), 1)
    edges = [window.start + len(window) * i // n_blocks for i in range(n_blocks + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def free_bytes(device: torch.device) -> int | None:
    """Memory that new tensors can take on a device; None where it is not known."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    memory = Path("/proc/meminfo")
    if device.type != "cpu" or not memory.is_file():
        return None
    lines = dict(line.split(":", 1) for line in memory.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def in_words(n_bytes: float) -> str:
    """Bytes for people."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes > 2**27 else f"{n_bytes / 2**20:.2f} MiB"
