"""Prove a model's numbers, embed a clip into a file, or list families: `... hooked_omni --help`.

`embed` also runs in an environment for older code: transformers 4.40 or newer with torch,
torchvision, av, decord, librosa, soundfile, jaxtyping, safetensors, xxhash, pillow, accelerate and
typer. Install this package there with `pip install --no-deps`.
"""

from hooked_omni.endings import StopSignals, run_command

if __name__ == "__main__":
    StopSignals().__enter__()  # before what takes long to import, to the end of the process

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from hooked_omni.command_line import (
    Cpus,
    DeviceMap,
    Quantized,
    Ray,
    Stored,
    joined,
    new_app,
    read_device_map,
)
from hooked_omni.errors import PromptError
from hooked_omni.hf.spelling import require_spelled

app = new_app(
    help="Compare a model with Hugging Face's, embed a clip into a file, or list families.",
    no_args_is_help=True,
)

Model = Annotated[str, typer.Argument(help="Hub name, folder, or a shipped name.")]
Clip = Annotated[Path | None, typer.Option(help="Video file.")]
Sound = Annotated[Path | None, typer.Option(help="Sound file, in place of the clip's own sound.")]
Question = Annotated[
    str, typer.Option("--question", "--ask", help="Your own question about the clip.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
Precision = Annotated[str | None, typer.Option(help="bfloat16, ...; default: the checkpoint's.")]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that came with the checkpoint.")
]
Alone = Annotated[bool, typer.Option("--decoder-only", help="Load the decoder without the towers.")]
Bundle = Annotated[Path | None, typer.Option(help="File written by `embed`.")]
Out = Annotated[Path, typer.Option(help="File to write.")]
Lora = Annotated[Path | None, typer.Option(help="Folder of a LoRA adapter, as peft writes it.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]


@app.command()
def prove(
    model: Model,
    clip: Clip = None,
    audio: Sound = None,
    question: Question = "Describe what you see and hear.",
    prompt: Bundle = None,
    device: Device = "cpu",
    dtype: Precision = None,
    attention: Annotated[str, typer.Option(help="Attention kernel: sdpa or eager.")] = "sdpa",
    revision: Revision = None,
    decoder_only: Alone = False,
    trust_remote_code: Trust = False,
    adapter: Lora = None,
    device_map: DeviceMap = None,
    allow_quantized: Quantized = False,
) -> None:
    """Compare a model with Hugging Face's, and print what is guaranteed and what is not.

    Without a clip or a prompt, the question alone is the prompt.
    """
    if attention not in ("sdpa", "eager"):
        raise PromptError(f"expected --attention sdpa or eager, got {attention!r}.")
    placed = read_device_map(device_map, device), allow_quantized
    media = clip is not None or audio is not None
    if media and (prompt is not None or decoder_only):
        raise PromptError(
            "expected one prompt, got a clip or sound beside --prompt or --decoder-only, which "
            "would not be read. Leave one out; a decoder alone takes --prompt."
        )
    require_spelled(model, device, dtype, adapter)
    to_embed = _prompt(question, clip, audio)
    if prompt is not None and not prompt.is_file():
        raise PromptError(f"expected a file that `embed` wrote, got none at {prompt}. Check it.")
    from rich.console import Console  # `embed` also runs where this and the decoder are missing

    from hooked_omni import guarantees
    from hooked_omni.decoder.memory import room_for
    from hooked_omni.hf.checkpoint import ROOM
    from hooked_omni.hf.config_file import family_named
    from hooked_omni.inputs.prompt import EmbeddedPrompt
    from hooked_omni.omni import load
    from hooked_omni.parity import prove as compare

    given = None if prompt is None else EmbeddedPrompt.load(prompt)  # first: it may be refused
    to_embed = _taken(to_embed, family_named(model, revision))
    how = revision, decoder_only, trust_remote_code, adapter, *placed
    omni = load(model, device, dtype, attention, *how)
    if given is not None:
        embedded: Any = given.to(omni.model.cfg.device)
    elif decoder_only:
        embedded = omni.model.as_prompt(omni.model.to_tokens(question))
    else:
        embedded = omni.embed(to_embed)
    with room_for("the proof", ROOM):
        report = compare(omni, embedded)
    console = Console()
    console.print(guarantees.guaranteed(omni, embedded, report))
    console.print(guarantees.not_guaranteed(omni, embedded, report))


@app.command()
def embed(
    model: Model,
    out: Out,
    clip: Clip = None,
    audio: Sound = None,
    question: Question = "Describe what you see and hear.",
    system: Annotated[
        str | None, typer.Option(help="System prompt; default: the family's.")
    ] = None,
    device: Device = "cpu",
    dtype: Precision = None,
    revision: Revision = None,
    trust_remote_code: Trust = False,
    adapter: Lora = None,
    device_map: DeviceMap = None,
    allow_quantized: Quantized = False,
    ray: Ray = None,
    cpus: Cpus = None,
    storage: Stored = "driver",
) -> None:
    """Run the towers on a clip and a question, and write the decoder's inputs to a file.

    With --ray a worker does it, such as one that has a GPU; `examples.embed_prompts` takes many.
    """
    placed = read_device_map(device_map, device), allow_quantized
    if ray is not None and device_map is not None:
        raise typer.BadParameter("expected --device with --ray, whose workers have one each")
    require_spelled(model, device, dtype, adapter)
    to_embed = _prompt(question, clip, audio, system)
    if out.is_dir() or any(folder.is_file() for folder in out.absolute().parents):
        raise PromptError(f"expected a file to write, got {out}. Choose another name.")
    from hooked_omni.cluster.spreading import spread
    from hooked_omni.cluster.tasks import Task
    from hooked_omni.hf.config_file import family_named

    to_embed = _taken(to_embed, family_named(model, revision))
    files = tuple(Path(source.path) for source in to_embed.sources(True))
    task = Task(str(out), to_embed, files, (out.absolute(),))
    with joined(ray, cpus, storage) as cluster:
        place = device if cluster is None else device.partition(":")[0]  # it sees one GPU
        how = model, place, dtype, "sdpa", revision, trust_remote_code, adapter, *placed
        for _, made in spread(cluster, partial(_towers, how), [task], gpus=int(place != "cpu")):
            typer.echo(f"{out}: {made.result()}")


def _towers(how: tuple[Any, ...]) -> Any:
    """What a worker of `embed` does, here or on a cluster."""
    from hooked_omni.decoder.memory import room_for  # not needed for --help
    from hooked_omni.hf.checkpoint import ROOM
    from hooked_omni.hf.loading import load_towers

    towers = load_towers(*how)

    def embed(to_embed: Any, paths: Sequence[Path]) -> str:
        with room_for("the towers", ROOM):
            prompt = towers.embed(to_embed)
        prompt.save(paths[0])
        parts = ", ".join(f"{len(prompt.spans[name])} {name}" for name in prompt.spans)
        return f"{prompt.n_pos} positions, {parts}"

    return embed, {}


@app.command()
def models() -> None:
    """List the families: their decoders, what was proved on what, and who is refused and why."""
    from rich.console import Console
    from rich.table import Table

    from hooked_omni.families import FAMILIES
    from hooked_omni.families.not_computed import NOT_COMPUTED

    known = Table("family", "decoder", "largest difference of logits from transformers on a CPU")
    for family in FAMILIES:
        known.add_row(family.checkpoints, family.decoder, family.proved)
    refused = Table("model_type", "refused, since its decoder has")
    for reason in dict.fromkeys(NOT_COMPUTED.values()):
        refused.add_row(", ".join(k for k, v in NOT_COMPUTED.items() if v == reason), reason)
    for table in (known, refused):
        Console().print(table)


def _prompt(question: str, clip: Path | None, audio: Path | None, system: str | None = None) -> Any:
    """The prompt; files that are not there are refused, before torch is imported."""
    from hooked_omni.inputs.container import existing
    from hooked_omni.inputs.items import Prompt

    for path in (clip, audio):
        if path is not None:
            existing(path)
    return Prompt(question, video=clip, audio=audio, system=system)


def _taken(to_embed: Any, family: Any) -> Any:
    """The prompt as a family takes it; refused, before weights are read, where it does not."""
    if to_embed.video is not None and not family.sees and to_embed.audio is None:
        to_embed = replace(to_embed, video=None, audio=to_embed.video)  # it takes the clip's sound
    family.require(to_embed)
    return to_embed


def main(arguments: list[str] | None = None) -> None:
    """Run a command, as `run_command`."""
    run_command(app, arguments, "python -m hooked_omni")


if __name__ == "__main__":
    main()
