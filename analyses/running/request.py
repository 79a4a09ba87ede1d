"""Which run does a command mean?

From words on the command line to a run: cases of a manifest or of single clips, models, config.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from analyses.cases import OWN, Case, ordered, read_cases, worded
from analyses.running import runs
from analyses.running.elsewhere import Bundles, GivenPrompts, bundle_facts, bundles
from analyses.running.identity import KeptPrompts, clips_digest
from analyses.running.type_check import config_from_json
from hooked_omni import HookedOmni, load
from hooked_omni.cluster.joining import Cluster
from hooked_omni.errors import MediaError, ResultsError
from hooked_omni.files import file_hash, read_text

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

    def load(self, name: str, given: Bundles | None) -> HookedOmni:
        """One of the two, with its prompts."""
        how: Any = dict(decoder_only=self.decoder_only, trust_remote_code=self.trust_remote_code)
        omni = load(name, device=self.device, dtype=self.dtype, **how)
        if given is not None:
            return GivenPrompts(omni, given)
        return omni if self.prompts is None else KeptPrompts(omni, self.prompts)

    def both(
        self, cases: Sequence[Case], of_base: Sequence[Case] | None
    ) -> tuple[HookedOmni, HookedOmni | None, dict[str, Any]]:
        """The model, the base if there is one, and the facts of prompts embedded elsewhere."""
        given = self.bundles(cases), None if of_base is None else self.bundles(of_base, True)
        omni = self.load(self.model, given[0])
        base = None if self.base is None else self.load(self.base, given[1])
        return omni, base, bundle_facts(*given)

    def on(
        self, cluster: Cluster | None, cases: Sequence[Case], of_base: Sequence[Case] | None
    ) -> tuple["ModelOptions", runs.Workers | None]:
        """What is loaded here, on the CPU if a cluster computes, and what its workers load."""
        if cluster is None:
            return self, None
        device = self.device.partition(":")[0]  # a worker sees one GPU
        there = partial(replace(self, device=device).both, cases, of_base)
        return replace(self, device="cpu"), runs.Workers(cluster, there, int(device != "cpu"))


def prepare(
    name: str,
    selection: CaseSelection,
    config: str | None,
    shard: str,
    models: ModelOptions,
    cluster: Cluster | None = None,
) -> tuple[runs.Run, runs.Workers | None]:
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
    every, facts = (cases, cases if models.base else None), selection.facts()
    here, workers = models.on(cluster, *every)
    omni, base, embedded = here.both(*every)
    return runs.Run(name, made, omni, cases, base, place, facts | embedded), workers
