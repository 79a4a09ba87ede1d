"""Is it the same model, the same clip, the same prompt?

A name does not say so: a folder may hold another checkpoint today. What is compared are hashes.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from analyses.cases import Case
from data_prep.manifest import read_manifest
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt
from hooked_omni.errors import BundleError, FileError, ResultsError
from hooked_omni.files import digest, file_hash
from hooked_omni.fingerprint import tensor_hash


def model_facts(omni: HookedOmni) -> dict[str, Any]:
    """What a result must say of its model: weights, config, frame rate, what computes it, ...

    Neither the device nor the checkpoint's place: other machines may go on with a folder.
    """
    name, config = omni.model.cfg.model_name, asdict(omni.model.cfg)
    for without_effect in ("model_name", "device", "devices", "media_tokens"):
        del config[without_effect]
    short, own = Path(name).name if Path(name).exists() else name, omni.adapter
    return {
        "name": short if own is None else f"{short} + {own['name']}",
        **({} if own is None else {"adapter": own}),
        "revision": getattr(omni.hf.config, "_commit_hash", None),
        "family": omni.family.name,
        "dtype": str(omni.model.cfg.dtype).removeprefix("torch."),
        "config": config,
        "weights": omni.content_hash(portable=True),
        "media": asdict(omni.media),
        "torch": str(torch.__version__).partition("+")[0],
        "transformers": transformers.__version__,
    }


def clips_digest(manifest: Path) -> str:
    """Digest of the clips' contents by their paths in the manifest; None for one not there."""
    samples = read_manifest(manifest)
    paths = sorted({path for sample in samples for _, path in sample.files})
    return digest([[path, _content(manifest.parent / path)] for path in paths])


def require_distinct(cases: Sequence[Case]) -> None:
    """Refuse, as a `ResultsError`, one clip as two samples of a kind: it would count twice."""
    first: dict[Any, str] = {}
    for case in {case.sample: case for case in cases}.values():
        prompt = case.prompt
        if not isinstance(prompt, Prompt) or not _all_there(prompt):
            continue  # embedded, or skipped
        known = case.kind, str(_prompt(prompt)["said"])
        if prompt.sources(hears=True) and first.setdefault(known, case.sample) != case.sample:
            raise ResultsError(
                f"expected each clip once among the {case.kind} samples, got {first[known]!r} and "
                f"{case.sample!r} of one picture and sound. Leave one of them out."
            )


def case_mark(case: Case, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What the table of a case says of whose it is; shards of a run agree."""
    run = {**recipe, "facts": {**recipe["facts"], "shard": None}}
    read = _prompt(case.prompt) if isinstance(case.prompt, Prompt) else _embedded(case.prompt)
    given = None if case.choice is None else case.choice.record
    return {
        "cases": {case.id: digest(run, case.keys, case.captions, read, *([given] if given else []))}
    }


def _embedded(prompt: EmbeddedPrompt) -> str:
    """All that a model reads of it."""
    read = {**vars(prompt), "facts": None, "state": None}
    plain = lambda one: tensor_hash(one.cpu()) if isinstance(one, Tensor) else vars(one)  # noqa: E731
    return json.dumps(read, default=plain)


def _prompt(prompt: Prompt) -> dict[str, Any]:
    """Its fields, and every turn with the contents of files for their names."""
    fields = {**asdict(prompt), **dict.fromkeys(("video", "audio", "items", "turns"))}
    said = [
        [
            turn.role,
            *((k, s if k == "text" else _content(s), _content(own)) for k, s, own in turn.items),
        ]
        for turn in prompt.messages
    ]
    return {**fields, "listed": bool(prompt.items), "said": said}


def _hooked(hf: nn.Module) -> bool:
    """Whether hooks of others stand in the towers: what they do is in no key of a kept prompt."""
    every = (held for m in hf.modules() for held in (m._forward_hooks, m._forward_pre_hooks))
    hooks = (hook for held in every for hook in held.values())
    return any(not str(getattr(h, "__module__", "")).startswith("transformers.") for h in hooks)


def _all_there(prompt: Prompt) -> bool:
    return all(Path(source.path).is_file() for source in prompt.sources(hears=True))


def _content(path: str | Path | None) -> str | None:
    with suppress(FileError):  # none, or one that is skipped for that
        return None if path is None else file_hash(path)
    return None


class KeptPrompts(HookedOmni):
    """A model that embeds each prompt once, and then reads it from a folder.

    Bundles are named by the hash of all that makes them: the model and its weights, the prompt, the
    media settings, the clips' content, and the versions of what computed them.
    """

    def __init__(self, omni: HookedOmni, folder: Path) -> None:
        vars(self).update(vars(omni))
        self.folder = folder

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """The kept prompt, or a new one; see `HookedOmni.embed`."""
        if not _all_there(prompt) or self.towers is None or _hooked(self.towers.hf):
            return super().embed(prompt)  # which says what is wrong with it, or is edited
        made_by = [str(torch.__version__), transformers.__version__, version("hooked-omni")]
        fields = _prompt(replace(prompt, media=prompt.media or self.media))
        key = digest(fields, self.content_hash(), made_by)
        path = self.folder / f"{key}.safetensors"
        with suppress(BundleError):  # none, damaged, or of another format: made again
            kept = EmbeddedPrompt.load(path, self.model.cfg.device)
            if kept.facts.get("kept_as") == key:
                return kept
        self.folder.mkdir(parents=True, exist_ok=True)
        embedded = super().embed(prompt)
        embedded = replace(embedded, facts={**embedded.facts, "kept_as": key})
        embedded.save(path)
        return embedded
