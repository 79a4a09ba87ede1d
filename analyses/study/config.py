"""What does a study file say?

A study is a model, its vision-only base, a manifest, a judge, and which analyses are run with which
questions: TOML, in which every key is checked before anything is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from analyses.configs import CONFIGS
from analyses.judge.judgement import JudgeError, Settings
from analyses.judge.lookup import require_known
from analyses.running.options import CaseSelection, ModelOptions, require_clip
from analyses.running.type_check import fits, listed, make_config, mismatch, tuples
from analyses.text.choices import CHOICES
from analyses.text.wording import QUESTIONS, Order, worded
from hooked_omni.errors import ResultsError, closest
from hooked_omni.files import parse_toml, read_text

STAGES: Mapping[str, tuple[str, ...]] = {
    "captions": ("see", "hear", "both"),
    "attention_share": ("both",),
    "logit_lens": ("hear",),
    "knockout": ("see", "hear"),
    "distribution_shift": ("hear",),
}
"""The paper's experiments E1 to E5, and the questions that each is about."""

NEEDS_BASE = "distribution_shift"
"""The analysis that compares with the base model."""

FINISHED = ("recipe.json", "report.md")
"""Files of a study that came to its end."""

ON_REQUEST: Mapping[str, tuple[str, ...]] = {
    "attention_map": ("hear",),
    "modality_reliance": ("hear",),
    "choice": ("choice",),
}
"""Analyses beside these, and the questions of each."""

EVERY = {**STAGES, **ON_REQUEST}


@dataclass(frozen=True)
class Reading:
    """What a study's judge gets to read.

    Attributes:
        first_only: Whether it sees the first reference caption alone, as the paper's does.
        layers: Groups of layers, the first and the last of each, whose tokens are judged besides
            those of all layers together.
        last: The last so many layers are such a group too.
    """

    first_only: bool = False
    layers: tuple[tuple[int, int], ...] = ()
    last: int = 0

    def __post_init__(self) -> None:
        if self.last < 0 or not all(0 <= low <= high for low, high in self.layers):
            raise ResultsError(
                "expected groups of layers as [first, last], and `last` of 0 or more, got "
                f"{self.layers} and {self.last}. Correct `layers` or `last` in [judge]."
            )

    def groups(self, n_layers: int) -> list[tuple[int, int]]:
        """The groups of layers; a `ResultsError` for layers that the model does not have."""
        own = [*self.layers, *[(n_layers - self.last, n_layers - 1)] * (self.last != 0)]
        if wrong := [(low, high) for low, high in own if not 0 <= low <= high < n_layers]:
            raise ResultsError(
                f"expected groups of layers among 0 to {n_layers - 1}, by their first and their "
                f"last, got {wrong}. Correct `layers` or `last` in [judge]."
            )
        return list(dict.fromkeys(own))


@dataclass(frozen=True)
class Study:
    """What a study file says.

    Attributes:
        model, device, dtype: As in `load`; an empty dtype is the saved one.
        decoder_only, trust_remote_code: As in `load`, of the model and the base.
        adapter: As in `load`, of the model alone; in a file, relative to it.
        device_map, allow_quantized: As in `load`, and in `ModelOptions`; an empty map is none.
        embedded: Folder of prompts embedded elsewhere, as `running/elsewhere.py` has it; in a file,
            relative to it. A decoder alone needs it.
        data: The manifest; in a file, relative to it.
        base: The vision-only base model; needed for `distribution_shift`.
        analyses: Which of them; those of `ON_REQUEST` if they are named, which need no captions.
        kinds: Kinds of samples; empty for all.
        limit: How many samples of each kind, the first ones; 0 for all.
        max_new_tokens: Longest answer, in tokens, in every analysis.
        rope: As in `Prompt`.
        system: System prompt of the model and of the base; empty for each family's own.
        order: Whether "text-first" or "clip-first"; None as the family has it: for native ones the
            text, as in the paper.
        wording: Other words for a question, by its name.
        judge: `name`, `url` and settings, as in `judge.load_judge`.
        ratings: Filled sheets of people who rated the judge's captions; in a file, relative to it.
        questions: Of each analysis, where they are not the paper's.
        configs: Of each analysis, where its fields are not the defaults.
    """

    model: str
    data: Path
    base: str = ""
    analyses: tuple[str, ...] = tuple(STAGES)
    kinds: tuple[str, ...] = ()
    limit: int = 0
    max_new_tokens: int = 50
    rope: str = "model"
    system: str = ""
    order: Order = None
    wording: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    dtype: str = ""
    embedded: Path | None = None
    decoder_only: bool = False
    trust_remote_code: bool = False
    adapter: Path | None = None
    device_map: str | Mapping[str, str | int] = ""
    allow_quantized: bool = False
    judge: Mapping[str, Any] = field(default_factory=lambda: {"name": "lexical"})
    ratings: tuple[Path, ...] = ()
    questions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [a for a in self.analyses if a not in EVERY]
        judged = bool({*self.analyses} - {*ON_REQUEST})
        if unknown or not self.analyses or (judged and "captions" not in self.analyses):
            raise ResultsError(
                f"expected analyses among {[*EVERY]}, captions among them unless all are of "
                f"{[*ON_REQUEST]}, got {list(self.analyses)}."
                + closest("".join(unknown[:1]), EVERY)
            )
        worded(self.wording)
        self.models()  # refuses what does not go together
        in_judge = {"name", "url", *(one.name for one in (*fields(Settings), *fields(Reading)))}
        if unknown := sorted(self.judge.keys() - in_judge - {"logs"}):
            near = closest(unknown[0], in_judge)
            raise JudgeError(f"expected settings among {sorted(in_judge)}, got {unknown}.{near}")
        known = {name: {*QUESTIONS, *(CHOICES if name in ON_REQUEST else ())} for name in EVERY}
        words = [w for name, own in self.questions.items() for w in own if w not in known[name]]
        if self.limit < 0 or words:
            raise ResultsError(
                f"expected a limit of at least 0 and questions among {sorted(QUESTIONS)}, those of "
                f"{[*ON_REQUEST]} also among {[*CHOICES]}, got {self.limit} and {words}."
            )
        if NEEDS_BASE in self.analyses and not self.base:
            raise ResultsError(
                f"expected a base model for {NEEDS_BASE}, got none. Name the vision-only model "
                "that this one was trained from as `base`, or leave it out of `analyses`."
            )

    def models(self) -> ModelOptions:
        """The models, as a single analysis has them."""
        known = self.model, self.base or None, self.device, self.dtype or None
        how = self.decoder_only, self.trust_remote_code, self.adapter
        more = self.device_map or None, self.allow_quantized
        return ModelOptions(*known, None, self.embedded, *how, *more)

    def selection(self, name: str) -> CaseSelection:
        """What an analysis asks about all samples; refused as `CaseSelection` says."""
        questions = self.questions.get(name, EVERY[name])
        how: Any = dict(rope=self.rope, wording=self.wording, system=self.system or None)
        return CaseSelection(
            self.data, questions=questions, kinds=self.kinds or None, order=self.order, **how
        )

    def config(self, name: str) -> Any:
        """Config of an analysis; a `ResultsError` for an unknown field or a wrong type."""
        kind = CONFIGS[name]
        known = {one.name for one in fields(kind)}
        own = {"max_new_tokens": self.max_new_tokens} if "max_new_tokens" in known else {}
        try:
            return make_config(kind, {**own, **self.configs.get(name, {})})
        except ResultsError as error:
            error.add_note(f"This is in [{name}].")
            raise


def require_startable(study: Study) -> None:
    """Refuse, without torch, what words and files alone say would stop a study later.

    Raises as `read_study`, `ModelOptions.require`, `CaseSelection` and `judge_of`.
    """
    study.models().require()
    for name in study.analyses:
        require_clip(getattr(study.config(name), "swap_with", None))
        study.selection(name)
    judge_of(study.judge)
    for path in study.ratings:
        read_text(path)


def judge_of(settings: Mapping[str, Any]) -> tuple[str, str | None, dict[str, Any], Reading]:
    """Name, address and settings of a study's judge, and what it gets to read.

    Raises:
        JudgeError, UnknownModelError: As `require_known`.
        ResultsError: Without a name, and for layers if the judge reads no tokens of any.
    """
    given = dict(settings)
    own = {one.name: given.pop(one.name) for one in fields(Reading) if one.name in given}
    name, reading = given.pop("name", None), make_config(Reading, own)
    url = given.pop("url", None)
    if not isinstance(name, str) or not isinstance(url, str | None) or "logs" in given:
        raise ResultsError(
            "expected [judge] with a `name`, such as 'lexical', a `url` in words, and no `logs`, "
            f"which lie in the study's folder, got {dict(settings)}."
        )
    language = require_known(name, url, given)
    if (reading.layers or reading.last) and not language:
        raise ResultsError(
            f"expected no `layers` and no `last` for {name!r}, which judges no tokens, got {own}. "
            "Leave them out, or name a language model."
        )
    return name, url, given, reading


def read_study(path: Path, instead: Mapping[str, Any] | None = None) -> Study:
    """A study file; `instead` has values that are not the file's, None for the file's own.

    Raises:
        FileError: If it cannot be read, or is no TOML.
        ResultsError: For an unknown key, a value of another type, or anything else that would stop
            the study later and can be known now.
    """
    values = parse_toml(read_text(path), str(path))
    configs = {name: values.pop(name) for name in EVERY if name in values}
    known = {one.name for one in fields(Study)} - {"questions", "configs"}
    unknown = sorted(values.keys() - known)
    absent = [name for name in ("model", "data") if name not in values]
    if unknown or absent:
        raise ResultsError(
            f"expected the keys {sorted(known)} and the tables {[*EVERY]} in {path}, got "
            f"{unknown or 'no ' + ' and no '.join(absent)}."
            + closest("".join(unknown[:1]), [*known, *EVERY])
        )
    for name, config in configs.items():
        if not isinstance(config, dict):
            raise ResultsError(f"expected {name} as a table in {path}, got {config!r}.")
    questions = {name: c.pop("questions") for name, c in configs.items() if "questions" in c}
    questions = {name: listed(words, Sequence[str]) for name, words in questions.items()}
    as_words = [name for name in ("analyses", "kinds") if name in values]
    values |= {name: listed(values[name], Sequence[str]) for name in as_words}
    lists = {name: values[name] for name in ("analyses", "kinds", "ratings") if name in values}
    for name, words in (lists | questions).items():
        if not words or not fits(words, Sequence[str]):
            raise ResultsError(f"expected a list of words in {path}, got {words!r} for {name}.")
    values = {name: tuples(value) for name, value in values.items()}
    for name in ("data", "embedded", "adapter"):
        if isinstance(values.get(name), str):
            values[name] = path.parent / values[name]
    values["ratings"] = tuple(path.parent / name for name in values.get("ratings", ()))
    if wrong := mismatch(Study, values, str(path)):
        raise ResultsError(f"{wrong} Correct it.")
    words_of = {name: tuple(words) for name, words in questions.items()}
    study = Study(**values, questions=words_of, configs=configs)
    for name in configs:
        study.config(name)
    own = {name: value for name, value in (instead or {}).items() if value is not None}
    return replace(study, **own)
