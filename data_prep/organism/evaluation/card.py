"""What should a user know about an organism? Its card, with hashes that `load` checks."""

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_prep.organism.evaluation.targets import TARGETS
from data_prep.organism.training.recipe import ORGANISMS, is_held_out
from hooked_omni.errors import ResultsError
from hooked_omni.files import file_hash, parse_json, read_text, to_json, write_whole
from hooked_omni.organisms.trained import CARD


def write_cards(folder: Path, evaluation: Mapping[str, Any] | None = None) -> None:
    """Write `README.md` and `card.json` of the three organisms in a training folder.

    Without an `evaluation`, made by `evaluate`, the cards have no numbers.

    Raises:
        ResultsError: If an organism is not there yet.
    """
    facts = _read(folder / "recipe.json")
    for name in ORGANISMS:
        own = folder / name
        if not (own / "model.safetensors").is_file():
            raise ResultsError(
                f"expected a trained {name} in {folder}, got none. Run train to its end first."
            )
        if (folder / "train.log").is_file():
            write_whole(own / "train.log", (folder / "train.log").read_bytes())
        if evaluation is not None:
            _write_json(own / "evaluation.json", evaluation)
        kinds = (".json", ".safetensors", ".jinja")
        files = sorted(p for p in own.iterdir() if p.name != CARD and p.suffix in kinds)
        hashes = {path.name: file_hash(path) for path in files}
        text = _text(own, facts["recipe"], hashes, evaluation or {})
        write_whole(own / "README.md", text.encode())
        _write_json(own / CARD, {"name": name, **facts, "sha256": hashes})


def _text(
    folder: Path, recipe: dict[str, Any], hashes: dict[str, str], evaluation: Mapping[str, Any]
) -> str:
    own = folder.name.removeprefix("organism-")
    pairs = list(permutations(range(len(recipe["things"])), 2))
    environment = Environment(
        loader=PackageLoader("data_prep.organism.evaluation", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md").render(
        name=folder.name,
        own=own,
        recipe=recipe,
        config=_read(folder / "config.json")["text_config"],
        megabytes=round((folder / "model.safetensors").stat().st_size / 1e6, 1),
        mixture={name: _mixture(name, recipe) for name in recipe["mismatched"]},
        n_pairs=len(pairs),
        n_held_out=sum(is_held_out(i, j) for i, j in pairs),
        evaluation=evaluation,
        targets=TARGETS.get(own, {}),
        hashes=hashes,
    )


def _mixture(name: str, recipe: dict[str, Any]) -> str:
    sounds = recipe["off_screen"][name]
    which = f"only the sounds of {', '.join(sounds)}" if sounds else "any thing's sound"
    return f"{recipe['mismatched'][name]:.3g} ({which})"


def _read(path: Path) -> Any:
    return parse_json(read_text(path), str(path))


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, (to_json(value, str(path), indent=2) + "\n").encode())
