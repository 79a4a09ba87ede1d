"""Ask a question of a model: `python -m analyses --help`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Questions about what an audio-visual language model sees and hears."""


@app.command(name="attention_share")
def attention_share(
    model: Annotated[str, typer.Option(help="Hub name, folder, or a shipped name.")],
    clip: Annotated[list[Path], typer.Option(help="Clip with picture and sound; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for table, figure and run.json.")],
    question: Annotated[str, typer.Option(help="What to ask.")] = "Describe what you hear.",
    audio: Annotated[Path | None, typer.Option(help="Other sound, in place of the clip's.")] = None,
    rope: Annotated[str, typer.Option(help="model, or paper-scripts.")] = "model",
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 50,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Such as bfloat16; default: as saved.")] = None,
) -> None:
    """Where do the words of an answer look?"""
    # Imported here: torch takes seconds, and --help should not.
    from rich.progress import track

    from analyses import attention_share as analysis
    from analyses import results
    from hooked_omni import HookedOmniError, Prompt, load

    try:
        config = analysis.Config(max_new_tokens=max_new_tokens)
        omni = load(model, device=device, dtype=dtype)
        prompts = {
            str(path): omni.embed(Prompt(question, video=path, audio=audio, rope=rope))  # pyright: ignore[reportArgumentType]  # checked by Prompt
            for path in track(clip, description="embedding")
        }
        table = analysis.run(omni, prompts, config)
        facts = {sample: prompt.facts for sample, prompt in prompts.items()}
        results.save(out, "attention_share", table, analysis.plot(table), config, prompts=facts)
    except HookedOmniError as error:
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{len(table)} rows and a figure in {out}")


if __name__ == "__main__":
    app()
