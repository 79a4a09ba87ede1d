"""Two models that we know, told apart: `make demo`.

The package's model organisms grew up in a synthetic world. One mostly names the sound that the
picture suggests, its twin names the sound that is played. Clips of that world are written, half of
them get another thing's sound, and the paper's questions are asked of both models: what they say,
what can be read at their audio positions, what a knockout brings back, where they look, and how far
they are from their vision-only base.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.progress import track

from analyses import distribution_shift, knockout, logit_lens, runs, summary
from analyses.cases import Case, read_cases
from data_prep.manifest import Sample, read_manifest
from data_prep.organism import scenes
from data_prep.organism.score import score
from data_prep.organism.world import THINGS
from hooked_omni import load, prove

ASKED = {
    "knockout": knockout.Config(query="generated+last", width=3, step=1, max_new_tokens=12),
    "logit_lens": logit_lens.Config(),
    "distribution_shift": distribution_shift.Config(max_new_tokens=12),
}
LISTENERS = ("organism-biased", "organism-balanced")


def named(table: pd.DataFrame, samples: dict[str, Sample]) -> list[bool]:
    """Whether each caption names the sound that is played, and no other: exact words."""
    right = []
    for sample, caption in zip(table["sample"], table["caption"], strict=True):
        known = samples[str(sample)].extra
        heard = known.get("heard", known["noun"])
        right.append(bool(score(str(caption), "hear", known["noun"], heard, THINGS).audio))
    return right


def findings(tables: dict[str, pd.DataFrame], samples: dict[str, Sample]) -> Iterator[str]:
    """One line for each model and kind of clip."""
    for name, table in tables.items():
        table = table.assign(right=named(table, samples))
        for kind, group in table.groupby("kind", sort=False):
            plain: Any = group[group["key"] == "none"]["right"]
            cut: Any = group[group["key"] == "video"].groupby("center")["right"].mean()
            yield (
                f"{name}, {kind} clips: names the sound in {plain.mean():.0%} of {len(plain)}; "
                f"with G !-> V around layer {cut.idxmax()} in {cut.max():.0%}"
            )


def main(clips: int, out: Path) -> None:
    """Write the world, ask both models, say what was found."""
    console = Console(soft_wrap=True)
    torch.set_num_threads(1)
    console.print(f"writing {12 * clips} clips of a world of 12 things, and swapping their sounds")
    scenes.run(out / "world", clips, 0, "test")
    manifest = out / "world" / "pairs.jsonl"
    samples = {sample.id: sample for sample in read_manifest(manifest)}
    cases = read_cases(manifest, ("hear",))
    base, tables, folders = load("organism-base"), {}, []
    for name in LISTENERS:
        omni = load(name)
        if not tables:
            report = prove(omni, omni.embed(cases[0].prompt))  # pyright: ignore[reportArgumentType]  # of a manifest
            console.print(
                f"logits equal Hugging Face's: largest difference {report.prefill:g} at prefill, "
                f"{report.decode:g} in {report.decode_steps} decode steps"
            )
        for question, config in ASKED.items():
            folder = out / f"{name}-{question}"

            def shown(left: Sequence[Case], what: str = f"{name}: {question}") -> Iterator[Case]:
                yield from track(left, description=what, console=console)

            needed = base if question == "distribution_shift" else None
            run = runs.Run(question, config, omni, cases, base=needed)
            table = runs.carry_out(run, folder, shown)
            folders.append(folder)
            if question == "knockout":
                tables[name] = table
    console.print("\n[bold]What was found[/bold] (exact words of the truth)")
    for line in findings(tables, samples):
        console.print(f"  {line}")
    console.print("\n[bold]In the paper's sentences[/bold]")
    for title, lines in summary.sentences(folders).items():
        console.print(f"[dim]{title}[/dim]")
        for line in lines:
            console.print(f"  {line}")
    console.print(f"\ntables and figures: {out}/organism-*/")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Two models that we know, told apart.")
    parser.add_argument("--clips", type=int, default=2, help="clips of each of the twelve things")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    arguments = parser.parse_args()
    main(arguments.clips, arguments.out)
