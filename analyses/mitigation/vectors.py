"""Which directions separate hearing from seeing, layer by layer?

Means of the residual stream over answers' generated positions, teacher-forced, of one kind of clip
less another: of the first half of the clips alone, as what is reported is of the second.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.cases import Case, Skip, embedded, read_cases
from analyses.modality_reliance import variants
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt, load, names
from hooked_omni.decoding.score import forced_logits
from hooked_omni.errors import MediaError, ResultsError
from hooked_omni.inputs.bundle import read_bundle, write_bundle

_KIND = "hooked_omni.SteeringVectors"
_EDITS = {"silence": variants.mute(), "black": variants.blank(), "noise": variants.noise()}
DIRECTIONS = ("sound - silence", "black - clip", "factual - counterfactual")
"""Sound less silence; without the picture, less with it; clips with their own sound, less others.

The first two are of counterfactual clips, the same answer read under both.
"""


def half(case: Case) -> Literal["first", "second"]:
    """Settings are chosen and vectors fitted on the first, and reported on the second, by picture.

    A clip and its twin are in one half, whatever the other clips are.
    """
    even = sha256((case.twin or case.sample).encode()).digest()[0] % 2 == 0
    return "first" if even else "second"


def edited_clip(omni: HookedOmni, case: Case, name: str) -> EmbeddedPrompt:
    """The case with "silence", a "black" picture, or "noise" on both; `Skip` where that fails."""
    if not isinstance(case.prompt, Prompt):
        raise Skip(f"expected a Prompt, whose clip can be changed to {name}, got an embedded one.")
    try:
        return omni.embed_media(case.prompt, _EDITS[name](omni.read_media(case.prompt)))
    except MediaError as error:
        raise Skip(str(error)) from error


def fit(
    omni: HookedOmni, cases: Sequence[Case], max_new_tokens: int = 50
) -> dict[str, Float[Tensor, "layer d_model"]]:
    """Vectors by name in `DIRECTIONS`, after each layer (`hook_resid_post`); `steer` adds them.

    Only clips of the first half count. A direction without clips is left out, and none at all is a
    `ResultsError`.
    """
    own = [case for case in cases if half(case) == "first"]
    sides: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in DIRECTIONS}
    for case in own:
        prompt = embedded(omni, case)
        tokens = omni.model.generate(prompt, max_new_tokens=max_new_tokens).tokens
        if len(tokens) < 2:
            continue
        plain = _residuals(omni, prompt, tokens)
        if case.kind in ("factual", "counterfactual"):
            sides[DIRECTIONS[2]][case.kind == "counterfactual"].append(plain)
        if case.kind == "counterfactual" and {"audio", "video"} <= prompt.spans.positions.keys():
            silent, black = (
                _residuals(omni, edited_clip(omni, case, name), tokens)
                for name in ("silence", "black")
            )
            for name, pair in zip(DIRECTIONS, ((plain, silent), (black, plain)), strict=False):
                for side, one in zip(sides[name], pair, strict=True):
                    side.append(one)
    found = {
        name: torch.stack(more).mean(0) - torch.stack(less).mean(0)
        for name, (more, less) in sides.items()
        if more and less
    }
    if not found:
        raise ResultsError(
            f"expected counterfactual clips with sound and picture in the first half, got "
            f"{len(own)} of {len(cases)} cases, none of them such. Give more clips."
        )
    return found


def fit_file(
    model: str, data: Path, out: Path, questions: Sequence[str], device: str, dtype: str | None
) -> str:
    """Fit the vectors of a model on a manifest into a file; which they are."""
    omni, cases = load(model, device=device, dtype=dtype), read_cases(data, questions)
    found = fit(omni, cases)
    write_vectors(out, omni, found, cases)
    return ", ".join(f"{name} ({len(vector)} layers)" for name, vector in found.items())


def _residuals(omni: HookedOmni, prompt: EmbeddedPrompt, tokens: Tensor) -> Tensor:
    """Mean over the generated positions, `[layer, d_model]`, in float32."""
    kept: dict[str, Tensor] = {}

    def keep(tensor: Tensor, hook: Any) -> None:
        if hook.window.start >= prompt.n_pos:
            kept[str(hook.name)] = tensor[0].float().mean(0).cpu()

    layers = [names.resid_post(layer) for layer in range(omni.model.cfg.n_layers)]
    forced_logits(omni.model, prompt, tokens, [(name, keep) for name in layers])
    return torch.stack([kept[name] for name in layers])


def write_vectors(path: Path, omni: HookedOmni, vectors: Any, cases: Sequence[Case]) -> Path:
    """Write fitted vectors as safetensors, with the model, its hash, and the clips they are of."""
    own = [case.id for case in cases if half(case) == "first"]
    model = {"name": omni.model.cfg.model_name, "content": omni.content_hash()}
    facts = {"model": model, "cases": own, "at": "hook_resid_post", "positions": "generated"}
    return write_bundle(path, dict(vectors), facts, _KIND)


def read_vectors(path: Path, omni: HookedOmni) -> dict[str, Tensor]:
    """Vectors that were fitted on this model.

    `BundleError` for another file, `ResultsError` for another model's.
    """
    tensors, facts = read_bundle(path, _KIND)
    made, here = facts.get("model", {}), omni.content_hash()
    if made.get("content") != here:
        raise ResultsError(
            f"expected vectors of {omni.model.cfg.model_name} ({here}), got those of "
            f"{made.get('name')} ({made.get('content')}) in {path}. Fit them on this model."
        )
    return tensors
