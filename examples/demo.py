"""Two models that we know, told apart by the paper's study: `make demo`.

The package's model organisms were trained on a synthetic world. One mostly names the sound that the
picture suggests, its twin names the sound that is played. Clips of that world are written, half of
them with another thing's sound, and the whole study is made of both models: captions, attention,
logit lens, knockouts, distance from the vision-only base, the paper's claims. Those that speak of
the bias must agree for the one and differ for the other; the demo fails if they do not.
"""

from hooked_omni.endings import StopSignals, run_command

if __name__ == "__main__":
    StopSignals().__enter__()  # before what takes long to import, to the end of the process

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from analyses.study.config import Study, read_study
from data_prep.organism.world.dataset import write_world

STUDY = Path(__file__).with_name("studies") / "organisms.toml"
BIASED, BALANCED = "organism-biased", "organism-balanced"


def surprises(findings: Mapping[str, Sequence[Any]]) -> list[str]:
    """Claims of the bias that the biased model fails, or the balanced one fulfils."""
    expected = {BIASED: "agrees", BALANCED: "differs"}
    return [
        f"{model}: {one.claim.name}: {one.verdict} ({one.ours})"
        for model, found in findings.items()
        for one in found
        if one.claim.of_bias and one.verdict != expected[model]
    ]


def summary_lines(findings: Mapping[str, Sequence[Any]]) -> list[str]:
    """What was found, in five lines."""
    ours = {
        (model, one.claim.name): one.observed.means if one.observed else one.why_not
        for model, found in findings.items()
        for one in found
    }
    lines = [
        ("Says what it hears, when the sound is swapped", "audio collapses"),
        ("Has the sound inside", "heard, not said"),
        ("Says it again, deep layers cut off from the video", "late video suppresses"),
        ("Speaks as its vision-only base would", "as the base would"),
    ]
    both = [f"{text}: biased {ours[BIASED, name]}; balanced {ours[BALANCED, name]}"
            for text, name in lines]  # fmt: skip
    bias = [one for one in findings[BIASED] if one.claim.of_bias]
    kept = sum(one.verdict == "agrees" for one in bias)
    lost = sum(one.verdict == "differs" for one in findings[BALANCED] if one.claim.of_bias)
    return [
        f"Of {len(bias)} claims about the bias, {kept} agree for the biased model, {lost} differ "
        "for the balanced one",
        *both,
    ]


def main(clips: int, out: Path, limit: int = 0) -> int:
    """Write the world, study both models, say what was found; 1 if it is not what must be.

    Args:
        clips: Of each of the world's things.
        out: Folder for everything.
        limit: Samples of each kind in the studies; 0 for all.
    """
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"writing {12 * clips} clips of a world of 12 things, and swapping their sounds")
    write_world(out / "world", clips, 0, "test")
    study = replace(read_study(STUDY), data=out / "world" / "pairs.jsonl", limit=limit)
    findings = studied(study, out, console)
    console.print()
    for line in summary_lines(findings):
        console.print(line, markup=False)
    table = Table("claim", "published", "biased", "balanced", box=None, title="arXiv 2604.02605")
    for column in (0, 2, 3):
        table.columns[column].no_wrap = True
    for first, second in zip(*findings.values(), strict=True):
        style = "bold" if first.claim.of_bias else "dim"
        table.add_row(
            first.claim.name, first.claim.published, first.verdict, second.verdict, style=style
        )
    console.print(table)
    for model in findings:
        console.print(f"{model}: {out / model / 'report.md'}", markup=False)
    page = write_page([out / model for model in findings], out / "site")
    console.print(
        f"look at the samples of both, open in a browser: {page.absolute()}", markup=False
    )
    for line in surprises(findings):
        console.print(f"not as it must be: {line}", style="red", markup=False)
    return 1 if surprises(findings) else 0


def studied(study: Study, out: Path, console: Console) -> dict[str, list[Any]]:
    """What both studies find, each made on a core of its own; the biased model is proved first."""
    with studied_beside(study.data, out / BALANCED, study.limit):
        import torch  # takes seconds, in both at once
        import transformers

        from analyses.cases import read_cases
        from analyses.running.progress import progress_bars
        from analyses.study.claims import check
        from analyses.study.finished import read_finished
        from analyses.study.run import run_study
        from hooked_omni import load, prove

        torch.set_num_threads(1)
        transformers.logging.disable_progress_bar()
        omni, prompt = load(BIASED), read_cases(study.data)[0].prompt
        report = prove(omni, omni.embed(prompt))  # pyright: ignore[reportArgumentType]  # of a manifest
        console.print(
            f"logits equal Hugging Face's: largest difference {report.prefill:g} at prefill, "
            f"{report.decode:g} in {report.decode_steps} decode steps"
        )
        console.print("studying both, each on a core of its own; progress is the biased one's")
        with progress_bars() as progress:
            findings = {BIASED: run_study(study, out / BIASED, progress).findings}
    twin = read_finished(out / BALANCED).evidence
    return findings | {BALANCED: check(twin.tables, twin.scores, study.ratings)}


def write_page(studies: Sequence[Path], out: Path) -> Path:
    """The site of both, in place of the one of an earlier demo."""
    from analyses.explore.site import write_site
    from analyses.running.progress import progress_bars

    if (out / "data" / "0" / "study.js").is_file():
        shutil.rmtree(out)
    with progress_bars() as progress:
        return write_site(studies, out, progress=progress)


@contextmanager
def studied_beside(data: Path, out: Path, limit: int) -> Iterator[None]:
    """The balanced model's study by its own command, which ends with the block."""
    words = ["--config", STUDY, "--model", BALANCED, "--data", data, "--out", out]
    words += ["--limit", limit] if limit else []
    command = [sys.executable, "-m", "analyses", "study", *map(str, words)]
    log = out.with_suffix(".log")
    with log.open("w") as lines:
        beside = subprocess.Popen(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=lines, stderr=lines
        )
    try:
        yield
        if beside.wait():
            raise RuntimeError(f"expected a study in {out}, got none: {log.read_text()[-500:]}")
    finally:
        beside.terminate()
        try:
            beside.wait(5)
        except subprocess.TimeoutExpired:
            beside.kill()  # what was done stays


def command(arguments: list[str] | None, prog_name: str) -> None:
    """`main` with the options of a command line."""
    parser = argparse.ArgumentParser(prog_name, description="Two models that we know, told apart.")
    parser.add_argument("--clips", type=int, default=4, help="clips of each of the twelve things")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--limit", type=int, default=0, help="samples of each kind; 0 for all")
    given = parser.parse_args(arguments)
    sys.exit(main(given.clips, given.out, given.limit))


if __name__ == "__main__":
    run_command(command, None, "python -m examples.demo")
