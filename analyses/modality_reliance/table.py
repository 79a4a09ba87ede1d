"""How likely is the answer to the intact clip under every variant of the clip?"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.cases import Case, Cases, Skip, embedded, plain_answer, tabulate
from analyses.configs import VARIANTS
from analyses.configs import ModalityRelianceConfig as Config
from analyses.modality_reliance import variants
from analyses.text.pieces import pieces
from hooked_omni import HookedOmni, Prompt
from hooked_omni.decoding.generate import Generation
from hooked_omni.decoding.prefill import prefill
from hooked_omni.decoding.score import forced_logits, logits_at_once
from hooked_omni.errors import MediaError
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.image import Image
from hooked_omni.inputs.video import Video

COLUMNS = (
    *("variant", "modality", "step", "token_text", "logprob", "change"),
    *("n_tokens", "answer", "ended"),
)


def run(omni: HookedOmni, cases: Cases, config: Config = Config()) -> pd.DataFrame:
    """Log-probability of the answer to the intact clip, under every variant of the clip.

    Returns:
        One row per case and variant, "intact" first, and per token on request, with

        * `sample`, `kind`, `question`: the case.
        * `variant`, and `modality`: what it takes away, "audio", "video", "both" or "none".
        * `step`: index of the generated position, 0 for the first new token; `token_text` of the
          token there; both missing for the whole answer.
        * `logprob`: of the answer, or of the token, in nats.
        * `change`: that, minus the same for the intact clip; negative where the answer rested on
          what was taken away.
        * `n_tokens`: of the answer. `answer`: its text; `ended`: whether the model ended it, rather
          than the limit.

        A clip without sound has no rows for variants of the sound, and one without a picture none
        for those of the picture; one with neither is skipped, as are embedded prompts.
    """
    edits = _edits(omni, config)
    table = tabulate(omni, lambda case: _rows(omni, case, config, edits), cases, COLUMNS)
    return table.astype({"step": "Int64"})


def _edits(omni: HookedOmni, config: Config) -> dict[str, Any]:
    mute, blank = variants.mute(), variants.blank(config.blank)
    every: dict[str, Any] = {
        "mute": mute,
        "shift": variants.shift(config.shift_seconds),
        "blank": blank,
        "mute and blank": lambda clip: blank(mute(clip)),
    }
    chosen = {name: every[name] for name in config.variants}
    if config.swap_with is not None:
        chosen["swap sound"] = variants.other_sound(config.swap_with, omni.media)
        chosen["swap picture"] = variants.other_picture(config.swap_with, omni.media)
    return chosen


def _rows(
    omni: HookedOmni, case: Case, config: Config, edits: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    prompt = case.prompt
    if not isinstance(prompt, Prompt):
        raise Skip("expected a Prompt, whose clip can be changed, got one that is embedded.")
    intact = prefill(omni.model, embedded(omni, case))
    try:
        clip = omni.read_media(prompt)
    except MediaError as error:
        raise Skip(str(error)) from error
    kinds = {type(one) for one in clip}
    has = {"video": bool(kinds & {Video, Image}), "audio": Audio in kinds}
    has["both"] = all(has.values())
    possible = [name for name in edits if has[VARIANTS[name]]]
    if not possible:
        raise Skip(f"expected a clip that {' or '.join(edits)} would change, got {prompt}.")
    answer = plain_answer(omni, case, intact, config.max_new_tokens)
    before = _scored(answer, forced_logits(omni.model, intact, answer.tokens))
    texts = pieces(omni.model.tokenizer, answer.tokens.tolist()) if config.tokens else None
    yield from _measures("intact", before, before, answer, texts)
    for name in possible:
        other = omni.embed_media(prompt, edits[name](clip))
        same = torch.equal(other.tokens, intact.tokens)
        if not (same and torch.equal(other.position_ids, intact.position_ids)):
            raise Skip(
                f"expected the same {intact.n_pos} positions under {name!r}, got {other.n_pos}, or "
                "others: what changes would not be due to the clip alone."
            )
        after = _scored(answer, logits_at_once(omni.model, other, answer.tokens, intact))
        yield from _measures(name, after, before, answer, texts)


def _scored(answer: Generation, logits: Float[Tensor, "n d_vocab"]) -> Float[Tensor, " n"]:
    tokens = answer.tokens.to(logits.device)
    return logits.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0].double().cpu()


def _measures(
    name: str, after: Tensor, before: Tensor, answer: Generation, texts: list[str] | None
) -> Iterator[dict[str, Any]]:
    own: dict[str, Any] = dict(variant=name, modality=VARIANTS[name], n_tokens=len(after))
    own |= dict(answer=answer.text, ended=answer.ended)
    if texts is None:
        total, change = float(after.sum()), float((after - before).sum())
        yield own | dict(step=None, token_text=None, logprob=total, change=change)
        return
    for step, (text, logprob, change) in enumerate(zip(texts, after, after - before, strict=True)):
        measured = dict(logprob=float(logprob), change=float(change))
        yield own | dict(step=step, token_text=text) | measured
