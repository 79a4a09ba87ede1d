"""What is the whole study, in one file? `python -m analyses study --config study.toml --out DIR`.

A study is a model, its vision-only base, a manifest, a judge, and what is asked of whom: TOML, in
which every key is checked before anything is loaded. `carry_out` makes captions and analyses, each
case embedded and passed over once; has the captions judged; checks the paper's claims; and writes
figures and `report.md`. Every part goes on where it was.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.cases import QUESTIONS, Case, read_cases
from analyses.judge.judgement import ASKED_OF
from analyses.running import results, runs
from analyses.running.identity import sizes_digest
from analyses.running.type_check import fits
from analyses.study import report
from analyses.study.claims import Finding, check
from analyses.study.judging import judged, require_judge, with_events
from hooked_omni import HookedOmni, load
from hooked_omni.errors import ResultsError
from hooked_omni.files import file_hash

__all__ = ["STAGES", "Found", "Study", "carry_out", "read_study"]

STAGES: Mapping[str, tuple[str, ...]] = {
    "captions": ("see", "hear", "both"),
    "attention_share": ("hear",),
    "logit_lens": ("hear",),
    "knockout": ("see", "hear"),
    "distribution_shift": ("hear",),
}
"""The paper's experiments E1 to E5, and the questions that each is about."""

_MORE = ("modality_reliance",)
_NEEDS_BASE = "distribution_shift"
_KINDS = {"analyses": list, "kinds": list, "limit": int, "max_new_tokens": int, "judge": dict}


@dataclass(frozen=True)
class Study:
    """What a study file says.

    Attributes:
        model: Hub name, folder, or a shipped name.
        data: The manifest; in a file, relative to it.
        base: The vision-only base model; needed for `distribution_shift`.
        analyses: Which of them; "modality_reliance" on request.
        kinds: Kinds of samples; empty for all.
        limit: How many samples of each kind, the first ones; 0 for all.
        max_new_tokens: Longest answer, in tokens, in every analysis.
        rope: As in `Prompt`.
        device, dtype: As in `load`; an empty dtype is the saved one.
        judge: `name`, `url` and settings, as in `judge.judge`.
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
    device: str = "cpu"
    dtype: str = ""
    judge: Mapping[str, Any] = field(default_factory=lambda: {"name": "lexical"})
    questions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = [a for a in self.analyses if a not in (*STAGES, *_MORE)]
        if unknown or "captions" not in self.analyses:
            raise ResultsError(
                f"expected analyses among {[*STAGES, *_MORE]}, captions among them, got "
                f"{list(self.analyses)}."
            )
        words = [word for given in self.questions.values() for word in given]
        if self.limit < 0 or set(words) - set(QUESTIONS):
            raise ResultsError(
                f"expected a limit of at least 0 and questions among {sorted(QUESTIONS)}, got "
                f"{self.limit} and {words}."
            )
        if _NEEDS_BASE in self.analyses and not self.base:
            raise ResultsError(
                f"expected a base model for {_NEEDS_BASE}, got none. Name the vision-only model "
                "that this one grew from as `base`, or leave that analysis out of `analyses`."
            )

    def config(self, name: str) -> Any:
        """Config of an analysis.

        Raises:
            ResultsError: For an unknown field, or a value of another type.
        """
        kind = runs.analysis(name).Config
        known = {one.name for one in fields(kind)}
        own = {"max_new_tokens": self.max_new_tokens} if "max_new_tokens" in known else {}
        try:
            return runs.made_config(kind, {**own, **self.configs.get(name, {})})
        except ResultsError as error:
            error.add_note(f"This is in [{name}].")
            raise

    def cases(self, name: str) -> list[Case]:
        """Whom an analysis asks what.

        Raises:
            ManifestError: For a manifest with anything wrong in it.
            FileError: For a manifest that cannot be read.
            ResultsError: For an unknown question or kind.
        """
        questions = self.questions.get(name, STAGES.get(name, ("hear",)))
        rope: Any = self.rope
        every = read_cases(self.data, questions, self.kinds or None, rope)
        if not self.limit:
            return every
        kept: dict[str, dict[str, None]] = {}
        for case in every:
            samples = kept.setdefault(case.kind, {})
            if len(samples) < self.limit:
                samples[case.sample] = None
        return [case for case in every if case.sample in kept[case.kind]]


def read_study(path: Path) -> Study:
    """A study file.

    Raises:
        ResultsError: For what is no TOML, an unknown key, a value of another type, or anything that
            would stop the study later and can be known now.
    """
    try:
        text = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"expected a study as TOML in {path}, got {error}.") from error
    sections = {name: text.pop(name) for name in (*STAGES, *_MORE) if name in text}
    known = {one.name for one in fields(Study)} - {"questions", "configs"}
    unknown = sorted(text.keys() - known)
    absent = [name for name in ("model", "data") if name not in text]
    if unknown or absent:
        raise ResultsError(
            f"expected the keys {sorted(known)} and the tables {[*STAGES, *_MORE]} in {path}, got "
            f"{unknown or 'no ' + ' and no '.join(absent)}."
        )
    for name, value in {**text, **sections}.items():
        kind = _KINDS.get(name, dict if name in sections else str)
        if type(value) is not kind:
            raise ResultsError(f"expected {name} as {kind.__name__} in {path}, got {value!r}.")
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in text.items()
    }
    values["data"] = path.parent / text["data"]
    asked = {name: s.pop("questions") for name, s in sections.items() if "questions" in s}
    lists = {**asked, **{name: values[name] for name in ("analyses", "kinds") if name in values}}
    for name, given in lists.items():
        if not given or not fits(given, Sequence[str]):
            raise ResultsError(f"expected a list of words in {path}, got {given!r} for {name}.")
    questions = {name: tuple(given) for name, given in asked.items()}
    study = Study(**values, questions=questions, configs=sections)
    for name in sections:
        study.config(name)
    return study


@dataclass(frozen=True, eq=False)
class Found:
    """What a study found.

    Attributes:
        tables: Of each analysis, as their own commands write them; but that which words tell of
            sounds is the judge's word, if it has one.
        scores: Of the judge.
        findings: The paper's claims, each with what was found.
        report: The page.
    """

    tables: Mapping[str, pd.DataFrame]
    scores: pd.DataFrame
    findings: list[Finding]
    report: Path


def carry_out(
    study: Study,
    out: Path,
    shown: runs.Shown = iter,
    told: Callable[[str, int, int], None] = lambda what, done, n: None,
) -> Found:
    """Do the study, or what is left of it.

    Args:
        study: What to do.
        out: The folder. Each analysis has a folder of its own in it, as its own command makes it.
        shown: From cases to the same cases, as `rich.progress.track`.
        told: Called with a judge's name, and how many judgements are done of how many.

    Raises:
        ResultsError: For a folder of another study, and as `runs.carry_out`.
        JudgeError: For a judge that cannot be asked; before the model is loaded where that can be
            known.
        JudgeDownError: If the judge stops answering. The same command goes on behind it.
    """
    results.require_folder(out)
    cases = {name: study.cases(name) for name in study.analyses}
    configs = {name: study.config(name) for name in study.analyses}
    _require_references(cases["captions"])
    judge, first_only = require_judge(study.judge, out)
    facts = {
        "data": [{"file": study.data.name, "sha256": file_hash(study.data)}],
        "clips": sizes_digest(study.data),
        "kinds": list(study.kinds) or None,
        "rope": study.rope,
    }
    results.require_same(out, _recipe(study, facts))
    omni, base = _load(study, study.model), _load(study, study.base) if study.base else None
    results.claim(out, _recipe(study, facts))
    made = {
        out / name: runs.Run(
            name=name,
            config=configs[name],
            omni=omni,
            cases=cases[name],
            base=base if name == _NEEDS_BASE else None,
            facts={**facts, "questions": list(dict.fromkeys(c.question for c in cases[name]))},
        )
        for name in study.analyses
    }
    tables = {path.name: table for path, table in runs.carry_out_all(made, shown).items()}
    scores = judged(judge, tables, cases["captions"], out, told, first_only)
    if "distribution_shift" in tables:
        tables["distribution_shift"] = with_events(tables["distribution_shift"], scores)
    findings = check(tables, scores)
    page = report.write(study, out, tables, scores, findings)
    return Found(tables, scores, findings, page)


def _load(study: Study, name: str) -> HookedOmni:
    return load(name, device=study.device, dtype=study.dtype or None)


def _recipe(study: Study, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the study: not who judges it, nor how much of it is done."""
    only = ("captions",)
    rest = replace(study, data=Path(study.data.name), judge={}, limit=0, base="", analyses=only)
    return results.recipe("study", rest, facts)


def _require_references(cases: list[Case]) -> None:
    """Refuse a study whose answers nobody could score, before hours are spent on them."""
    for what in ("audio", "video"):
        asked = [case for case in cases if what in ASKED_OF[case.question]]
        if asked and not any(getattr(case, f"{what}_captions") for case in asked):
            raise ResultsError(
                f"expected samples with {what}_captions in the manifest, to score what is said of "
                f"the {what} by, got none of {len(asked)} cases with any. Add them, or ask other "
                "questions in [captions]."
            )
