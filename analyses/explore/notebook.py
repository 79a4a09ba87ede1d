"""How is a sample looked at in a notebook? `show(omni, prompt)`, or `show(table, "02321")`.

The same page, in a frame that holds all of it: script, style, data and clip. It needs no widget
manager, no server and no port, so that it works in a remote Jupyter and in a saved notebook.
"""

import base64
import html
import mimetypes
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analyses import attention_map, captions
from analyses.attention_map.table import COLUMNS as MAP
from analyses.captions import COLUMNS as TEXTS
from analyses.cases import KEYS, Case, prefilled
from analyses.distribution_shift.table import COLUMNS as SHIFT
from analyses.explore.media import clip_record
from analyses.explore.opened import DRAWN, PARTS, OpenStudy, open_study
from analyses.explore.overview import study_record
from analyses.explore.samples import SampleTables
from analyses.explore.site import BUILT, sample_records, script
from analyses.judge.record import COLUMNS as SCORE_COLUMNS
from analyses.logit_lens.table import COLUMNS as LENS
from analyses.running.identity import model_facts
from data_prep.manifest import MODALITY, Sample, file_name, read_manifest
from hooked_omni import HookedOmni, Prompt
from hooked_omni.errors import ResultsError

_COLUMNS = dict(attention_map=MAP, captions=TEXTS, distribution_shift=SHIFT, logit_lens=LENS)
_UNKNOWN = {"family": "unknown", "dtype": "unknown", "media": {}}
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
_POLICY += "img-src data:; media-src data:"
_FRAME = (
    '<iframe sandbox="allow-scripts allow-downloads" width="100%" height="{height}" '
    'style="border:0" title="a sample" srcdoc="{page}"></iframe>'
)


class SamplePage:
    """A page of one sample, which Jupyter shows."""

    def __init__(self, study: OpenStudy, sample: str, height: int) -> None:
        self.html = one_page(study, sample)
        self.height = height

    def _repr_html_(self) -> str:
        return _FRAME.format(height=self.height, page=html.escape(self.html, quote=True))


def show(
    source: HookedOmni | pd.DataFrame | Sequence[pd.DataFrame] | OpenStudy | str | Path,
    what: Prompt | str,
    data: str | Path | None = None,
    height: int = 900,
) -> SamplePage:
    """A page of one sample of a table or a study, or of a model's answer to a prompt, asked now.

    ```python
    table = attention_map.run(omni, cases)       # or `results.load` of its folder
    show(table, "02321+rain", data="pairs.jsonl")
    show([table, shifts, lens], "02321+rain")    # of several analyses
    show("runs/x", "02321+rain")                 # a study's folder, or `open_study` of it
    show(omni, Prompt("Describe what you hear.", video="clip.mp4"))
    ```

    `data` is the manifest, in which the clip stands: tables do not know it, a moved study no more.

    Raises:
        ResultsError: For a sample that is not in it, tables of no analysis that the page shows or
            twice of one, and as `open_study`.
        MediaError, PromptError: As `embed`, for a prompt.
    """
    manifest, sample = None if data is None else Path(data), str(what)
    if isinstance(source, HookedOmni):
        if not isinstance(what, Prompt):
            raise ResultsError(f"expected a Prompt for a model, got {what!r}. Write Prompt(...).")
        study, sample = asked_now(source, what), "prompt"
    elif isinstance(source, str | Path):
        study = open_study(Path(source), data=manifest)
    elif isinstance(source, OpenStudy):
        study = source
    else:
        study = of_tables([source] if isinstance(source, pd.DataFrame) else source, manifest)
    if sample not in study.kinds_of:
        known = [*study.kinds_of][:5]
        raise ResultsError(
            f"expected one of {len(study.kinds_of)} samples, such as {known}, got {sample!r}."
        )
    return SamplePage(study, sample, height)


def asked_now(omni: HookedOmni, prompt: Prompt) -> OpenStudy:
    """The answer to a prompt and its attention, as of a study of one sample."""
    case = prefilled(omni, Case(prompt, "prompt", kind="prompt", question="own"))
    model = model_facts(omni) | {"media": vars(prompt.media or omni.media)}
    tables = [captions.run(omni, [case]), attention_map.run(omni, [case])]
    study = of_tables(tables, None, model, prompt.rope, prompt.system)
    for name, table in study.tables.items():
        for reason in table.attrs["skipped"].values():
            raise ResultsError(f"expected a prompt that {name} can be used on, got one: {reason}")
    sources = prompt.sources(omni.family.hears)
    files = [(one.kind, str(Path(one.path).absolute())) for one in sources if not one.own]
    heard = {} if any(one.kind == "audio" for one in sources) else {MODALITY: "visual"}
    sample = Sample("prompt", kind="prompt", items=tuple(files), extra=heard)
    return replace(study, samples={"prompt": sample})


def of_tables(
    tables: Sequence[pd.DataFrame],
    data: Path | None = None,
    model: Mapping[str, Any] = _UNKNOWN,
    rope: str = "unknown",
    system: str | None = None,
) -> OpenStudy:
    """Tables, as `run` or `results.load` gives them, as of a study; `data` is their manifest."""
    found: dict[str, pd.DataFrame] = {}
    for table in tables:
        name = next((n for n, own in _COLUMNS.items() if {*KEYS, *own} <= {*table.columns}), None)
        if name is None or name in found:
            raise ResultsError(
                f"expected tables of {[*_COLUMNS]}, each once, got columns {[*table.columns][:9]} "
                f"after {[*found]}. Make one with `run`, or load it with `results.load`."
            )
        found[name] = table
    if not found:
        raise ResultsError(f"expected a table of one of {[*_COLUMNS]}, got none. Name one.")
    name = str(next(iter(found.values())).attrs.get("model", "a model"))
    facts = {"data": [], "model": {"name": name, **model}, "rope": rope, "system": system}
    run = {"facts": facts, "config": {}, "versions": {}}
    return OpenStudy(
        folder=Path(),
        tables=found,
        runs=dict.fromkeys(found, run),
        scores=pd.DataFrame(columns=[*SCORE_COLUMNS]),
        sources=None,
        manifest=data,
        samples={} if data is None else {one.id: one for one in read_manifest(data)},
        missing={PARTS.get(n, n): "not shown here" for n in ("judge", *DRAWN) if n not in found},
        name=Path(name).name,
    )


def one_page(study: OpenStudy, sample: str) -> str:
    """The page as one file, open at a sample; its clip is in it."""
    tables = SampleTables(study)
    with tempfile.TemporaryDirectory() as folder:
        where = (study.manifest or study.folder).parent
        media = Path(folder) / "media"
        clip = clip_record(study.samples.get(sample), where, study.media, media, study.hears)
        if clip["src"]:
            clip["src"] = _inside(Path(folder) / clip["src"])
    others = [{"name": study.name, "samples": [sample]}]
    record = study_record(study, others, whole=False)
    record["samples"] = [row for row in record["samples"] if row["id"] == sample]
    put = {"0/study": record, **dict(sample_records(0, tables, sample, clip))}
    scripts = "".join(f"<script>{script(name, one).decode()}</script>" for name, one in put.items())
    app, style = ((BUILT / name).read_text() for name in ("app.js", "app.css"))
    app = app.replace("</script", "<\\/script")
    return (
        '<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{_POLICY}"><base href="about:srcdoc"><style>{style}</style><div id="page"></div>'
        f"<script>location.hash='#/sample/{file_name(sample)}'</script><script>{app}</script>{scripts}"
    )


def _inside(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
