"""How are organisms trained and evaluated from the command line?"""

import time
from pathlib import Path
from typing import Annotated

import typer

from data_prep.console import bar
from hooked_omni.endings import say

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
    from data_prep.organism.world.dataset import write_world

    n_clips, n_pairs = write_world(out, clips, seed, split)
    say(f"{out}: {n_clips} clips, {n_pairs} counterfactual samples")


@app.command("train")
def train_organisms(
    out: Out,
    seed: Seed = 0,
    recipe: Annotated[
        str | None, typer.Option(help='JSON of what differs, such as {"clips": 100}.')
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 2,
) -> None:
    """Train organism-base, organism-biased and organism-balanced from nothing."""
    from data_prep.organism.training.recipe import ORGANISMS, claim, parse_recipe
    from hooked_omni.hf.spelling import require_spelled

    chosen = parse_recipe(recipe or "{}", seed)
    require_spelled(ORGANISMS[0], device)
    claim(out, chosen, device)
    import torch  # takes seconds

    from data_prep.organism.evaluation.card import write_cards
    from data_prep.organism.training.models import save_model
    from data_prep.organism.training.organisms import log_to, train

    _quiet()
    torch.set_num_threads(1)
    log, start = log_to(out, say), time.monotonic()
    for name, (hf, processor) in train(chosen, out, log, device, workers).items():
        save_model(hf.cpu(), processor, out / name)
    log(f"trained in {time.monotonic() - start:.0f} s")
    write_cards(out)


@app.command("evaluate")
def evaluate_organisms(
    out: Out,
    split: Annotated[str, typer.Option(help="validation to choose, test to report.")] = "test",
    clips: Annotated[int, typer.Option(min=1, help="Clips of each thing.")] = 24,
) -> None:
    """Evaluate the organisms of a training folder on clips that were not trained on."""
    from data_prep.organism.evaluation.card import write_cards
    from data_prep.organism.evaluation.evaluation_set import write_evaluation_set

    evaluation_set = write_evaluation_set(out, split, clips)
    from data_prep.organism.evaluation.metrics import evaluate  # now torch, which takes seconds
    from data_prep.organism.evaluation.targets import misses

    _quiet()
    found = evaluate(out, evaluation_set, out / split, bar("answering"))
    for name in ("biased", "balanced"):
        say(f"organism-{name}: " + ("; ".join(misses(found[name], name)) or "all as expected"))
    if split == "test":
        write_cards(out, found)


@app.command("compare")
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Training folders of several seeds.")],
    split: Annotated[str, typer.Option(help="Which evaluation.")] = "test",
) -> None:
    """Print the numbers of several evaluated trainings, their mean and their spread."""
    from data_prep.organism.evaluation.targets import TARGETS, spread
    from hooked_omni.files import parse_object, read_text

    paths = [folder / split / "evaluation.json" for folder in folders]
    kinds = dict.fromkeys(TARGETS, dict)
    found = [parse_object(read_text(path), str(path), **kinds) for path in paths]
    typer.echo(spread(found).round(3).to_string(index=False))


def _quiet() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
