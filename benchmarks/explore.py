"""How large is the page of a large study, and how long does writing it take?

    python -m benchmarks.explore --out runs/big [--samples 500]

A study in the real format, of a 36-layer, 16-head model with 3 250 positions and answers of 64
tokens: random numbers with attention's sparsity (sinks, and heads of every width), clips of ten
seconds. Sizes are per sample, so that a smaller number of samples says as much.
"""

import argparse
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analyses.attention_map.packing import levels, packed
from analyses.configs import CONFIGS
from analyses.explore.site import write_site
from analyses.judge.record import COLUMNS as SCORES
from analyses.running import results
from analyses.running.sources import Sources, write_sources
from analyses.study.config import Study
from analyses.study.judging import scores_path
from data_prep.clips import write_clip
from data_prep.manifest import Sample, write_manifest
from hooked_omni.files import file_hash, write_whole

LAYERS, HEADS, TOKENS, KEPT = 36, 16, 64, CONFIGS["attention_map"]().kept
FRAMES, ROWS, COLUMNS, SOUNDS = 10, 13, 23, 250
N_POS = FRAMES * ROWS * COLUMNS + SOUNDS + 10
PARTS = [(of, i, False) for of in ("video", "audio") for i in range(FRAMES)]
PARTS += [("text", -1, False), ("generated", -1, False)]
WORDS = ("dog", "siren", "rain", "train", "听", "警笛", "собака", "motor", "speech", "the")


def attention(rng: np.random.Generator) -> tuple[bytes, float]:
    """Packed weights: each head has a width and sinks of its own, each query some noise."""
    shape = (LAYERS, HEADS, TOKENS - 1, KEPT)
    positions, weights, dropped = np.zeros(shape, int), np.zeros(shape), 0.0
    sums = np.zeros((*shape[:3], len(PARTS)))
    starts = [*range(0, N_POS - SOUNDS - 10, ROWS * COLUMNS)]
    starts += [*range(N_POS - SOUNDS - 10, N_POS - 10, SOUNDS // FRAMES), N_POS - 10]
    for at in np.ndindex(shape[:2]):
        logits = rng.normal(0, rng.uniform(1, 3.5), N_POS) + rng.normal(0, 0.6, (shape[2], N_POS))
        paid = np.exp(logits - logits.max(1, keepdims=True))
        paid *= (1 - (sink := rng.beta(2, 2))) / paid.sum(1, keepdims=True)
        paid[:, [0, 40, 600, 2000]] += sink * np.array([0.7, 0.15, 0.1, 0.05])
        paid *= 1 - (own := rng.beta(1, 8) * rng.uniform(0.5, 1, (shape[2], 1)))
        sums[at] = np.hstack([np.add.reduceat(paid, starts, 1), own])
        best = np.argpartition(-paid, KEPT)[:, : KEPT + 1]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(paid, best, 1)), 1)
        positions[at], kept = best[:, :KEPT], np.take_along_axis(paid, best, 1)
        weights[at], dropped = kept[:, :KEPT], max(dropped, kept[:, KEPT].max())
    data, error = packed(positions, weights, sums)
    return data, max(error, dropped)


def tables(names: list[str], rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    """One row a sample of `captions` and `attention_map`; every position of `logit_lens`."""
    grid = np.indices((FRAMES, ROWS, COLUMNS)).reshape(3, -1)
    made, said = [attention(rng) for _ in range(4)], tuple(rng.choice(WORDS, TOKENS))
    first = FRAMES * ROWS * COLUMNS
    keys = [dict(sample=name, kind="factual", question="hear") for name in names]
    answer = dict(caption=" ".join(said), n_tokens=TOKENS, ended=True, heard_found=0.5)
    answer |= dict(seen_found=0.5, events=("dog",), heard=("dog",), seen=("dog",))
    fixed: dict[str, Any] = dict(
        zip(("video_frame", "video_row", "video_column"), grid, strict=True)
    )
    fixed = {key: tuple(row.tolist()) for key, row in fixed.items()}
    fixed |= dict(
        video_position=tuple(range(first)), audio_position=(*range(first, first + SOUNDS),)
    )
    fixed |= dict(frame_seconds=tuple(map(float, range(FRAMES))), no_grid="", sinks=(0,))
    fixed |= dict(audio_second=tuple((np.arange(SOUNDS) / 25).tolist()), answer=answer["caption"])
    fixed |= dict(
        token_text=said, n_queries=TOKENS - 1, n_layers=LAYERS, n_heads=HEADS, n_kept=KEPT
    )
    fixed |= dict(segments=("audio", "video", "text", "generated"), kept_share=(60.0,) * LAYERS)
    n_sums = LAYERS * HEADS * (TOKENS - 1) * len(PARTS)
    of, when, sink = zip(*PARTS, strict=True)
    fixed |= dict(part_of=of, part_at=when, part_sink=sink, sum_bound=2 / levels(n_sums))
    maps = [
        {**key, **fixed, "packed": made[i % 4][0], "bound": made[i % 4][1]}
        for i, key in enumerate(keys)
    ]
    at = pd.MultiIndex.from_product(
        [names, ("norm", "raw"), range(LAYERS), range(SOUNDS)],
        names=["sample", "lens", "layer", "position"],
    )
    lens = at.to_frame(index=False).assign(kind="factual", question="hear", span="audio", k=1)
    lens = lens.assign(measure="top", second=lens["position"] / 25, rank=1, word="", whole=True)
    texts = np.array([f"{word}{i}" for i in range(200) for word in WORDS])[
        rng.integers(0, 2000, len(lens))
    ]
    lens = lens.assign(token_id=0, token_text=texts, logprob=rng.normal(-3, 1, len(lens)))
    lens["events"] = [()] * len(lens)
    lens["heard"] = lens["seen"] = [("dog",)] * len(lens)
    captions = pd.DataFrame([key | answer for key in keys])
    return {"captions": captions, "attention_map": pd.DataFrame(maps), "logit_lens": lens}


def write_study(out: Path, n: int) -> Path:
    """The study's folder, and its clips beside it."""
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 255, (60, 9, 16, 3)), np.ones((1, 40, 40, 1))).astype(np.uint8)
    clip = write_clip(out / "clip.mp4", scene, 6, rng.normal(0, 0.1, 160_000)).read_bytes()
    names = [f"sample {i}" for i in range(n)]
    for i in range(n):  # a box that players skip makes each another file
        write_whole(out / "clips" / f"{i}.mp4", clip + struct.pack(">I4sQ", 16, b"free", i))
    samples = [Sample(name, video=f"clips/{i}.mp4") for i, name in enumerate(names)]
    data = write_manifest(out / "few.jsonl", samples)
    model = {"name": "fake", "family": "fake", "dtype": "float32", "media": {"fps": 2.0}}
    facts: dict[str, Any] = {"data": [{"file": data.name, "sha256": file_hash(data)}]}
    facts |= dict(
        model=model, clips=None, kinds=None, rope="model", system=None, order=None, wording={}
    )
    study, folder = Study("fake", data, "none"), out / "study"
    results.write_recipe(folder, results.make_recipe("study", study, facts))
    for name, table in tables(names, rng).items():
        table.attrs = {"model": "fake", "n_cases": n, "skipped": {}, "twins": {}, "cases": {}}
        config = CONFIGS[name]()
        results.save(folder / name, name, table, Figure(), config, **facts)
        results.write_recipe(folder / name, results.make_recipe(name, config, facts))
    scored = dict(kind="factual", question="hear", condition="", judge="fake", what="audio")
    scored |= dict(score=0.5, reason="because", status="judged", words=(), prompt_version="")
    made = pd.DataFrame([scored | dict(sample=name, text="", references=()) for name in names])
    scores: Any = made[[*SCORES]]
    scores.attrs = {"judge": {"name": "fake"}, "missing": {}, "model": "fake"}
    results.write_table(scores_path(folder, "fake"), scores, "scores")
    write_sources(Sources("fake", "none", "fake", data), folder)
    return folder


def main() -> None:
    """Print sizes and times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=500)
    given = parser.parse_args()
    folder = write_study(given.out, given.samples)
    start = time.perf_counter()
    site = write_site([folder], given.out / "site").parent
    seconds = time.perf_counter() - start
    sizes = {"samples": "data/0/samples", "attention": "data/0/attention", "clips": "media"}
    means = {k: sum(f.stat().st_size for f in (site / v).iterdir()) for k, v in sizes.items()}
    each = {k: v / given.samples / 1e6 for k, v in means.items()}
    whole = sum(f.stat().st_size for f in site.rglob("*") if f.is_file()) / 1e6
    print(f"{given.samples} samples: {whole:.0f} MB, {seconds / given.samples:.2f} s a sample")
    print(", ".join(f"{name} {size:.2f} MB" for name, size in each.items()), "a sample")
    print(f"500 samples: {500 * sum(each.values()):.0f} MB; a view {sum(each.values()):.2f} MB")


if __name__ == "__main__":
    main()
