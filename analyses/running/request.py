"""Which run does a command mean?

From words on the command line to a run: cases of a manifest or of single clips, models, config.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from analyses.asking import OWN, ordered, without_sound, worded
from analyses.cases import Case, read_cases
from analyses.running import runs
from analyses.running.elsewhere import Bundles, GivenPrompts, bundle_facts, bundles
from analyses.running.identity import KeptPrompts, clips_digest
from analyses.running.type_check import config_from_json
from hooked_omni import HookedOmni, load
from hooked_omni.errors import MediaError, PromptError, ResultsError
from hooked_omni.files import file_hash, read_text
from hooked_omni.hf.loading import family_named

_SHARD = re.compile(r"(\d{1,9})/(\d{1,9})")


@dataclass(frozen=True)
class CaseSelection:
    """Cases of a manifest, `data`, or of `clips`.

    For clips, `audio` is a sound in place of their own, and `text` the user's own question in place
    of `questions`. `kinds` are of samples, `limit` is for the first cases; None for all. `wording`
    `system` and `order` are as in `read_cases`.
    """

    data: Path | None = None
    clips: tuple[Path, ...] = ()
    audio: Path | None = None
    text: str | None = None
    questions: tuple[str, ...] = ("hear",)
    kinds: tuple[str, ...] | None = None
    limit: int | None = None
    rope: str = "model"
    wording: Mapping[str, str] = field(default_factory=dict)
    system: str | None = None
    order: str | None = None

    def cases(self) -> list[Case]:
        """The cases; options of clips are refused with a manifest, and the other way around."""
        rope = cast(Any, self.rope)  # checked by Prompt
        if self.data is not None:
            if self.audio is not None or self.text is not None:
                raise ResultsError(
                    "expected --clip with --audio and --ask, got --data. A manifest says which "
                    "sounds go with which pictures; --questions chooses the questions."
                )
            words = self.wording, self.system, self.order
            found = read_cases(self.data, self.questions, self.kinds, rope, *words)
        else:
            if self.kinds is not None:
                raise ResultsError("expected --data with --kinds, got --clip: clips have no kind.")
            found = self._of_clips(rope)
        return found[: self.limit]

    def _of_clips(self, rope: Any) -> list[Case]:
        missing = [str(p) for p in (*self.clips, self.audio) if p and not p.is_file()]
        if missing:
            raise MediaError(f"expected a media file, got no file at {missing[0]}.")
        words = worded(self.wording)
        unknown = [q for q in self.questions if q not in words]
        if unknown:
            raise ResultsError(
                f"expected questions among {sorted(words)}, got {unknown}. Your own words go "
                "into --ask."
            )
        if self.text is not None and (self.wording or self.questions != ("hear",)):
            raise ResultsError(
                f"expected --ask alone, got it with {list(self.questions)} and other words for "
                f"{sorted(self.wording)}, which it would leave unused. Leave out one of the two."
            )
        own = None if self.text is None else {OWN: self.text}
        texts = own or {q: words[q] for q in self.questions}
        return [
            Case(
                replace(ordered(text, c, self.audio, self.order), system=self.system, rope=rope),
                str(c),
                question=question,
            )
            for c in self.clips
            for question, text in texts.items()
        ]

    def facts(self) -> dict[str, Any]:
        """What of this makes the result: contents rather than names of files."""
        files = [f for f in (self.data, *self.clips, self.audio) if f is not None]
        return {
            "data": [{"file": f.name, "sha256": file_hash(f)} for f in files],
            "clips": None if self.data is None else clips_digest(self.data),
            "questions": list(self.questions) if self.text is None else [self.text],
            "kinds": None if self.kinds is None else list(self.kinds),
            "rope": self.rope,
            "system": self.system,
            "order": self.order,
            "wording": dict(self.wording),
        }


@dataclass(frozen=True)
class ModelOptions:
    """Which models, as in `load`, and the folders that keep their embedded prompts.

    `prompts` is of those that are made here, `embedded` of those made elsewhere (`elsewhere.py`).
    """

    model: str
    base: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    prompts: Path | None = None
    embedded: Path | None = None
    decoder_only: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if (self.embedded is None) == self.decoder_only or (self.embedded and self.prompts):
            raise ResultsError(
                "expected prompts embedded elsewhere (embedded) with decoder_only, and with it "
                f"alone, got embedded {self.embedded}, decoder_only {self.decoder_only}, prompts "
                f"{self.prompts}. Towers embed prompts here, and a decoder alone reads those made "
                "elsewhere."
            )

    def bundles(self, cases: Sequence[Case], of_base: bool = False) -> Bundles | None:
        """The prompts embedded elsewhere; as `elsewhere.bundles`, None if they are made here."""
        return None if self.embedded is None else bundles(self.embedded, cases, of_base)

    def require(self, cases: Sequence[Case]) -> None:
        """Refuse, before weights are read, what the model's family does not take.

        The base skips such a case; it is refused if it takes none of them. `PromptError`.
        """
        whole: Any = lambda prompt: prompt  # noqa: E731
        asked = [(self.model, whole, 1)]
        asked += [] if self.base is None else [(self.base, without_sound, len(cases))]
        for name, prompt_of, too_many in asked:
            family, refused = family_named(name), []
            for case in cases:
                try:
                    family.require(prompt_of(case.prompt))
                except PromptError as error:
                    error.add_note(f"This is case {case.id!r}, for {name}.")
                    refused.append(error)
            if len(refused) >= too_many:
                raise refused[0]

    def load(self, name: str, given: Bundles | None) -> HookedOmni:
        """One of the two, with its prompts."""
        how: Any = dict(decoder_only=self.decoder_only, trust_remote_code=self.trust_remote_code)
        omni = load(name, device=self.device, dtype=self.dtype, **how)
        if given is not None:
            return GivenPrompts(omni, given)
        return omni if self.prompts is None else KeptPrompts(omni, self.prompts)


def prepare(
    name: str, selection: CaseSelection, config: str | None, shard: str, models: ModelOptions
) -> runs.Run:
    """A run of an analysis; what is cheap to get wrong is checked before a model is loaded.

    `config` is a JSON object, or a JSON file; `shard` is "i/n".
    """
    text = config
    if config is not None and not config.lstrip().startswith("{"):
        text = read_text(Path(config))
    made = config_from_json(runs.analysis(name).Config, text)
    numbers = _SHARD.fullmatch(shard)
    if numbers is None:
        raise ResultsError(f"expected a shard as i/n, such as 1/4, got {shard!r}.")
    cases, place = selection.cases(), (int(numbers[1]), int(numbers[2]))
    runs.shard_of(cases, place)
    given = models.bundles(cases)
    of_base = None if models.base is None else models.bundles(cases, of_base=True)
    models.require(cases)
    facts = selection.facts() | bundle_facts(given, of_base)
    omni = models.load(models.model, given)
    base = None if models.base is None else models.load(models.base, of_base)
    return runs.Run(name, made, omni, cases, base, place, facts)
