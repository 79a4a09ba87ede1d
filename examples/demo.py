"""The main job, end to end, on a model that fits anywhere: `make demo`.

A real clip goes in; an attention-share table and figure come out, through named hooks, with logits
proved equal to Hugging Face's. The model has the real Qwen2.5-Omni classes and random weights, so
the figure shows that the machinery runs, and nothing about what models hear.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn

from analyses import attention_share, results
from analyses.cases import Case
from data_prep.clips import write_clip
from hooked_omni import Prompt, knockout, load, prove


def two_seconds(path: Path) -> Path:
    """A red square that moves to the right over a tone that rises."""
    frames = np.full((20, 112, 112, 3), 40, dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[40:72, 4 * i : 4 * i + 32] = (220, 60, 60)
    time = np.arange(2 * 16_000) / 16_000
    return write_clip(path, frames, 10, 0.3 * np.sin(2 * np.pi * (300 + 100 * time) * time))


def main(clip: Path | None, out: Path) -> None:
    """Run the demo on `clip`, or on one it renders."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").unlink(missing_ok=True)  # the demo may replace its own last result
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:

        def done(task: TaskID, description: str) -> None:
            progress.update(task, description=description, total=1, completed=1)

        task = progress.add_task("a tiny Qwen2.5-Omni with random weights", total=None)
        omni = load("random-omni")
        done(task, f"a tiny Qwen2.5-Omni with random weights: {omni.model.cfg.n_layers} layers")

        task = progress.add_task("clip", total=None)
        clip = clip or two_seconds(out / "clip.mp4")
        prompt = omni.embed(Prompt("Describe what you hear.", video=clip))
        prompt.save(out / "prompt.safetensors")
        sizes = {name: len(prompt.spans[name]) for name in ("video", "audio", "text")}
        done(task, f"{clip.name} embedded: {prompt.n_pos} positions {sizes}")

        task = progress.add_task("proof", total=None)
        report = prove(omni, prompt)
        done(task, f"logits equal to Hugging Face's at prefill and {report.decode_steps} steps")

        task = progress.add_task("attention share", total=None)
        config = attention_share.Config()
        table = attention_share.run(omni, [Case(prompt, clip.name)], config)
        figure = attention_share.plot(table)
        results.save(out, "attention_share", table, figure, config, prompt=prompt.facts)
        done(task, f"attention share of {table['n_queries'].iloc[0]} generated positions")

        task = progress.add_task("knockout", total=None)
        plain = omni.model.generate(prompt, 12, stop_at_eos=False)
        cut = omni.model.generate(prompt, 12, [knockout("G !-> V")], stop_at_eos=False)
        moved = int((plain.tokens != cut.tokens).sum())
        done(task, f"generated tokens cut off from the video: {moved} of 12 tokens change")

    console.print("\n[bold]Largest difference from Hugging Face (0 is equal to the bit)[/bold]")
    console.print(str(report))
    shares = table.pivot_table(values="share", index="layer", columns="segment")
    console.print("\n[bold]Mean attention of generated tokens[/bold]")
    console.print(shares.round(3).to_string())
    console.print(f"\ntable and figure: {out}/attention_share.parquet, .png", soft_wrap=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The main job, end to end.")
    parser.add_argument("--clip", type=Path, help="an mp4 with sound; default: one is rendered")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    arguments = parser.parse_args()
    main(arguments.clip, arguments.out)
