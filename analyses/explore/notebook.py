"""How is a sample looked at in a notebook? `show(omni, prompt)`, or `show("runs/x", "02321")`.

The same page, in a frame that holds all of it: script, style, data and clip. It needs no widget
manager, no server and no port, so that it works in a remote Jupyter and in a saved notebook.
"""

import base64
import html
import mimetypes
import tempfile
from pathlib import Path

import pandas as pd

from analyses import attention_map, captions
from analyses.cases import Case, prefilled
from analyses.explore.media import clip_record
from analyses.explore.opened import OpenStudy, open_study
from analyses.explore.overview import study_record
from analyses.explore.samples import SampleTables
from analyses.explore.site import BUILT, sample_records, script
from analyses.judge.record import COLUMNS as SCORE_COLUMNS
from analyses.running.identity import model_facts
from analyses.study.config import STAGES
from data_prep.manifest import Sample, file_name
from hooked_omni import HookedOmni, Prompt
from hooked_omni.errors import ResultsError

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
    source: HookedOmni | OpenStudy | str | Path, what: Prompt | str, height: int = 900
) -> SamplePage:
    """A page of one sample of a study, or of a model's answer to a prompt, which is asked now.

    ```python
    show("runs/x", "02321+rain")  # a study's folder, or `open_study` of it, and a sample
    show(omni, Prompt("Describe what you hear.", video="clip.mp4"))
    ```

    Raises:
        ResultsError: For a sample that the study does not have, and as `open_study`.
        MediaError, PromptError: As `embed`, for a prompt.
    """
    if isinstance(source, HookedOmni):
        if not isinstance(what, Prompt):
            raise ResultsError(f"expected a Prompt for a model, got {what!r}. Write Prompt(...).")
        study, sample = asked_now(source, what), "prompt"
    else:
        study = source if isinstance(source, OpenStudy) else open_study(Path(source))
        sample = str(what)
    if sample not in study.kinds_of:
        known = [*study.kinds_of][:5]
        raise ResultsError(
            f"expected one of {len(study.kinds_of)} samples, such as {known}, got {sample!r}."
        )
    return SamplePage(study, sample, height)


def asked_now(omni: HookedOmni, prompt: Prompt) -> OpenStudy:
    """The answer to a prompt and its attention, as of a study of one sample."""
    case = prefilled(omni, Case(prompt, "prompt", kind="prompt", question="own"))
    tables = {
        "captions": captions.run(omni, [case]),
        "attention_map": attention_map.run(omni, [case]),
    }
    for name, table in tables.items():
        for reason in table.attrs["skipped"].values():
            raise ResultsError(f"expected a prompt that {name} can be used on, got one: {reason}")
    media = model_facts(omni) | {"media": vars(prompt.media or omni.media)}
    facts = {"data": [], "model": media, "rope": prompt.rope, "system": prompt.system}
    files = [
        (one.kind, str(Path(one.path).absolute())) for one in prompt.sources(True) if not one.own
    ]
    missing = dict.fromkeys(("judge", *STAGES), "not asked for: this is one prompt")
    del missing["captions"]
    run = {"facts": facts, "config": {}, "versions": {}}
    return OpenStudy(
        folder=Path(omni.model.cfg.model_name),
        tables=tables,
        runs=dict.fromkeys(tables, run),
        scores=pd.DataFrame(columns=[*SCORE_COLUMNS]),
        sources=None,
        manifest=None,
        samples={"prompt": Sample("prompt", kind="prompt", items=tuple(files))},
        missing=missing,
    )


def one_page(study: OpenStudy, sample: str) -> str:
    """The page as one file, open at a sample; its clip is in it."""
    tables = SampleTables(study)
    with tempfile.TemporaryDirectory() as folder:
        where = (study.manifest or study.folder).parent
        clip = clip_record(study.samples.get(sample), where, study.media, Path(folder) / "media")
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
