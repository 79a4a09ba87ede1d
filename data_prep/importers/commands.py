"""Which command imports which layout? Heavy imports wait for a command."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from data_prep.console import bar, say_reasons
from hooked_omni.endings import say

_BAR = bar("looking at clips")

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

_JSON: dict[str, tuple[str, str]] = {
    "authors": (
        "authors",
        "The authors' JSON: id, video_captions, audio_captions; clips {id}.mp4.",
    ),
    "avhbench": (
        "avhbench",
        "AVHBench: JSON, or folder of it; clips {video_id}.mp4, {video_id}_swap.mp4.",
    ),
    "cmm": ("cmm", "CMM: all_data_final_reorg.json; videos and sounds below reorg_raw_files/."),
    "dailyomni": (
        "video_questions",
        "Daily-Omni: qa.json; clips Videos/{video_id}/{video_id}_video.mp4.",
    ),
    "mmau": ("mmau", "MMAU: its JSON; sounds test-mini-audios/{id}.wav, test-audios/{id}.wav."),
    "worldsense": ("video_questions", "WorldSense: worldsense_qa.json; clips {video}.mp4."),
}
"""Each command's file here, and its layout."""


@app.command("audiocaps")
def import_audiocaps(csv: Table, out: Out, clips: Clips = None, encoding: Encoding = None) -> None:
    """AudioCaps 1 or 2: CSV of captions, clips {youtube_id}_{start:06d}.mp4 or {youtube_id}.mp4."""
    from data_prep.importers.audiocaps import read_audiocaps

    _find("audiocaps", read_audiocaps(csv, encoding), clips, out)


@app.command("csv")
def import_csv(csv: Table, out: Out, clips: Clips = None, encoding: Encoding = None) -> None:
    """Your own: CSV with a header, file,caption and perhaps video_caption; clips by file."""
    from data_prep.importers.own_clips import read_csv

    _find("csv", read_csv(csv, encoding, clips), clips, out)


@app.command("folder")
def import_folder(
    clips: Annotated[Path, typer.Argument(help="Folder of clips, with subfolders.")], out: Out
) -> None:
    """Your own: every clip of a folder, without captions."""
    from data_prep.importers.own_clips import read_folder

    _find("folder", read_folder(clips, out.parent), clips, out)


@app.command("vggsound")
def import_vggsound(csv: Table, out: Out, clips: Clips = None, encoding: Encoding = None) -> None:
    """VGGSound: CSV without header, labels as captions; clips {ytid}_{start:06d}.mp4."""
    from data_prep.importers.vggsound import read_vggsound

    _find("vggsound", read_vggsound(csv, encoding), clips, out)


@app.command("omnibench")
def import_omnibench(
    jsonl: Annotated[Path, typer.Argument(help="Its JSON Lines.")],
    media: Annotated[Path, typer.Argument(help="Folder with image/ and audio/, its mm_data.")],
    out: Out,
) -> None:
    """OmniBench: an image, a sound and a question each, to be asked as `--questions own`."""
    from data_prep.importers.omnibench import read_omnibench

    _write("omnibench", read_omnibench(jsonl, media, out.parent, _BAR), out)


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
    from data_prep.importers.huggingface import read_huggingface

    _write("huggingface", read_huggingface(dataset, out.parent, columns, split, clips, _BAR), out)


@app.command("separate-audio")
def import_separate_audio(
    clips: Annotated[Path, typer.Argument(help="Folder of videos, silent or not.")],
    sounds: Annotated[Path, typer.Argument(help="Folder of sound files of the same names.")],
    out: Out,
) -> None:
    """Sound files beside videos, matched by name."""
    from data_prep.importers.own_clips import match_sounds

    _write("separate-audio", match_sounds(clips, sounds, out.parent, _BAR), out)


def _add(name: str, file: str, layout: str) -> None:
    @app.command(name, help=layout)
    def command(json: Json, out: Out, clips: Clips = None) -> None:
        read = getattr(import_module(f"data_prep.importers.{file}"), f"read_{name}")
        _find(name, read(json), clips, out)


for _name, _own in _JSON.items():
    _add(_name, *_own)


def _find(importer: str, wanted: Any, clips: Path | None, out: Path) -> None:
    from data_prep.importers.clip_folder import find_clips

    _write(importer, find_clips(wanted, clips, out.parent, _BAR), out)


def _write(importer: str, found: Any, out: Path) -> None:
    """Write the manifest of an `Imported`, and say what is missing."""
    from data_prep.manifest import write_manifest
    from data_prep.questions import KEY
    from hooked_omni.errors import ManifestError

    say_reasons(found.missing, "missing")
    if not found.samples:
        raise ManifestError(
            f"expected at least one usable clip, got none of {len(found.missing)}. See the reasons."
        )
    write_manifest(out, found.samples, {"by": f"import {importer}", "missing": found.missing})
    n_found, n_missing = len(found.samples), len(found.missing)
    listed = [sample.extra.get(KEY) for sample in found.samples]
    n_questions = sum(len(own) for own in listed if isinstance(own, list))
    also = f" with {n_questions} questions" * (n_questions > 0)
    say(f"{n_found} samples{also} in {out}; {n_missing} missing, listed in its first line")
