"""Which command imports which layout? `python -m data_prep import --help`.

Nothing heavy is imported until a command runs.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from data_prep.importers.clip_folder import Imported

__all__ = ["app"]

app = typer.Typer(
    help="Make a manifest of clips on disk. What is missing is listed, not fatal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Argument(help="Manifest to write, in a folder above the clips.")]
Table = Annotated[Path, typer.Argument(help="The CSV file.")]
Json = Annotated[Path, typer.Argument(help="The JSON file.")]
Clips = Annotated[
    Path | None, typer.Option(help="Folder of clips, with subfolders. Without it: captions alone.")
]
Encoding = Annotated[
    str | None, typer.Option(help="Of the CSV file, if neither UTF-8 nor UTF-16: latin-1, ...")
]


@app.command("audiocaps")
def import_audiocaps(csv: Table, out: Out, clips: Clips = None, encoding: Encoding = None) -> None:
    """AudioCaps 1 or 2: CSV of captions, clips {youtube_id}_{start:06d}.mp4 or {youtube_id}.mp4."""
    from data_prep.importers.audiocaps import audiocaps

    _write("audiocaps", audiocaps(csv, clips, out.parent, encoding, _progress), out)


@app.command("authors")
def import_authors(json: Json, out: Out, clips: Clips = None) -> None:
    """The authors' JSON: id, video_captions, audio_captions; clips {id}.mp4."""
    from data_prep.importers.authors import authors

    _write("authors", authors(json, clips, out.parent, _progress), out)


@app.command("avhbench")
def import_avhbench(json: Json, out: Out, clips: Clips = None) -> None:
    """AVHBench: JSON file, or folder of them; clips {video_id}.mp4, {video_id}_swap.mp4."""
    from data_prep.importers.avhbench import avhbench

    _write("avhbench", avhbench(json, clips, out.parent, _progress), out)


@app.command("vggsound")
def import_vggsound(csv: Table, out: Out, clips: Clips = None, encoding: Encoding = None) -> None:
    """VGGSound: CSV without header, labels as captions; clips {ytid}_{start:06d}.mp4."""
    from data_prep.importers.vggsound import vggsound

    _write("vggsound", vggsound(csv, clips, out.parent, encoding, _progress), out)


@app.command("huggingface")
def import_huggingface(
    dataset: Annotated[
        str, typer.Argument(help="Folder or name: gamma-lab-umd/counterfactual-av-eval.")
    ],
    out: Out,
    clips: Annotated[
        Path | None, typer.Option(help="Folder of clips {id}.mp4, if not in the dataset.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Needed if there are several.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="FIELD=COLUMN where names differ; repeat it.")
    ] = None,
) -> None:
    """A Hugging Face dataset, on disk or by name."""
    pairs = [item.partition("=") for item in column or []]
    if any(not field or not name for field, _, name in pairs):
        raise typer.BadParameter("expected FIELD=COLUMN, such as audio_captions=captions")
    columns = {field: name for field, _, name in pairs}
    from data_prep.importers.huggingface import huggingface

    found = huggingface(dataset, out.parent, columns, split, clips, _progress)
    _write("huggingface", found, out)


@app.command("separate-audio")
def import_separate_audio(
    clips: Annotated[Path, typer.Argument(help="Folder of videos, silent or not.")],
    sounds: Annotated[Path, typer.Argument(help="Folder of sound files of the same names.")],
    out: Out,
) -> None:
    """Sound files beside videos, matched by name."""
    from data_prep.importers.separate_audio import separate_audio

    _write("separate-audio", separate_audio(clips, sounds, out.parent, _progress), out)


def _progress(items: list[Any]) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    return track(items, "looking at clips", console=Console(stderr=True))


def _write(importer: str, found: "Imported", out: Path) -> None:
    from rich.console import Console

    from data_prep.manifest import write_manifest
    from hooked_omni.errors import ManifestError

    console = Console(stderr=True)
    for name, reason in list(found.missing.items())[:10]:
        console.print(f"missing: {name}: {reason}", markup=False, highlight=False)
    if not found.samples:
        raise ManifestError(
            f"expected at least one usable clip, got none of {len(found.missing)}. See the reasons."
        )
    write_manifest(out, found.samples, {"by": f"import {importer}", "missing": found.missing})
    console.print(
        f"{len(found.samples)} samples in {out}; {len(found.missing)} missing, listed in its first "
        f"line",
        markup=False,
        highlight=False,
    )
