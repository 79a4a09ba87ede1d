"""What does a listener answer about clips it has never met, as they are and with its eyes closed?

Everything runs as for any other model: a clip on disk, `embed`, the hooked decoder. Half of the
questions are about clips with their own sound, half about the same pictures with another thing's.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from data_prep.organism.evaluation.score import score
from data_prep.organism.world.captions import QUESTIONS
from data_prep.organism.world.things import Clip, Thing, derangement
from hooked_omni import (
    EmbeddedPrompt,
    HookedOmni,
    HookedTransformer,
    Prompt,
    knockout,
    names,
    windows,
)
from hooked_omni.decoding.score import forced_logits

__all__ = ["Exam", "answers", "base_ranks", "recalled"]

WIDTH = 3  # layers in a window of knockouts
_NEW = 24  # tokens; the longest answer has 17
_ASKED = (
    *[(kind, question) for kind in ("factual", "counterfactual") for question in QUESTIONS],
    ("sound", "hear"),
    ("picture", "see"),
)


@dataclass(frozen=True)
class Exam:
    """Clips to ask about.

    Attributes:
        folder: Where `{clip.id}.mp4` lies.
        clips: As many of each thing.
        things: All there are.
        seed: Of which sound goes to which picture.
    """

    folder: Path
    clips: Sequence[Clip]
    things: Sequence[Thing]
    seed: int = 0

    def pairs(self, kind: str) -> list[tuple[Clip, Clip]]:
        """Clip of the picture and clip of the sound."""
        if kind != "counterfactual":
            return [(clip, clip) for clip in self.clips]
        order = derangement([clip.noun for clip in self.clips], self.seed)
        return [(clip, self.clips[i]) for clip, i in zip(self.clips, order, strict=True)]

    def prompt(self, kind: str, question: str, seen: Clip, heard: Clip) -> Prompt:
        """The question about a picture with a sound, or about one of them alone."""
        picture, sound = (self.folder / f"{clip.id}.mp4" for clip in (seen, heard))
        asked = QUESTIONS[question]
        if kind == "sound":
            return Prompt(asked, audio=sound)
        if kind == "picture":
            return Prompt(asked, video=picture, use_audio_in_video=False)
        return Prompt(asked, video=picture, audio=None if kind == "factual" else sound)


def answers(
    omni: HookedOmni, exam: Exam, progress: Callable[[list[Any]], Iterable[Any]] = iter
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is said, and whether it is right; and what can be read at the audio positions.

    Returns:
        said: One row per clip, question and condition, with the columns `kind` ("factual",
            "counterfactual", "sound" or "picture" alone), `question`, `condition` ("none", or a
            knockout as `G !-> V @ 2-4`), `clip`, `seen`, `heard`, `text`, and those of `Score`.
        recall: One row per counterfactual clip and layer, 0 being the embedding, when asked what is
            heard, with the columns of `recalled`.
    """
    cases = [(kind, question, *pair) for kind, question in _ASKED for pair in exam.pairs(kind)]
    said: list[dict[str, Any]] = []
    read: list[dict[str, Any]] = []
    for kind, question, seen, heard in progress(cases):
        prompt = omni.embed(exam.prompt(kind, question, seen, heard))
        sweeps = question == "hear" and kind in ("factual", "counterfactual")
        rules = _rules(omni.model.cfg.n_layers) if sweeps else []
        conditions = [[], *[[knockout(rule)] for rule in rules]]
        made = omni.model.generate_many(prompt, conditions, max_new_tokens=_NEW)
        clip = seen.id if seen == heard else f"{seen.id}+{heard.id}"
        for condition, one in zip(["none", *rules], made, strict=True):
            row = dict(kind=kind, question=question, condition=condition, clip=clip)
            row |= dict(seen=seen.noun, heard=heard.noun, text=one.text)
            right = score(str(one.text), question, seen.noun, heard.noun, exam.things)
            said.append(row | asdict(right))
        if sweeps and kind == "counterfactual":
            read += [
                {"clip": clip, **row} for row in recalled(omni.model, prompt, seen, heard, exam)
            ]
    return pd.DataFrame(said), pd.DataFrame(read)


def recalled(
    model: HookedTransformer, prompt: EmbeddedPrompt, seen: Clip, heard: Clip, exam: Exam
) -> list[dict[str, Any]]:
    """Which things do the audio positions name, read with the logit lens (final norm, unembedding)?

    Returns:
        One row per layer with `layer`, `heard` and `seen`: whether at any audio position the
        likeliest word is the audible (visible) thing's noun or verb; `heard_positions` and
        `seen_positions` are shares of the positions.
    """
    rows = []
    for layer, words in enumerate(_top_words(model, prompt)):
        said = {
            name: [word in _words(clip, exam.things) for word in words]
            for name, clip in (("heard", heard), ("seen", seen))
        }
        row: dict[str, Any] = {"layer": layer, **{name: any(f) for name, f in said.items()}}
        rows.append(row | {f"{name}_positions": sum(f) / len(f) for name, f in said.items()})
    return rows


def base_ranks(base: HookedOmni, exam: Exam, said: pd.DataFrame) -> pd.DataFrame:
    """How likely did the base, which sees alone, find the listener's nouns and verbs?

    The listener's answer is read by the base, after the same question about the picture.

    Args:
        base: The vision-only model.
        exam: The clips.
        said: Rows of `answers`.

    Returns:
        One row per noun or verb of an answer, with `clip`, `word` and `rank`: 1 if the base would
        have said it too.
    """
    classes = {word for thing in exam.things for word in (thing.noun, thing.verb)}
    clips, rows = {clip.id: clip for clip in exam.clips}, []
    tokenizer: Any = base.model.tokenizer
    for row in said.to_dict("records"):
        clip = clips[row["clip"].split("+")[0]]
        prompt = base.embed(exam.prompt("picture", row["question"], clip, clip))
        words = row["text"].split()
        tokens = tokenizer(row["text"], return_tensors="pt").input_ids
        logits = forced_logits(base.model, prompt, tokens[0])
        for position, word in enumerate(words):
            if word in classes:
                better = logits[position] > logits[position, tokens[0, position]]
                rows.append(dict(clip=row["clip"], word=word, rank=int(better.sum()) + 1))
    return pd.DataFrame(rows)


def _rules(n_layers: int) -> list[str]:
    """The knockouts to try: either sense in all layers, and the picture in windows of them."""
    whole = [window for window in windows(n_layers, WIDTH) if len(window) == WIDTH]
    return ["G !-> V", "G !-> A", *[f"G !-> V @ {w.start}-{w.stop - 1}" for w in whole]]


def _words(clip: Clip, things: Sequence[Thing]) -> set[str]:
    return next({thing.noun, thing.verb} for thing in things if thing.noun == clip.noun)


@torch.no_grad()
def _top_words(model: HookedTransformer, prompt: EmbeddedPrompt) -> list[list[str]]:
    """The likeliest word at each audio position: of the embedding, then behind each layer."""
    words: Any = model.tokenizer
    layers = [names.resid_post(layer) for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(prompt, [names.resid_pre(0), *layers])
    tops = []
    for name in [names.resid_pre(0), *layers]:
        audio = cache[name][:, prompt.spans["audio"]]
        top = model.unembed(model.ln_final(audio))[0].argmax(-1)
        tops.append(words.convert_ids_to_tokens(top.tolist()))
    return tops
