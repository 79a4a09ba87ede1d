"""Where are prompts read from that were embedded elsewhere, where a model's own code runs?

From a folder of bundles, as `EmbeddedPrompt.save` writes them, named by `file_name(case.id)`; those
of the base have the same names in its folder `base`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from analyses.asking import without_sound
from analyses.cases import Case
from data_prep.manifest import file_name
from hooked_omni import EmbeddedPrompt, HookedOmni, Prompt
from hooked_omni.errors import MediaError, ResultsError
from hooked_omni.files import digest
from hooked_omni.inputs.bundle import kept_checksum

Bundles = Mapping[Prompt, Path]
"""The bundle of each case's prompt."""


def bundles(folder: Path, cases: Sequence[Case], of_base: bool = False) -> Bundles:
    """Where the cases' prompts lie, or the base's; a `ResultsError` for a question without any."""
    where, found, there = folder / "base" if of_base else folder, {}, set()
    for case in cases:
        assert isinstance(case.prompt, Prompt)  # as of a manifest or a clip
        path = where / f"{file_name(case.id)}.safetensors"
        found[without_sound(case.prompt) if of_base else case.prompt] = path
        there |= {case.question} if path.is_file() else set()
    if lacking := [case for case in cases if case.question not in there]:
        raise ResultsError(
            f"expected prompts of the question {lacking[0].question!r} in {where}, named by their "
            f"cases as {file_name(lacking[0].id)}.safetensors, got none. Embed them: "
            "examples/embed_prompts.py."
        )
    return found


def bundle_facts(*given: Bundles | None) -> dict[str, Any]:
    """Digest of all bundles' contents, or of the name of one that is not there; {} for None."""
    paths = [sorted(one.values()) for one in given if one is not None]
    known = [[[path.name, kept_checksum(path)] for path in part] for part in paths]
    return {"embedded": digest(known)} if known else {}


class GivenPrompts(HookedOmni):
    """A model that reads the prompts of cases from their bundles, and needs no towers."""

    def __init__(self, omni: HookedOmni, given: Bundles) -> None:
        vars(self).update(vars(omni))
        self.given = given

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """The bundle of the case with this prompt.

        Raises:
            BundleError: For a damaged one.
            MediaError: Without one; the case is skipped.
            ResultsError: For one of another prompt, clip or family.
        """
        path = self.given.get(replace(prompt, media=None))
        if path is None or not path.is_file():
            raise MediaError(f"expected a prompt embedded elsewhere, got none at {path}.")
        bundle = EmbeddedPrompt.load(path, self.model.cfg.device)
        read, edits = bundle.facts.get("prompt") or {}, bundle.facts.get("tower_edits", [])
        theirs = {"family": bundle.facts.get("family"), **said(read, self.family.hears)}
        ours = {"family": self.family.name, **said(asdict(prompt), self.family.hears)}
        theirs, ours = theirs | {"tower_edits": edits}, ours | {"tower_edits": []}
        if wrong := {name: theirs[name] for name in ours if theirs[name] != ours[name]}:
            expected = {name: ours[name] for name in wrong}
            raise ResultsError(
                f"expected {expected} as what {path} was embedded of, got {wrong}. Embed this "
                "case's prompt again, under the name of its case."
            )
        return bundle


def said(prompt: Mapping[str, Any], hears: bool) -> dict[str, Any]:
    """What a prompt's fields say of it on any machine: files by name."""
    plain = ("text", "system", "rope", *["use_audio_in_video"] * hears)  # else read by nothing
    files = {name: _name(prompt.get(name)) for name in ("video", "audio")}
    turns = [(role, _named(items)) for role, items in prompt.get("turns") or ()]
    listed = {"items": _named(prompt.get("items") or ()), "turns": turns}
    return {name: prompt.get(name) for name in plain} | files | listed


def _named(items: Sequence[Any]) -> list[Any]:
    """Items with the names of their files."""
    return [(k, own if k == "text" else _name(own), _name(sound)) for k, own, sound in items]


def _name(path: Any) -> str | None:
    return path and Path(str(path)).name
