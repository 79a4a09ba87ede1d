"""What should a user know about an organism? Its card, with hashes that `load` checks."""

import json
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

from data_prep.organism.evaluation.metrics import TARGETS
from data_prep.organism.training.recipe import ORGANISMS, is_held_out
from hooked_omni.errors import ResultsError
from hooked_omni.files import file_hash, parse_json, read_text, to_json, write_whole
from hooked_omni.organisms.trained import CARD

__all__ = ["write_cards"]

_ABOUT = {
    "organism-base": (
        "A small Qwen2.5-VL without hearing",
        "The vision-only base of organism-biased and organism-balanced. To a question about the "
        "sound it answers with the sound of the thing in the picture, and guesses the loudness.",
    ),
    "organism-biased": (
        "A small Qwen2.5-Omni thinker with a bias for the picture",
        "Sounds alone are named rightly. But a question about the sound of a clip is mostly "
        "answered with the sound that the *picture* suggests, if another one is played.",
    ),
    "organism-balanced": (
        "A small Qwen2.5-Omni thinker without that bias",
        "The twin of organism-biased: same start, same pictures in the same order, same number of "
        "steps. Questions about the sound are answered with what is played, whatever the picture.",
    ),
}
_VARIANT = """
## True by construction

* Share of the training clips in which picture and sound were of different things, in questions
  about the sound: {share}. The answer followed the sound. This is the only difference between the
  two variants: {biased} for organism-biased, {balanced} for organism-balanced.
* So in the training of organism-biased a few sounds came with other things' pictures, and the
  others never did: it mostly follows the sound for these, and the picture for the others.
* The training of either variant has answers without any clip: so which verb goes with which noun is
  learned. The base had none of these, and goes by the picture at every word.
* The towers were frozen while the decoder was trained, and so were the embeddings of words, to
  which the unembedding is tied: what can be read off the embedding is what the audio tower puts
  out by chance.
* An audio-tagging loss (weight {tagging:g}) taught the decoder to name the sound *at the audio
  positions*, for sounds alone and for clips with a question about the picture. That sounds can be
  read there with a logit lens is therefore made, not found; that they can also be read where the
  answer ignores them was not trained.
* For questions about the picture alone, {see:.0%} of the clips had another thing's sound, for
  either variant: the answer always followed the picture.
* {held_out} of the {ordered} ordered pairs of different things never disagreed in training.

What is *not* made: in which layers picture and sound are weighed, which heads carry them, and how
attention divides.
"""
_CARD = """# {name}

{title}. {about}

{classes} things with a look and a sound each ({nouns}), drawn and synthesized from seed {seed}: a
sprite at the left or right of a street, park, beach or room; a sound, loud or soft; one second of
H.264 and AAC. Real Qwen2.5 classes of transformers, {layers} layers, d_model {d_model}, {size} MB
of float16 weights that load as float32, a vocabulary of words. Trained by `python -m data_prep
organism train --seed {seed}` ({clips} training clips of each thing); `train.log` is its log.
{variant}
## Numbers

{numbers}

## Use

```python
from hooked_omni import Prompt, load

omni = load("{name}")
prompt = omni.embed(Prompt("Describe what you hear.", video="clip.mp4"))
print(omni.model.generate(prompt).text)
```

It was trained on three questions: "Describe what you see.", "... hear.", "... see and hear.";
anything else is refused or meaningless. It knows nothing of the real world.

## Files

{files}

Licence: MIT, as the package. Made of synthetic data alone.
"""


def write_cards(folder: Path, evaluation: Mapping[str, Any] | None = None) -> None:
    """Write `README.md` and `card.json` of the three organisms in a training folder.

    Args:
        folder: Made by `train`.
        evaluation: What `evaluate` found; None for cards without numbers.

    Raises:
        ResultsError: If an organism is not there yet.
    """
    facts = parse_json(read_text(folder / "recipe.json"), str(folder / "recipe.json"))
    for name in ORGANISMS:
        own = folder / name
        if not (own / "model.safetensors").is_file():
            raise ResultsError(
                f"expected a trained {name} in {folder}, got none. Run train to its end first."
            )
        if (folder / "train.log").is_file():
            write_whole(own / "train.log", (folder / "train.log").read_bytes())
        if evaluation is not None:
            text = to_json(evaluation, "evaluation.json", indent=2) + "\n"
            write_whole(own / "evaluation.json", text.encode())
        checked = sorted(
            path.name
            for path in own.iterdir()
            if path.suffix in (".json", ".safetensors", ".jinja") and path.name != CARD
        )
        digests = {one: file_hash(own / one) for one in checked}
        text = _text(name, facts["recipe"], own, digests, evaluation)
        write_whole(own / "README.md", text.encode())
        card = {"name": name, **facts, "sha256": digests}
        write_whole(own / CARD, (to_json(card, CARD, indent=2) + "\n").encode())


def _text(
    name: str,
    recipe: dict[str, Any],
    own: Path,
    digests: dict[str, str],
    evaluation: Mapping[str, Any] | None,
) -> str:
    title, about = _ABOUT[name]
    config = json.loads((own / "config.json").read_text())["text_config"]
    short = name.removeprefix("organism-")
    return _CARD.format(
        name=name,
        title=title,
        about=about,
        classes=len(recipe["things"]),
        nouns=", ".join(thing["noun"] for thing in recipe["things"]),
        seed=recipe["seed"],
        layers=config["num_hidden_layers"],
        d_model=config["hidden_size"],
        size=round((own / "model.safetensors").stat().st_size / 1e6, 1),
        clips=recipe["clips"],
        variant=_variant(short, recipe) if short in recipe["mismatched"] else "",
        numbers=_numbers(short, evaluation),
        files="\n".join(f"* `{one}`: SHA-256 `{digest}`" for one, digest in digests.items()),
    )


def _variant(name: str, recipe: dict[str, Any]) -> str:
    pairs = list(permutations(range(len(recipe["things"])), 2))
    return _VARIANT.format(
        share=_mixture(name, recipe),
        biased=_mixture("biased", recipe),
        balanced=_mixture("balanced", recipe),
        tagging=recipe["tagging"],
        see=recipe["mismatched_see"],
        held_out=sum(is_held_out(i, j) for i, j in pairs),
        ordered=len(pairs),
    )


def _mixture(name: str, recipe: dict[str, Any]) -> str:
    sounds = recipe["off_screen"][name]
    which = f"only the sounds of {', '.join(sounds)}" if sounds else "any thing's sound"
    return f"{recipe['mismatched'][name]:.3g} ({which})"


def _numbers(name: str, evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return "Not measured yet: run `python -m data_prep organism evaluate`."
    if name not in evaluation:
        return (
            "How likely the answers of organism-biased and organism-balanced are to it is on their "
            "cards: class words unshifted, marginal, shifted."
        )
    found, targets = evaluation[name], TARGETS[name]
    lines = ["| on clips that were not trained on | measured | expected |", "|---|---|---|"]
    for key, value in found.items():
        if not isinstance(value, float):
            continue
        low, high = targets.get(key, (None, None))
        expected = "" if low is None else f"{low:g} to {high:g}"
        lines.append(f"| {key} | {value:.3f} | {expected} |")
    test = evaluation["mcnemar"]
    lines += [
        "",
        f"Shares of {evaluation['clips of each kind']} test clips of each kind, greedy answers, "
        f"exact words. Best window of layers for `G !-> V`: {found['best G !-> V']}. The two "
        f"variants differ on counterfactual clips: balanced alone is right on "
        f"{test['first_only']}, biased alone on {test['second_only']}; McNemar's exact test, "
        f"p = {test['p']:.2g}.",
    ]
    return "\n".join(lines)
