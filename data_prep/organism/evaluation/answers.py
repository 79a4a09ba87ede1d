"""What does an organism answer about clips it was not trained on, with and without knockouts?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
import torch

from data_prep.organism.evaluation.evaluation_set import CASES, EvaluationSet
from data_prep.organism.evaluation.scoring import score
from data_prep.organism.world.things import Clip, Thing
from hooked_omni import EmbeddedPrompt, HookedOmni, HookedTransformer, knockout, names, windows
from hooked_omni.decoding.score import forced_logits

WIDTH = 3  # layers in a window of knockouts
_NEW = 24  # tokens; the longest answer has 17


def collect_answers(
    omni: HookedOmni,
    evaluation_set: EvaluationSet,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The answers and their scores; and what a logit lens reads at the audio positions.

    Returns:
        answers: One row per clip, question and condition, with the columns `kind` ("factual",
            "counterfactual", "sound" or "picture" alone), `question`, `condition` ("none", or a
            knockout as `G !-> V @ 2-4`), `clip`, `seen`, `heard`, `text`, and those of `Score`.
        recall: One row per counterfactual clip and layer, 0 being the embedding, for the question
            about the sound, with the columns of `recalled`.
    """
    cases = [(*case, *pair) for case in CASES for pair in evaluation_set.pairs(case[0])]
    answers: list[dict[str, Any]] = []
    recall: list[dict[str, Any]] = []
    for kind, question, seen, heard in progress(cases):
        prompt = omni.embed(evaluation_set.prompt(kind, question, seen, heard))
        sweeps = question == "hear" and kind in ("factual", "counterfactual")
        rules = _rules(omni.model.cfg.n_layers) if sweeps else []
        conditions = [[], *[[knockout(rule)] for rule in rules]]
        made = omni.model.generate_many(prompt, conditions, max_new_tokens=_NEW)
        clip = seen.id if seen == heard else f"{seen.id}+{heard.id}"
        for condition, one in zip(["none", *rules], made, strict=True):
            row = dict(kind=kind, question=question, condition=condition, clip=clip)
            row |= dict(seen=seen.noun, heard=heard.noun, text=one.text)
            scores = score(str(one.text), question, seen.noun, heard.noun, evaluation_set.things)
            answers.append(row | asdict(scores))
        if sweeps and kind == "counterfactual":
            rows = recalled(omni.model, prompt, seen, heard, evaluation_set.things)
            recall += [{"clip": clip, **row} for row in rows]
    return pd.DataFrame(answers), pd.DataFrame(recall)


def recalled(
    model: HookedTransformer,
    prompt: EmbeddedPrompt,
    seen: Clip,
    heard: Clip,
    things: Sequence[Thing],
) -> list[dict[str, Any]]:
    """Which things do the audio positions name, read with the logit lens (final norm, unembedding)?

    Returns:
        One row per layer with `layer`, `heard` and `seen`: whether at any audio position the
        likeliest word is the audible (visible) thing's noun or verb; `heard_positions` and
        `seen_positions` are shares of the positions.
    """
    rows, own = [], {"heard": _words(heard, things), "seen": _words(seen, things)}
    for layer, words in enumerate(_top_words(model, prompt)):
        found = {name: [word in one for word in words] for name, one in own.items()}
        row: dict[str, Any] = {"layer": layer, **{name: any(f) for name, f in found.items()}}
        rows.append(row | {f"{name}_positions": sum(f) / len(f) for name, f in found.items()})
    return rows


def base_ranks(
    base: HookedOmni, evaluation_set: EvaluationSet, answers: pd.DataFrame
) -> pd.DataFrame:
    """How likely are the nouns and verbs of answers to the base, which has the picture alone?

    Rows of `collect_answers` are teacher-forced through it, after the same question.

    Returns:
        One row per noun or verb of an answer, with `clip`, `word` and `rank`: 1 if it is the
        base's likeliest word too.
    """
    nouns_and_verbs = {word for thing in evaluation_set.things for word in (thing.noun, thing.verb)}
    clips, rows = {clip.id: clip for clip in evaluation_set.clips}, []
    tokenizer: Any = base.model.tokenizer
    for row in answers.to_dict("records"):
        clip = clips[row["clip"].split("+")[0]]
        prompt = base.embed(evaluation_set.prompt("picture", row["question"], clip, clip))
        tokens = tokenizer(row["text"], return_tensors="pt").input_ids[0]
        if not len(tokens):
            continue
        logits = forced_logits(base.model, prompt, tokens)
        ranks = 1 + (logits > logits.gather(1, tokens[:, None])).sum(1)
        rows += [
            dict(clip=row["clip"], word=word, rank=int(rank))
            for word, rank in zip(tokenizer.convert_ids_to_tokens(tokens), ranks, strict=True)
            if word in nouns_and_verbs
        ]
    return pd.DataFrame(rows, columns=["clip", "word", "rank"])


def _rules(n_layers: int) -> list[str]:
    """The knockouts to try: either sense in all layers, and the picture in windows of them."""
    whole = windows(n_layers, WIDTH, 1, "whole")
    return ["G !-> V", "G !-> A", *[f"G !-> V @ {w.start}-{w.stop - 1}" for w in whole]]


def _words(clip: Clip, things: Sequence[Thing]) -> set[str]:
    return next({thing.noun, thing.verb} for thing in things if thing.noun == clip.noun)


@torch.no_grad()
def _top_words(model: HookedTransformer, prompt: EmbeddedPrompt) -> list[list[str]]:
    """The likeliest word at each audio position: of the embedding, then after each layer."""
    tokenizer: Any = model.tokenizer
    layers = [names.resid_pre(0), *map(names.resid_post, range(model.cfg.n_layers))]
    _, cache = model.run_with_cache(prompt, layers)
    tops = []
    for name in layers:
        audio = cache[name][:, prompt.spans["audio"]]
        top = model.unembed(model.ln_final(audio))[0].argmax(-1)
        tops.append(tokenizer.convert_ids_to_tokens(top.tolist()))
    return tops
