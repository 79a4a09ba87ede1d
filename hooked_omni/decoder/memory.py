"""How much memory does a pass take, how much is free, and into how many blocks are queries cut?

From a decoder's table alone. A pass holds the tensors that stand in one block at a time; sizes are
checked against measured peaks in `benchmarks/plan.py`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch

from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.errors import OutOfRoomError

SCORE_BYTES = 12
"""Of one score, at its peak: itself or its edit, the softmax in float32, and the pattern."""
_FEWEST = 16  # queries in a block: matrix products of fewer rows use kernels that round otherwise


def query_blocks(window: range, bytes_a_query: int, budget: int) -> list[range]:
    """`window` in as few parts as fit the budget, of about one size and of 16 queries at least."""
    n_blocks = math.ceil(len(window) / max(budget // bytes_a_query, 1))
    n_blocks = max(min(n_blocks, len(window) // _FEWEST), 1)
    edges = [window.start + len(window) * i // n_blocks for i in range(n_blocks + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def keys_values_bytes(cfg: DecoderConfig, n_pos: int) -> int:
    """Of all layers."""
    return 2 * cfg.n_layers * cfg.n_key_value_heads * cfg.d_head * n_pos * cfg.dtype.itemsize


def pass_bytes(cfg: DecoderConfig, n_pos: int) -> int:
    """What stands at once while a block reads positions, beside weights, keys and values.

    The streams before, in and after attention with the MLP's four, or what rotates the heads.
    """
    width, read = cfg.n_heads * cfg.d_head, 2 * cfg.n_key_value_heads * cfg.d_head
    mixed = cfg.experts is not None
    # All experts' outputs are added into one; each alone has few positions.
    mlp = 5 * cfg.d_model if mixed else 4 * cfg.d_model + 4 * cfg.d_mlp
    rotated = 2 * cfg.d_model + read + 5 * width
    of_angles = 2 * cfg.d_head * cfg.dtype.itemsize + 12 * cfg.d_head
    return n_pos * (max(mlp, rotated) * cfg.dtype.itemsize + of_angles)


def opened_bytes(cfg: DecoderConfig, n_query: int, n_key: int) -> int:
    """Of a layer's scores and pattern, if its hooks are `by_query`, and keys for every head."""
    one = SCORE_BYTES * cfg.n_heads * n_key
    at_once = max(map(len, query_blocks(range(n_query), one, cfg.attention_budget)))
    return at_once * one + repeated_bytes(cfg, n_key)


def repeated_bytes(cfg: DecoderConfig, n_key: int) -> int:
    """Of a layer's keys and values, copied for each head that reads them."""
    copied = cfg.n_heads if cfg.n_heads > cfg.n_key_value_heads else 0
    return 2 * copied * cfg.d_head * n_key * cfg.dtype.itemsize


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


@contextmanager
def room_for(what: str, remedy: str) -> Iterator[None]:
    """A block in which a device without memory is an `OutOfRoomError`, on GPU and CPU."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if isinstance(error, OutOfRoomError) or not (full or "can't allocate" in str(error)):
            raise
        came = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raised = OutOfRoomError(f"expected room for {what}, got {came}. {remedy}")
        for note in getattr(error, "__notes__", []):
            raised.add_note(note)
        raise raised from error


def in_words(n_bytes: int | float) -> str:
    """Bytes for people."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes > 2**27 else f"{n_bytes / 2**20:.2f} MiB"
