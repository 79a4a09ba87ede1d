"""What does the assignment cost, and what is lost by blocks? One CPU thread.

    python -m benchmarks.pairs --model FOLDER [--captions ../shared/audiocaps/test.csv] [--large]

Real captions of AudioCaps, embedded one by one: a caption is a clip's picture, another of the same
clip is its sound, and clips of one video id are never paired. `--large` also runs 45 000 clips in
blocks (random vectors around real ones), to see the memory.
"""

import argparse
import csv
import ctypes
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sweep import peak_bytes
from benchmarks.timing import machine
from data_prep.manifest import Sample
from data_prep.pairing.assignment import assign, assign_in_blocks, blocks
from data_prep.pairing.embedding import MODEL, embed
from data_prep.pairing.loudness import Loudness
from data_prep.pairing.pair_manifest import CELL_BYTES, Config, Constraints

SIZES = (500, 975, 2000, 4000)
BLOCKS = (250, 500, 2000)
PAPER = (10_000, 45_000)


def embedded(captions: Path, model: str, cache: Path) -> tuple[list[Sample], Any, Any]:
    """One sample per caption in random order, and its embeddings as picture and as sound."""
    by_clip: dict[str, list[str]] = defaultdict(list)
    with captions.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            by_clip[row["youtube_id"]].append(row["caption"])
    pairs = [
        (name, i, own[i], own[i - 1]) for name, own in by_clip.items() for i in range(len(own))
    ]
    pairs = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]
    samples = [Sample(f"{name} {i}", video_id=name) for name, i, _, _ in pairs]
    seen = embed([[text] for _, _, text, _ in pairs], model, cache)
    row = {(name, i): at for at, (name, i, _, _) in enumerate(pairs)}
    sound = [row[name, (i - 1) % len(by_clip[name])] for name, i, _, _ in pairs]
    return samples, seen, seen[sound]


def measured(work: Any) -> tuple[Any, float, float]:
    """Result, seconds, and MB of peak memory above the start."""
    # Freed memory that the allocator still holds would hide what is taken anew.
    ctypes.CDLL(None).malloc_trim(0)
    kept: list[Any] = []
    start = time.perf_counter()
    peak = peak_bytes(lambda: kept.append(work()))
    return kept[0], time.perf_counter() - start, peak / 1e6


def compare(samples: list[Sample], e_video: Any, e_audio: Any) -> tuple[list[str], float]:
    """A row of the table for each block size, and the seconds of the whole matrix."""
    n_clips = len(samples)
    among = Constraints(samples, [Loudness(10, -20)] * n_clips, Config()).among
    everyone = np.arange(n_clips)
    best, whole, peak = measured(lambda: assign(e_video @ e_audio.T, among(everyone)))
    means, rows = achieved(e_video, e_audio, best), []
    for block in [size for size in BLOCKS if size < n_clips]:
        dealt, seconds, own_peak = measured(
            partial(assign_in_blocks, e_video, e_audio, among, block, 0)
        )
        lost = achieved(e_video, e_audio, dealt) - means
        n_blocks = len(blocks(n_clips, block, 0))
        rows.append(
            f"| {n_clips} | {whole:.2f} s | {peak:.0f} MB | {means[0]:.4f} | {means[1]:.4f} | "
            f"{n_blocks} of {n_clips // n_blocks} | {seconds:.2f} s | {own_peak:.0f} MB | "
            f"{lost[0]:+.4f} | {lost[1]:+.4f} |"
        )
    return rows, whole


def achieved(e_video: Any, e_audio: Any, chosen: Any) -> Any:
    """Mean similarity of all pairs, and of the quarter of lowest similarity."""
    similarity = np.sort(np.sum(e_video * e_audio[chosen], axis=1))
    return np.array([similarity.mean(), similarity[: len(similarity) // 4].mean()])


def large(e_video: Any, block: int) -> None:
    """45 000 clips in blocks, for the memory."""
    random = np.random.default_rng(0)
    shape = (PAPER[-1], e_video.shape[1])
    parts: list[Any] = []
    for _ in range(2):
        noise = random.standard_normal(shape, dtype=np.float32) / np.sqrt(np.float32(shape[1]))
        noise += e_video[random.integers(len(e_video), size=shape[0])]
        parts.append(noise / np.linalg.norm(noise, axis=1, keepdims=True))
        del noise
    samples = [Sample(str(i)) for i in range(shape[0])]
    among = Constraints(samples, [Loudness(10, -20)] * shape[0], Config()).among
    _, seconds, megabytes = measured(lambda: assign_in_blocks(parts[0], parts[1], among, block, 0))
    embeddings = 2 * parts[0].nbytes / 1e6
    print(
        f"\n{shape[0]} clips in blocks of {block}: {seconds:.0f} s, {megabytes:.0f} MB beside "
        f"{embeddings:.0f} MB of embeddings"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="What does the assignment cost?")
    parser.add_argument("--captions", type=Path, default=Path("../shared/audiocaps/test.csv"))
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--cache", type=Path, default=Path("build/embeddings"))
    parser.add_argument("--large", action="store_true", help="45 000 clips in blocks of 4000")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    samples, e_video, e_audio = embedded(arguments.captions, arguments.model, arguments.cache)
    print(machine(), end="\n\n")
    print(
        "| clips | whole | memory | mean similarity | of lowest quarter | blocks | in blocks | "
        "memory | mean, above whole | lowest quarter, above whole |"
    )
    print("|---" * 10 + "|")
    seconds = []
    for n in SIZES:
        rows, took = compare(samples[:n], e_video[:n], e_audio[:n])
        seconds.append(took)
        print("\n".join(rows), flush=True)
    power, scale = np.polyfit(np.log(SIZES), np.log(seconds), 1)
    print(f"\nTime grows as N^{power:.2f}. On paper, for the whole matrix:", end=" ")
    print(
        "; ".join(
            f"{n} clips {np.exp(scale) * n**power:.0f} s, {CELL_BYTES * n**2 / 2**30:.1f} GiB"
            for n in PAPER
        )
    )
    if arguments.large:
        large(e_video, 4000)


if __name__ == "__main__":
    main()
