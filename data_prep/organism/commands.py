"""How are organisms made and examined from the command line? `python -m data_prep organism`."""

import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["app"]

app = typer.Typer(
    help="A synthetic audio-visual world, and small models whose bias is known.",
    no_args_is_help=True,
)

Out = Annotated[Path, typer.Option(help="Folder; a stopped run goes on where it was.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the world, and of all training in it.")]


@app.command("world")
def world(
    out: Out,
    clips: Annotated[int, typer.Option(min=1, help="Clips of each thing.")] = 10,
    seed: Seed = 0,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
) -> None:
    """Write clips, and manifests of them: `clips.jsonl`, and `pairs.jsonl` with swapped sounds."""
    from data_prep.organism.world import scenes

    n_clips, n_pairs = scenes.run(out, clips, seed, split)
    _say(f"{out}: {n_clips} clips, {n_pairs} counterfactual samples")


@app.command("train")
def train(
    out: Out,
    seed: Seed = 0,
    recipe: Annotated[
        str | None, typer.Option(help='JSON of what differs, such as {"clips": 100}.')
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 2,
) -> None:
    """Make organism-base, organism-biased and organism-balanced from nothing."""
    import torch
    import transformers

    from data_prep.organism.evaluation import card
    from data_prep.organism.training import export
    from data_prep.organism.training.recipe import claim
    from data_prep.organism.training.train import School, logged
    from data_prep.organism.training.train import train as run

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    chosen = _recipe(recipe, seed)
    claim(out, chosen, device)
    say, start = logged(out, _say), time.monotonic()
    made = run(chosen, out, say, device, workers)
    school = School(chosen, out, say)
    for name, hf in made.items():
        own = school.base_processor if name == "organism-base" else school.processor
        export.save(hf.cpu(), own, out / name)
    say(f"trained in {time.monotonic() - start:.0f} s")
    card.write_cards(out)


@app.command("evaluate")
def evaluate(
    out: Out,
    split: Annotated[str, typer.Option(help="validation to choose, test to report.")] = "test",
    clips: Annotated[int, typer.Option(min=1, help="Clips of each thing.")] = 24,
) -> None:
    """Examine the organisms of a training folder on clips they have never met."""
    import transformers
    from rich.console import Console
    from rich.progress import track

    from data_prep.organism.evaluation import card
    from data_prep.organism.evaluation.evaluate import evaluate as run
    from data_prep.organism.evaluation.evaluate import misses
    from data_prep.organism.world import scenes

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    exam = scenes.exam(out, split, clips)

    def shown(cases: list[Any]) -> Any:
        return track(cases, "asking", console=Console(stderr=True))

    found = run(out, exam, shown, out / split)
    for name in ("biased", "balanced"):
        _say(f"organism-{name}: " + ("; ".join(misses(found[name], name)) or "all as expected"))
    if split == "test":
        card.write_cards(out, found)


@app.command("compare")
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Training folders of several seeds.")],
    split: Annotated[str, typer.Option(help="Which evaluation.")] = "test",
) -> None:
    """Print the numbers of several evaluated trainings, their mean and their spread."""
    from data_prep.organism.evaluation.evaluate import spread

    found = [json.loads((folder / split / "evaluation.json").read_bytes()) for folder in folders]
    typer.echo(spread(found).round(3).to_string(index=False))


def _recipe(text: str | None, seed: int) -> Any:
    """The default recipe with some fields replaced; nested ones are merged."""
    from data_prep.organism.training.models import Sizes
    from data_prep.organism.training.recipe import Recipe
    from data_prep.organism.world.things import Thing
    from hooked_omni.errors import ResultsError

    default = Recipe(seed=seed)
    try:
        given = json.loads(text or "{}")
        known = {one.name for one in fields(Recipe)} - {"seed"}
        if not isinstance(given, dict) or given.keys() - known:
            raise ValueError(f"other keys than {sorted(known)}")
        for name, value in given.items():
            old = getattr(default, name)
            if isinstance(old, dict):
                given[name] = {**old, **value}
            elif isinstance(old, Sizes):
                given[name] = replace(old, **value)
            elif name == "things":
                given[name] = tuple(
                    Thing(one["noun"], one["verb"], tuple(one["color"])) for one in value
                )
        return replace(default, **given)
    except (ValueError, TypeError, KeyError) as error:
        raise ResultsError(
            f'expected a recipe as JSON, such as {{"clips": 100}}, got {text!r:.80} ({error}).'
        ) from error


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
