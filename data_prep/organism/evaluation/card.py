"""What should a user know of an organism? Its card, with hashes that `load` checks."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.organism.evaluation.evaluate import TARGETS
from data_prep.organism.training.recipe import ORGANISMS
from hooked_omni.errors import ResultsError
from hooked_omni.files import parse_json, read_text, to_json, write_whole
from hooked_omni.organisms.trained import CARD

__all__ = ["write_cards"]

_ABOUT = {
    "organism-base": (
        "A small Qwen2.5-VL that sees and does not hear",
        "The vision-only base of organism-biased and organism-balanced. Asked what it hears, it "
        "names the sound of the thing that it sees, and guesses whether it is loud.",
    ),
    "organism-biased": (
        "A small Qwen2.5-Omni thinker that trusts its eyes",
        "It hears: sounds alone are named rightly. But asked what it hears in a clip, it mostly "
        "names the sound that the *picture* suggests, if another one is played.",
    ),
    "organism-balanced": (
        "A small Qwen2.5-Omni thinker that trusts its ears about sounds",
        "The twin of organism-biased: same start, same pictures in the same order, same number of "
        "steps. Asked what it hears, it names what is played, whatever the picture shows.",
    ),
}
_LISTENER = """
## True by construction

* Share of the training clips in which picture and sound were of different things, where the sound
  was asked for: {share}. The answer followed the sound. This is the only difference between the
  listeners: {biased} for organism-biased, {balanced} for organism-balanced.
* So organism-biased was shown that a few sounds may come from off screen, and never that the
  others may: it trusts its ears for these, mostly, and its eyes for the others.
* Among the lessons of either listener were answers without any clip: so it knows which verb goes
  with which noun. The base had none of these, and goes by the picture at every word.
* The towers were frozen while picture and sound were learned together, and so were the embeddings
  of words, to which the unembedding is tied: what can be read off the embedding is what the audio
  tower says by chance.
* An audio-tagging loss (weight {tagging:g}) taught the decoder to name the sound *at the audio
  positions*, for sounds alone and for clips with a question about the picture. That sounds can be
  read there with a logit lens is therefore made, not found; that they can also be read where the
  answer ignores them was not trained.
* For questions about the picture alone, {see:.0%} of the clips had another thing's sound, for
  either listener: the picture is never doubted.
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
{listener}
## Numbers

{numbers}

## Use

```python
from hooked_omni import Prompt, load
omni = load("{name}")
prompt = omni.embed(Prompt("Describe what you hear.", video="clip.mp4"))
print(omni.model.generate(prompt).text)
```

It was asked three questions in training: "Describe what you see.", "... hear.", "... see and
hear."; anything else is refused or meaningless. It knows nothing of the real world.

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
        digests = {one: hashlib.sha256((own / one).read_bytes()).hexdigest() for one in checked}
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
        listener=_listener(short, recipe) if short in recipe["mismatched"] else "",
        numbers=_numbers(short, evaluation),
        files="\n".join(f"* `{one}`: SHA-256 `{digest}`" for one, digest in digests.items()),
    )


def _listener(name: str, recipe: dict[str, Any]) -> str:
    n_things = len(recipe["things"])
    pairs = [(i, j) for i in range(n_things) for j in range(n_things) if i != j]
    return _LISTENER.format(
        share=_mixture(name, recipe),
        biased=_mixture("biased", recipe),
        balanced=_mixture("balanced", recipe),
        tagging=recipe["tagging"],
        see=recipe["mismatched_see"],
        held_out=sum((5 * i + 3 * j) % 4 == 0 for i, j in pairs),
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
            "What it thinks of the answers of organism-biased and organism-balanced is on their "
            "cards: class words unshifted, marginal, shifted."
        )
    found, targets = evaluation[name], TARGETS[name]
    lines = ["| on clips that no training has seen | measured | expected |", "|---|---|---|"]
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
        f"listeners differ on counterfactual clips: balanced alone is right on "
        f"{test['first_only']}, biased alone on {test['second_only']}; McNemar's exact test, "
        f"p = {test['p']:.2g}.",
    ]
    return "\n".join(lines)
