"""Which steps lead from clips on disk to counterfactual pairs? Heavy imports wait for a command."""

from hooked_omni.endings import StopSignals, run_command, say

if __name__ == "__main__":
    StopSignals().__enter__()  # before what takes long to import, to the end of the process

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from data_prep.console import bar
from data_prep.importers.commands import app as importing
from data_prep.importers.commands import import_audiocaps, import_csv
from data_prep.manifest import read_manifest
from data_prep.organism.commands import app as organism
from hooked_omni.command_line import Cpus, Ray, Stored, joined, new_app


class _InOrder(TyperGroup):
    """Commands in the order of the work; typer would put `import`, a group, last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, as the help page lists them."""
        return ["build", "import", "captions", "pairs", "swap", "check", "show", "organism"]


app = new_app(
    cls=_InOrder,
    help="From clips on disk to factual and counterfactual samples: import, captions, pairs, swap. "
    "Each step reads a manifest (JSON Lines, one sample a line) and writes the next one; a step "
    "that was stopped goes on where it was.",
    no_args_is_help=True,
)

app.add_typer(importing, name="import", help="1. Make a manifest of clips and captions on disk.")
app.add_typer(organism, name="organism", help="Small models whose bias is known, and their world.")

Manifest = Annotated[Path, typer.Argument(help="Manifest to read.")]
Out = Annotated[Path, typer.Argument(help="Manifest to write, in the same folder or one above.")]
Captions = Annotated[
    Path | None, typer.Option("--captions", "--file", help="JSON or CSV of video captions by id.")
]
ServerUrl = Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server.")]
_CAPTIONER = "Model of the server; alone, a local one (name or folder)."
Captioner = Annotated[str | None, typer.Option("--captioner", help=_CAPTIONER)]
Number = Annotated[int, typer.Option("-k", "--k", help="Counterfactual samples, and factual ones.")]
Embedder = Annotated[
    str | None, typer.Option("--embedder", help="Sentence embedder, name or folder.")
]
Device = Annotated[str | None, typer.Option(help="Where a model runs: cpu, cuda, ...")]


@app.command("build")
def build_pairs(
    csv: Annotated[
        Path, typer.Argument(help="Captions of the sounds: AudioCaps, or file,caption.")
    ],
    clips: Annotated[Path, typer.Argument(help="Folder of clips, inside OUT or below it.")],
    out: Annotated[Path, typer.Argument(help="Folder for the manifests and the page.")],
    captions: Captions = None,
    server: ServerUrl = None,
    captioner: Captioner = None,
    k: Number = 250,
    embedder: Embedder = None,
    device: Device = None,
) -> None:
    """All of it, from a CSV of captions and a folder of clips to pairs and a page to look at."""
    from data_prep.importers.own_clips import names_files

    found, captioned, pairs = (out / f"{name}.jsonl" for name in ("clips", "captioned", "pairs"))
    (import_csv if names_files(csv) else import_audiocaps)(csv, found, clips)
    caption_clips(found, captioned, captions, server, captioner, device=device)
    pair_clips(captioned, pairs, k, embedder, device=device)
    show_samples(pairs)


@app.command("captions")
def caption_clips(
    manifest: Manifest,
    out: Out,
    file: Captions = None,
    server: ServerUrl = None,
    model: Annotated[str | None, typer.Option("--model", "--captioner", help=_CAPTIONER)] = None,
    prompt: Annotated[str | None, typer.Option(help="The words that go with the frames.")] = None,
    device: Device = None,
    workers: Annotated[int, typer.Option(help="Requests to the server at a time.")] = 8,
    again: Annotated[bool, typer.Option(help="Also where there are captions already.")] = False,
    ray: Ray = None,
    cpus: Cpus = None,
) -> None:
    """2. Describe what each clip shows: captions from a file, or a vision-language model."""
    if (file is None) == (model is None) or (server is not None and model is None):
        raise typer.BadParameter("expected --captions, --model, or --server and --model")
    if ray is not None and (model is None or server is not None):
        raise typer.BadParameter("expected --ray with a local --model: nothing else is computed")
    from data_prep.captioning import caption_manifest

    source: Any = file
    if model is not None:
        from data_prep.captioning.question import PROMPT, Question

        question = Question(prompt or PROMPT)
        if server is not None:
            from data_prep.captioning.server import Server

            source = Server(server, model, question, workers=workers)
        else:
            read_manifest(manifest)  # refuses a wrong one, before torch is imported
            from data_prep.captioning.local import Local

            source = Local(model, question, device or "cpu")
    with joined(ray, cpus) as cluster:
        caption_manifest.run(manifest, out, source, again=again, cluster=cluster)


@app.command("pairs")
def pair_clips(
    manifest: Manifest,
    out: Out,
    k: Number = 250,
    model: Annotated[
        str | None, typer.Option("--model", "--embedder", help="Sentence embedder, as in build.")
    ] = None,
    instruct: Annotated[str | None, typer.Option(help="The embedder's instruction.")] = None,
    device: Device = None,
    match_durations: Annotated[
        float | None, typer.Option(help="Most seconds between picture and sound.")
    ] = None,
    match_loudness: Annotated[
        float | None, typer.Option(help="Most dB between the own sound and the new one.")
    ] = None,
    exclude_silent: Annotated[
        float | None, typer.Option(help="Leave out sounds below this, such as -60 dB.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which clips are factual.")] = 0,
    block: Annotated[
        int | None, typer.Option(help="Pair within blocks of so many clips, to save memory.")
    ] = None,
    twins: Annotated[
        bool, typer.Option("--twins", help="Factual samples: the same pictures, own sound.")
    ] = False,
) -> None:
    """3. Give pictures the least similar sounds: factual and counterfactual samples."""
    from data_prep.pairing import pair_manifest as pairing

    config = pairing.Config(k, match_durations, match_loudness, exclude_silent, seed, block, twins)
    pairing.run(manifest, out, config, model or pairing.MODEL, instruct, device)


@app.command("swap")
def swap_sounds(
    manifest: Manifest,
    out: Out,
    control: Annotated[
        list[str] | None,
        typer.Option(help="Also self, silence, noise or reversed, of factual samples; repeat it."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    ray: Ray = None,
    cpus: Cpus = None,
    storage: Stored = "driver",
) -> None:
    """4. Write the clips: pictures copied bit for bit, with their new sounds."""
    from data_prep.swapping import swap_manifest

    with joined(ray, cpus, storage) as cluster:
        left_out = swap_manifest.run(manifest, out, control or [], seed, bar("swapping"), cluster)
    for name, reason in left_out.items():
        say(f"left out: {name}: {reason}")
    say(f"{out}: {len(left_out)} samples left out")


@app.command("check")
def check_clips(manifest: Manifest) -> None:
    """Any time: decode every clip of a manifest, and list what is broken."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from data_prep.check import problems

    table = Table("sample", "problem")
    try:
        for name, problem in problems(manifest, bar("decoding")):
            table.add_row(Text(name), Text(problem))
    finally:
        if table.rows:
            Console().print(table)
    say(f"{len(table.rows)} problems")
    if table.rows:
        raise typer.Exit(1)


@app.command("show")
def show_samples(
    manifest: Manifest,
    out: Annotated[
        Path | None, typer.Argument(help="HTML file to write; by default beside the manifest.")
    ] = None,
) -> None:
    """Any time: one HTML page with similarities, clips and captions of a manifest."""
    from data_prep.pairing import page

    say(f"{page.run(manifest, out or manifest.with_suffix('.html'))}")


def main(arguments: list[str] | None = None) -> None:
    """Run a command, as `run_command`."""
    run_command(app, arguments, "python -m data_prep")


if __name__ == "__main__":
    main()
