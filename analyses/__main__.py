"""Ask a question of a model: `python -m analyses` lists them.

Nothing heavy is imported until a command runs.
"""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.judge.commands import app as agreement

__all__ = ["ANALYSES", "main"]

ANALYSES: dict[str, tuple[str, bool]] = {
    "captions": ("reference captions, for what is named", False),
    "attention_share": ("a clip", False),
    "logit_lens": ("sound; reference captions, for recall", False),
    "knockout": ("sound and picture", False),
    "distribution_shift": ("sound and picture; --base, the vision-only base model", True),
    "modality_reliance": ("sound, or picture", False),
}
"""Each analysis: what it needs, and whether it compares with a base model."""

app = typer.Typer(
    help="Questions about what an audio-visual language model sees and hears. Without a command: "
    "the list of questions. A run that was stopped goes on where it was.",
    pretty_exceptions_enable=False,
    add_completion=False,
)

Model = Annotated[str, typer.Option(help="Hub name, folder, or a shipped name.")]
Out = Annotated[Path, typer.Option(help="Folder for table, figures and run.json.")]
Data = Annotated[Path | None, typer.Option(help="Manifest, as data_prep writes it.")]
Clips = Annotated[
    list[Path] | None, typer.Option("--clip", help="In place of --data: a clip; repeatable.")
]
Sound = Annotated[Path | None, typer.Option(help="With --clip: a sound in place of the clip's.")]
Ask = Annotated[str | None, typer.Option(help="With --clip: your own words to the model.")]
Questions = Annotated[str, typer.Option(help="Of see, hear and both; with commas.")]
Kinds = Annotated[str | None, typer.Option(help="Kinds of samples, with commas; default: all.")]
Config = Annotated[str | None, typer.Option(help="The analysis's Config as JSON, or a JSON file.")]
Limit = Annotated[int | None, typer.Option(min=1, help="The first so many cases.")]
Shard = Annotated[str, typer.Option(help="Part i of n, as i/n; `merge` puts parts together.")]
Base = Annotated[str | None, typer.Option(help="The base model, where one is compared with.")]
Prompts = Annotated[Path | None, typer.Option(help="Folder that keeps embedded prompts.")]
Rope = Annotated[str, typer.Option(help="model, or paper-scripts.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
Dtype = Annotated[str | None, typer.Option(help="Such as bfloat16; default: as saved.")]


def _question(name: str) -> str:
    """First line of an analysis's docstring, read without importing it."""
    here = Path(__file__).parent
    file = here / f"{name}.py"
    source = (file if file.is_file() else here / name / "__init__.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _command(name: str) -> Callable[..., None]:
    def command(
        model: Model,
        out: Out,
        data: Data = None,
        clip: Clips = None,
        audio: Sound = None,
        ask: Ask = None,
        questions: Questions = "hear",
        kinds: Kinds = None,
        config: Config = None,
        limit: Limit = None,
        shard: Shard = "1/1",
        base: Base = None,
        prompts: Prompts = None,
        rope: Rope = "model",
        device: Device = "cpu",
        dtype: Dtype = None,
    ) -> None:
        # Imported here: torch takes seconds, and --help should not.
        from analyses.running import request, results

        if (base is None) == ANALYSES[name][1]:
            wanted = "--base, a model to compare with" if base is None else "no --base"
            raise typer.BadParameter(f"expected {wanted}, for {name}")
        if (data is None) == (not clip):
            raise typer.BadParameter("expected --data, a manifest, or --clip, one of them")
        chosen = request.Chosen(
            data=data,
            clips=tuple(clip or ()),
            audio=audio,
            ask=ask,
            questions=tuple(questions.split(",")),
            kinds=None if kinds is None else tuple(kinds.split(",")),
            limit=limit,
            rope=rope,
        )
        models = request.Models(model, base, device, dtype, prompts)
        results.require_folder(out)
        _carry_out(request.prepare(name, chosen, config, shard, models), out)

    return command


for _name in ANALYSES:
    app.command(_name, help=_question(_name))(_command(_name))


@app.command("merge")
def merge(
    out: Annotated[Path, typer.Argument(help="Folder for the whole.")],
    shards: Annotated[list[Path], typer.Argument(help="Folders of all its shards.")],
) -> None:
    """Put the shards of a run together: one table, one figure, one run.json."""
    from analyses.running import runs

    table = runs.merge(out, shards)
    _say(f"{out}: {len(table)} rows of {len(shards)} shards")


@app.command("summary")
def summary(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
) -> None:
    """The paper's headline sentences, with the numbers of these runs."""
    from rich.console import Console

    from analyses.running.summary import sentences

    console = Console()
    for title, said in sentences(folders).items():
        console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
        for sentence in said:
            console.print(f"  * {sentence}", markup=False, highlight=False, soft_wrap=True)


app.add_typer(agreement, name="agreement")


@app.command("study")
def study(
    config: Annotated[Path, typer.Option(help="The study, as TOML; see docs/study.md.")],
    out: Annotated[Path, typer.Option(help="Folder for everything; goes on where it was.")],
    model: Annotated[str | None, typer.Option(help="In place of the file's.")] = None,
    data: Annotated[Path | None, typer.Option(help="In place of the file's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Samples of each kind.")] = None,
) -> None:
    """The whole study: captions, analyses, judge, the paper's claims, figures and report.md."""
    from dataclasses import replace

    from analyses.running.progress import view
    from analyses.study import run as whole

    given = {"model": model, "data": data, "limit": limit}
    chosen = whole.read_study(config)
    chosen = replace(chosen, **{name: value for name, value in given.items() if value is not None})
    with view() as bars:
        found = whole.carry_out(chosen, out, bars.shown("cases"), bars.told)
    for one in found.findings:
        _say(f"{one.verdict:>17}: {one.claim.name}: {one.ours}")
    _say(f"{found.report}: the claims, the figures, and what is missing")


def _carry_out(run: Any, out: Path) -> None:
    from analyses.running import runs
    from analyses.running.progress import view

    with view() as bars:
        table = runs.carry_out(run, out, bars.shown(run.name))
    skipped = table.attrs["skipped"]
    for case, reason in list(skipped.items())[:10]:
        _say(f"skipped: {case}: {reason}")
    if len(skipped) > 10:
        _say(f"and {len(skipped) - 10} more: see run.json")
    _say(f"{out}: {len(table)} rows, {len(skipped)} of {table.attrs['n_cases']} cases skipped")


def main(arguments: list[str] | None = None) -> None:
    """Run a command, or list them; the project's own errors are one red message."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        _list_questions()
        return
    try:
        app(arguments)
    except Exception as error:
        # By name, so that the help page need not import the package.
        if not any(kind.__module__ == "hooked_omni.errors" for kind in type(error).__mro__):
            raise
        notes = " ".join(getattr(error, "__notes__", []))
        _say(f"{type(error).__name__}: {error} {notes}".rstrip(), "red")
        sys.exit(1)


def _list_questions() -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "question", "what it needs", box=None)
    for name, (needs, _) in ANALYSES.items():
        table.add_row(name, _question(name), needs)
    console = Console(highlight=False)
    console.print(table)
    console.print("\nAll of them at once: python -m analyses study --config FILE --out DIR")


def _say(text: str, style: str = "") -> None:
    from rich.console import Console

    Console(stderr=True).print(text, style=style, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
