"""Answer a question about a model: `python -m analyses` lists them.

Nothing heavy is imported until a command runs.
"""

from hooked_omni.endings import StopSignals, run_command, say

if __name__ == "__main__":
    StopSignals().__enter__()  # before what takes long to import, to the end of the process

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.explore.command import explore
from analyses.judge.commands import app as agreement
from analyses.running import options
from analyses.running.progress import progress_bars
from hooked_omni.command_line import (
    Cpus,
    DeviceMap,
    Quantized,
    Ray,
    Stored,
    joined,
    new_app,
    placed,
    read_device_map,
)

ANALYSES: dict[str, tuple[str, bool]] = {
    "captions": ("reference captions, for what is named", False),
    "attention_share": ("a clip", False),
    "attention_map": ("a clip", False),
    "logit_lens": ("sound; reference captions, for recall", False),
    "knockout": ("sound and picture", False),
    "distribution_shift": ("sound and picture; --base, the vision-only base model", True),
    "modality_reliance": ("sound, or picture", False),
    "choice": ("questions of choice, which or forced; --questions", False),
    "mitigation": ("sound and picture, --questions hear,see; reference captions", False),
    "heads": ("--questions which or forced", False),
}
"""Each analysis: what it needs, and whether it compares with a base model."""

_QUESTIONS = "Of see, hear and both; of choice, which and forced; with commas."
_ASK = "With --clip: your own question."
_ALONE = "Load decoders without towers; with --embedded."
_ADAPTER = "Folder of a LoRA adapter of the model, as peft writes it; kept beside the weights."
_TRUST = "Run code that came with the checkpoints."

app = new_app(
    help="Questions about what an audio-visual language model sees and hears. Without a command: "
    "the list of questions. A run that was stopped goes on where it was.",
)


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, **more)


def _command(name: str) -> Callable[..., None]:
    def command(
        model: Annotated[str, _option("Hub name, folder, or a shipped name.")],
        out: Annotated[Path, _option("Folder for table, figures and run.json.")],
        data: Annotated[Path | None, _option("Manifest, as data_prep writes it.")] = None,
        clip: Annotated[list[Path] | None, _option("A clip, not --data; repeatable.")] = None,
        audio: Annotated[Path | None, _option("With --clip: in place of the clip's sound.")] = None,
        ask: Annotated[str | None, _option(_ASK, "--ask", "--question")] = None,
        questions: Annotated[str, _option(_QUESTIONS)] = "hear",
        wording: Annotated[list[str] | None, _option("Other words: 'hear=What sounds?'.")] = None,
        system: Annotated[str | None, _option("System prompt; default: the family's.")] = None,
        kinds: Annotated[str | None, _option("Kinds of samples; default: all.")] = None,
        config: Annotated[str | None, _option("Its Config: JSON, or a JSON file.")] = None,
        limit: Annotated[int | None, _option("The first so many cases.", min=1)] = None,
        shard: Annotated[str, _option("Part i of n, as i/n; `merge` joins them.")] = "1/1",
        base: Annotated[str | None, _option("The base model, where there is one.")] = None,
        prompts: Annotated[Path | None, _option("Folder that keeps embedded prompts.")] = None,
        embedded: Annotated[Path | None, _option("Folder of prompts embedded elsewhere.")] = None,
        decoder_only: Annotated[bool, _option(_ALONE, "--decoder-only")] = False,
        trust_remote_code: Annotated[bool, _option(_TRUST, "--trust-remote-code")] = False,
        adapter: Annotated[Path | None, _option(_ADAPTER)] = None,
        rope: Annotated[str, _option("model, or paper-scripts.")] = "model",
        order: Annotated[str | None, _option("text-first or clip-first.")] = None,
        device: Annotated[str, _option("cpu, cuda, ...")] = "cpu",
        dtype: Annotated[str | None, _option("Such as bfloat16; default: as saved.")] = None,
        device_map: DeviceMap = None,
        allow_quantized: Quantized = False,
        ray: Ray = None,
        cpus: Cpus = None,
        storage: Stored = "driver",
    ) -> None:
        if (base is None) == ANALYSES[name][1]:
            needed = "--base, a model to compare with" if base is None else "no --base"
            raise typer.BadParameter(f"expected {needed}, for {name}")
        if (data is None) == (not clip):
            raise typer.BadParameter("expected --data, a manifest, or --clip, one of them")
        made, place = options.read_config(name, config), options.read_shard(shard)
        wanted = tuple(questions.split(",")), tuple(kinds.split(",")) if kinds is not None else None
        words = {key: text for key, _, text in (own.partition("=") for own in wording or ())}
        given = data, tuple(clip or ()), audio, ask, *wanted, limit, rope, words, system, order
        devices = read_device_map(device_map, device), allow_quantized
        more = prompts, embedded, decoder_only, trust_remote_code, adapter, *devices
        models = options.ModelOptions(model, base, device, dtype, *more)
        chosen = options.CaseSelection(*given)
        models.require()
        options.require_folder(out)
        options.shard_of(chosen.sample_questions(), place)
        with joined(ray, cpus, storage) as cluster:
            from analyses.running.request import carry_out, prepare  # now torch

            carry_out(*prepare(name, chosen, made, place, models, cluster), out)

    return command


for _name in ANALYSES:
    app.command(_name, help=options.question(_name))(_command(_name))


@app.command("vectors")
def fit_vectors(
    model: Annotated[str, _option("Hub name, folder, or a shipped name.")],
    data: Annotated[Path, _option("Manifest, as data_prep writes it.")],
    out: Annotated[Path, _option("File, .safetensors, for `mitigation`.")],
    questions: Annotated[str, _option("Whose answers are read.")] = "hear",
    device: Annotated[str, _option("cpu, cuda, ...")] = "cpu",
    dtype: Annotated[str | None, _option("Such as bfloat16; default: as saved.")] = None,
) -> None:
    """Steering vectors, fitted on the first half of the clips; safetensors with provenance."""
    options.CaseSelection(data, questions=tuple(questions.split(",")))
    options.ModelOptions(model, device=device, dtype=dtype).require()
    from analyses.mitigation.vectors import fit_file  # now torch

    say(f"{out}: {fit_file(model, data, out, questions.split(','), device, dtype)}")


@app.command("merge")
def merge(
    out: Annotated[Path, typer.Argument(help="Folder for the whole.")],
    shards: Annotated[list[Path], typer.Argument(help="Folders of all its shards.")],
) -> None:
    """Put the shards of a run together: one table, one figure, one run.json."""
    options.require_folder(out)
    for folder in shards:
        options.require_finished(folder, "run.json")
    from analyses.running.shards import merge_shards

    table = merge_shards(out, shards)
    say(f"{out}: {len(table)} rows of {len(shards)} shards")


@app.command("summary")
def summary(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs, or studies.")],
) -> None:
    """The paper's headline sentences, with the numbers of these runs."""
    folders = options.runs_of(folders)
    for folder in folders:
        options.require_finished(folder, "run.json")
    from rich.console import Console

    from analyses.running.summary import sentences

    plain: dict[str, Any] = dict(markup=False, highlight=False, soft_wrap=True)
    for title, lines in sentences(folders).items():
        Console().print(title, style="bold", **plain)
        for line in lines:
            Console().print(f"  * {line}", **plain)


app.add_typer(agreement, name="agreement")


@app.command("study")
def study(
    config: Annotated[Path, _option("The study, as TOML; see docs/study.md.")],
    out: Annotated[Path, _option("Folder for everything; goes on where it was.")],
    model: Annotated[str | None, _option("In place of the file's.")] = None,
    data: Annotated[Path | None, _option("In place of the file's.")] = None,
    limit: Annotated[int | None, _option("Samples of each kind.", min=1)] = None,
    device_map: DeviceMap = None,
    allow_quantized: Quantized = False,
    ray: Ray = None,
    cpus: Cpus = None,
    storage: Stored = "driver",
) -> None:
    """The whole study: captions, analyses, judge, the paper's claims, figures and report.md."""
    from analyses.study.config import read_study, require_startable

    given: dict[str, Any] = dict(model=model, data=data, limit=limit)
    own = read_study(config, given | placed(device_map, allow_quantized))
    require_startable(own)
    options.require_folder(out)
    with joined(ray, cpus, storage) as cluster, progress_bars() as progress:
        from analyses.study.run import run_study  # now torch, which takes seconds

        result = run_study(own, out, progress, cluster)
    for one in result.findings:
        say(f"{one.verdict:>17}: {one.claim.name}: {one.ours}")
    say(f"{result.report}: the claims, the figures, and what is missing")


@app.command("plan")
def plan_command(
    config: Annotated[Path | None, _option("A study, as TOML; in its place, what follows.")] = None,
    analysis: Annotated[str | None, _option("An analysis, of --data or --clip.")] = None,
    settings: Annotated[str | None, _option("Its Config: JSON, or a JSON file.")] = None,
    model: Annotated[str | None, _option("Of the analysis; or in place of the file's.")] = None,
    base: Annotated[str | None, _option("The base model, where there is one.")] = None,
    data: Annotated[Path | None, _option("Manifest, as data_prep writes it.")] = None,
    clip: Annotated[list[Path] | None, _option("A clip, not --data; repeatable.")] = None,
    questions: Annotated[str, _option(_QUESTIONS)] = "hear",
    dtype: Annotated[str | None, _option("Such as bfloat16; default: as saved.")] = None,
    device_map: DeviceMap = None,
    allow_quantized: Quantized = False,
) -> None:
    """What a study or an analysis will take of memory and work, before any weight is read."""
    from analyses.study.config import EVERY, read_study, require_startable

    more = placed(device_map, allow_quantized)
    if (config is None) == (analysis is None):
        raise typer.BadParameter("expected --config, a study, or --analysis, one of them")
    if config is not None:
        given: dict[str, Any] = dict(model=model, base=base, data=data, dtype=dtype)
        own = read_study(config, given | more)
        require_startable(own)
        from analyses.study.plan import plan_of_study  # now torch, which takes seconds

        plan_of_study(own)
        return
    if analysis not in EVERY or model is None or (data is None) == (not clip):
        raise typer.BadParameter(f"expected one of {[*EVERY]}, --model, and --data or --clip")
    if (base is None) == ANALYSES[analysis][1]:
        raise typer.BadParameter("expected --base for an analysis that compares, and for no other")
    settled = options.read_config(analysis, settings)
    chosen = options.CaseSelection(data, tuple(clip or ()), questions=tuple(questions.split(",")))
    models = options.ModelOptions(model, base, dtype=dtype, **more)
    models.require()
    from analyses.running.request import cases_of
    from analyses.study.plan import plan, printed

    printed(plan({analysis: (settled, cases_of(chosen))}, models))


@app.command("compare")
def compare(
    studies: Annotated[list[Path], typer.Argument(help="Folders of finished studies, or in them.")],
    out: Annotated[Path, _option("Folder for compare.md and its figures.")],
    judge: Annotated[str | None, _option("Whose scores, where several judged.")] = None,
) -> None:
    """Several models side by side, from the files of their studies: no model is loaded."""
    from analyses.study.config import FINISHED

    studies = options.studies_of(studies)
    for folder in studies:
        options.require_finished(folder, *FINISHED)
    options.require_folder(out)
    from analyses.study.compare import compare_studies

    say(f"{compare_studies(studies, out, judge)}: {len(studies)} studies side by side")


app.command("explore")(explore)


def main(arguments: list[str] | None = None) -> None:
    """Run a command, as `run_command`, or list them."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        _list_questions()
        return
    run_command(app, arguments, "python -m analyses")


def _list_questions() -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "question", "what it needs", box=None)
    for name, (needs, _) in ANALYSES.items():
        table.add_row(name, options.question(name), needs)
    console = Console(highlight=False)
    console.print(table)
    console.print("\nAll of them at once: python -m analyses study --config FILE --out DIR")


if __name__ == "__main__":
    main()
