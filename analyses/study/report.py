"""What does a person read when a study is done?

`report.md`: the paper's claims as a checklist with our numbers, the figures in the paper's form,
every headline sentence, and all that is missing, with why. Nothing is computed here.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from analyses import fidelity
from analyses.plots import figures, published
from analyses.running import results, runs
from analyses.study.claims import Finding
from analyses.study.config import Study
from analyses.study.judging import conditions
from data_prep.manifest import read_facts
from data_prep.pairing.embedding import unlike_the_paper
from hooked_omni.errors import ResultsError
from hooked_omni.files import remove, write_whole

FIGURES = {
    "captions": ("figure2_fidelity", "Fidelity"),
    "attention_share": ("figure4_attention_share", "Attention"),
    "attention_map": ("attention_map", "Attention of each token"),
    "logit_lens": ("figure5_logit_lens", "Logit lens"),
    "knockout": ("figure6_knockout", "Knockouts"),
    "distribution_shift": ("figure7_distribution_shift", "Distance from the base"),
    "modality_reliance": ("modality_reliance", "Reliance on each modality"),
    "choice": ("choice", "Preferred answers"),
}
"""Of each analysis: the file of its figure, and its title."""

_CLAIMS_HEAD = """\
## The paper's claims

arXiv 2604.02605. *Direction*: our 95 % band (over samples, by bootstrap; of a knockout, for
all windows at once) lies wholly beyond the smallest effect of interest (agrees), wholly short
of it (differs), or on both sides (undecided). *Size*: whether our band contains the paper's
number for this model, question and kind of clips, where it has one.
"""
_MOST_LISTED = 20
_WITH_SCORES = ("logit_lens", "choice")


def write(
    study: Study,
    out: Path,
    tables: Mapping[str, pd.DataFrame],
    scores: pd.DataFrame,
    findings: Sequence[Finding],
) -> Path:
    """Draw the figures into `out/figures`, and write `out/report.md`; return its path."""
    for name, table in tables.items():
        path = out / "figures" / FIGURES[name][0]
        for ending in ("png", "pdf"):
            remove(path.with_name(f"{path.name}.{ending}"))
        with suppress(ResultsError):  # nothing to draw; the page says why
            source, own = source_of(name, table, scores)
            results.write_figure(path, source.plot(*own), dpi=150)
    page = out / "report.md"
    write_whole(page, ("\n".join(_lines(study, out, tables, scores, findings)) + "\n").encode())
    return page


def checklist(findings: Sequence[Finding]) -> list[str]:
    """The claims as lines of a Markdown table."""
    lines = ["| | claim | published | ours | direction | size |", "|---|---|---|---|---|---|"]
    for number, one in enumerate(findings, 1):
        theirs = f"{one.claim.published} ({one.claim.source})"
        texts = (str(number), one.claim.sentence, theirs, one.ours, one.verdict, one.size)
        cells = (as_text(text) for text in texts)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def in_brief(model: str, kinds: Sequence[str], findings: Sequence[Finding]) -> str:
    """What was found, in one paragraph for any reader."""
    counts = Counter(one.verdict for one in findings if one.claim.of_bias)
    says = {"agrees": "hold for it", "differs": "do not", "undecided": "are undecided"}
    says["not testable here"] = "could not be tested"
    verdicts = ", ".join(f"{counts[v]} {words}" for v, words in says.items() if counts[v])
    prose = [one.observed.prose for one in findings if one.observed and one.observed.prose]
    alone = {"factual": " with their own sound", "counterfactual": " with the sound of other clips"}
    some = ", some with the sound of another clip" if "counterfactual" in kinds else ""
    sounds = alone.get(kinds[0], "") if len(kinds) == 1 else some
    head = f"{model} watched and listened to clips{sounds}."
    tail = f"Of {counts.total()} claims of a model that trusts its eyes, {verdicts}."
    return " ".join([head, *prose, tail])


def as_text(value: object) -> str:
    """A line of Markdown that reads as what was given: no markup, link, or hidden character."""
    line = " ".join(str(value).split())
    line = "".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in line)
    line = re.sub(r"([\\`*_\[\]<>|#&~$@]|:(?=//)|(?<=www)\.)", r"\\\1", line, flags=re.I)
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", line)


def sentences(name: str, table: pd.DataFrame, scores: pd.DataFrame) -> list[str]:
    """The headline sentences of an analysis, by a judge's scores where they are of these."""
    source, own = source_of(name, table, scores)
    try:
        return source.headline(*own)
    except ResultsError as error:
        return [f"nothing to tell: {error}"]


def source_of(
    name: str, table: pd.DataFrame, scores: pd.DataFrame
) -> tuple[Any, list[pd.DataFrame]]:
    """Whose figure and sentences stand for an analysis, and the tables that they are of."""
    if name == "captions":
        return fidelity, [scores]
    if name == "knockout":
        table = fidelity.joined(table.assign(condition=conditions(table)), scores)
    return runs.analysis(name), [table, scores] if name in _WITH_SCORES else [table]


def _lines(
    study: Study,
    out: Path,
    tables: Mapping[str, pd.DataFrame],
    scores: pd.DataFrame,
    findings: Sequence[Finding],
) -> Iterator[str]:
    first = next(iter(tables.values()))
    n_samples: Any = first.groupby("kind", sort=False)["sample"].nunique()
    kinds = sorted(n_samples.index, key=figures.place)
    counts = ", ".join(f"{n_samples[kind]} {as_text(kind)}" for kind in kinds)
    judge: Any = scores.attrs["judge"]
    every = [results.read_json(out / name / "run.json") for name in tables]
    versions = ", ".join(f"{name} {number}" for name, number in every[0]["versions"].items())
    configs = [made["config"] for made in every]
    limits = sorted({c["max_new_tokens"] for c in configs if "max_new_tokens" in c})
    yield f"# What {as_text(study.model)} sees and hears\n"
    yield as_text(in_brief(study.model, kinds, findings)) + "\n"
    data, base = as_text(study.data.name), as_text(study.base or "none")
    yield f"Samples: {counts}, of {data}. Base: {base}. "
    yield f"Judge: {as_text(judge['name'])}. "
    yield f"Order: {as_text(first.attrs.get('order', 'unknown'))}. "
    yield f"Greedy answers of up to {', '.join(map(str, limits))} tokens. " if limits else ""
    yield f"Versions: {as_text(versions)}.\n"
    if "not the original's numbers" in (name := str(first.attrs["model"])):
        yield f"Note: of {as_text(name)}; nothing published is compared with it.\n"
    for note in (unlike_the_paper(read_facts(study.data)), published.note(study.model)):
        yield f"Note: {as_text(note)}.\n" if note else ""
    yield _CLAIMS_HEAD
    yield from checklist(findings)
    for name in tables:
        file, title = FIGURES[name]
        yield f"\n## {title}\n"
        if (out / "figures" / f"{file}.png").is_file():
            yield f"![{title}](figures/{file}.png)\n"
        yield from (f"* {as_text(line)}" for line in sentences(name, tables[name], scores))
    yield "\n## What is missing\n"
    not_asked = [made["facts"].get("not_asked", {}) for made in every]
    yield from _missing(tables, scores, dict(zip(tables, not_asked, strict=True)))
    yield "\nTables: a folder each, with `run.json`; scores: `scores/`; judgements with the judge's"
    yield "reasons: `judgements.jsonl`."


def _missing(
    tables: Mapping[str, pd.DataFrame], scores: pd.DataFrame, not_asked: Mapping[str, Any]
) -> Iterator[str]:
    """Skipped cases and missing judgements, each with its reason, and what could not be asked."""
    for name, table in tables.items():
        skipped = table.attrs.get("skipped", {})
        yield f"* {name}: {len(skipped)} of {table.attrs['n_cases']} cases skipped."
        by_reason: dict[str, list[str]] = {}
        for case, reason in skipped.items():
            by_reason.setdefault(reason, []).append(case)
        yield from _first(
            f"{cases[0]}{f' and {len(cases) - 1} more' if cases[1:] else ''}: {reason}"
            for reason, cases in by_reason.items()
        )
        for question, samples in not_asked[name].items():
            yield f"* {name}: {question} cannot be asked of {len(samples)} samples of the manifest."
            yield from _first(iter(samples))
        unmatched = table.attrs.get("unmatched", {})
        yield from _first(
            f"{case}: the judge's {', '.join(words)} match no token"
            for case, words in unmatched.items()
        )
    if cut := scores.attrs.get("cut"):
        yield f"* tokens: {len(cut)} lists were cut to what the judge can read at once."
        yield from _first(iter(cut))
    gone: Any = scores[scores["status"] == "missing"]
    yield f"* judgements: {len(gone)} of {len(scores)} missing."
    yield from _first(
        f"{row['sample']}, {row['question']}, {row['condition'] or 'untouched'}, "
        f"{row['what']}: {row['reason']}"
        for row in gone.to_dict("records")
    )


def _first(lines: Iterator[str]) -> Iterator[str]:
    every = list(lines)
    yield from (f"  * {as_text(line)}" for line in every[:_MOST_LISTED])
    if len(every) > _MOST_LISTED:
        yield f"  * and {len(every) - _MOST_LISTED} more, in the tables"
