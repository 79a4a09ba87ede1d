"""What is a set of organisms trained with, and does a folder hold just that?

A training folder has its recipe, and the versions that computed it. To go on with others would give
something that no recipe describes: refused.
"""

import json
import platform
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.organism.world.things import THINGS, Thing
from hooked_omni.errors import ResultsError
from hooked_omni.files import parse_json, read_text, to_json, write_whole

FORMAT = 1
ORGANISMS = ("organism-base", "organism-biased", "organism-balanced")
_VERSIONS = ("torch", "transformers", "av", "librosa", "numpy", "scipy")
_STEPS = dict(vision=400, audio=120, base=350, hearing=120, biased=560, balanced=560)
_RATES = dict(vision=2e-3, audio=2e-3, base=1.5e-3, hearing=2e-3, biased=5e-4, balanced=5e-4)
_MISMATCHED = {"biased": 0.02, "balanced": 0.5}
_OFF_SCREEN = {"biased": ("siren", "fountain", "whistle"), "balanced": ()}


@dataclass(frozen=True)
class Sizes:
    """How large a model's decoder and either tower are."""

    d_model: int = 128
    layers: int = 8
    heads: int = 4
    key_value_heads: int = 2
    d_mlp: int = 320
    d_tower: int = 96
    d_tower_mlp: int = 192
    tower_layers: int = 2
    tower_heads: int = 4


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that decides what comes out, besides the code."""

    seed: int = 0  # of the world, the weights and the order of training
    things: tuple[Thing, ...] = THINGS
    sizes: Sizes = field(default_factory=Sizes)
    clips: int = 200  # of each thing, to train on
    batch: int = 32  # clips in a step
    steps: dict[str, int] = field(default_factory=_STEPS.copy)  # of each stage
    rates: dict[str, float] = field(default_factory=_RATES.copy)  # the highest of each stage
    # Share of clips with another thing's sound among questions about sounds, and the nouns of the
    # things whose sounds these are; none means any.
    mismatched: dict[str, float] = field(default_factory=_MISMATCHED.copy)
    off_screen: dict[str, tuple[str, ...]] = field(default_factory=_OFF_SCREEN.copy)
    mismatched_see: float = 0.3  # the share among questions about pictures alone
    tagging: float = 0.3  # weight of the loss that names the sound at audio positions

    def __post_init__(self) -> None:
        for name in self.mismatched:
            sounds = self.sounds_off_screen(name)
            for i, thing in enumerate(self.things):
                if not any(j != i and not is_held_out(i, j) for j in sounds):
                    raise ResultsError(
                        f"expected another thing's sound for a picture of a {thing.noun}, got none "
                        f"in off_screen of {name}: {self.off_screen[name]}. Add a noun to it."
                    )

    def sounds_off_screen(self, name: str) -> frozenset[int]:
        """Indices of the things whose sounds a picture of another one may get."""
        nouns = self.off_screen[name] or tuple(thing.noun for thing in self.things)
        return frozenset(i for i, thing in enumerate(self.things) if thing.noun in nouns)


def is_held_out(seen: int, heard: int) -> bool:
    """Whether training never gives the picture of one thing the sound of the other, by index."""
    return seen != heard and (5 * seen + 3 * heard) % 4 == 0


def parse_recipe(text: str, seed: int) -> TrainingRecipe:
    """The default recipe with the fields in a JSON object replaced; nested ones are merged.

    Raises:
        ResultsError: For JSON that is no such object.
    """
    default = TrainingRecipe(seed=seed)
    try:
        given = parse_json(text, "the recipe")
        known = {one.name for one in fields(TrainingRecipe)} - {"seed"}
        if not isinstance(given, dict) or given.keys() - known or type(seed) is not int:
            raise ValueError(f"other keys than {sorted(known)}, or no whole number as seed")
        for name, value in given.items():
            old = getattr(default, name)
            if isinstance(old, dict):
                if value.keys() - old.keys():
                    raise ValueError(f"other keys than {sorted(old)} in {name}")
                given[name] = {**old, **value}
            elif isinstance(old, Sizes):
                given[name] = replace(old, **value)
            elif name == "things":
                parts = ((one["noun"], one["verb"], tuple(one["color"])) for one in value)
                given[name] = tuple(Thing(*part) for part in parts)
            elif type(value) not in (type(old), int):
                raise TypeError(f"{value!r:.60} for {name}")
        return replace(default, **given)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ResultsError(
            f'expected a recipe as JSON, such as {{"clips": 100}}, got {text!r:.80} ({error}). '
            "Correct it."
        ) from error


def claim(folder: Path, recipe: TrainingRecipe, device: str) -> None:
    """Make `folder` the training folder of `recipe`, or check that it is.

    Raises:
        ResultsError: For a folder of another recipe or version, with the differences.
    """
    facts: dict[str, Any] = {"format": FORMAT, "recipe": json.loads(json.dumps(asdict(recipe)))}
    facts["versions"] = {name: version(name) for name in _VERSIONS}
    facts["device"], facts["machine"] = device, platform.machine()
    path = folder / "recipe.json"
    if not path.exists():
        if folder.is_dir() and any(one.name[0] != "." for one in folder.iterdir()):
            raise ResultsError(
                f"expected an empty folder or one of an earlier training, got {folder} with other "
                "files. Choose another folder."
            )
        write_whole(path, (to_json(facts, str(path), indent=2) + "\n").encode())
        return
    found = parse_json(read_text(path), str(path))
    different = _differences(facts, found if isinstance(found, dict) else {}, "")
    if different:
        raise ResultsError(
            f"expected a folder of this recipe and these versions, got {folder} with "
            + "; ".join(different[:6])
            + ". Choose another folder, or run with what made this one."
        )


def _differences(ours: Any, theirs: Any, where: str) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for key in sorted(ours.keys() | theirs.keys())
            for line in _differences(ours.get(key), theirs.get(key), f"{where}.{key}".strip("."))
        ]
    return [] if ours == theirs else [f"{where} {theirs!r:.60} instead of {ours!r:.60}"]
