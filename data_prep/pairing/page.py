"""Which samples does a manifest hold, and how unlike are their pictures and sounds?

One HTML page: how many samples of each kind, how similar picture and sound are, and every pair with
its captions. Complete in itself but for the clips, which it plays from where they are.
"""

import base64
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from data_prep.figure_text import drawn, label
from data_prep.manifest import OWN_CAPTIONS, Sample, read_facts, read_manifest
from data_prep.pairing.matrix import read_matrix
from hooked_omni.files import write_whole

# Distinct also without red and green, and none of those that a modality has in `analyses`.
_COLORS = {"factual": "#1f2937", "counterfactual": "#9333ea"}
_OTHER = "#6b7280"


@dataclass(frozen=True)
class PageRow:
    """A sample, its addresses relative to the page, and its picture's own sound if known."""

    sample: Sample
    video: str | None
    audio: str | None
    own_captions: tuple[str, ...]


def run(manifest: Path, out: Path) -> Path:
    """Write the page of a manifest to `out`, and return that; its clips' addresses are relative."""
    samples, facts, folder = read_manifest(manifest), read_facts(manifest), manifest.parent
    rows = []
    for sample in samples:
        video, audio = (_address(p, folder, out.parent) for p in (sample.video, sample.audio))
        rows.append(PageRow(sample, video, audio, _texts(sample.extra.get(OWN_CAPTIONS))))
    files = dict.fromkeys(path for s in samples for _, path in s.files)
    missing = [path for path in files if not (folder / path).is_file()]
    environment = Environment(
        loader=PackageLoader("data_prep.pairing", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        title=manifest.name,
        counts=Counter(sample.kind for sample in samples).most_common(),
        rows=rows,
        missing=missing,
        facts=_listed(facts),
        left_out=_mapping(facts.get("left_out")) | _mapping(facts.get("missing")),
        histogram=_histogram(samples),
        matrix=_matrix(manifest, samples),
        colors=_COLORS,
        other=_OTHER,
    )
    return write_whole(out, page.encode())


def _address(path: str | None, folder: Path, page: Path) -> str | None:
    """A relative URL: a space, `#` or `?` in a file name must not end it, nor `a:` start one."""
    if path is None:
        return None
    relative = os.path.relpath((folder / path).absolute(), page.absolute())
    return f"./{quote(Path(relative).as_posix())}"


def _histogram(samples: list[Sample]) -> str | None:
    """Similarities of picture and sound, by kind."""
    found = [(one.kind, one.similarity) for one in samples if one.similarity is not None]
    if not found:
        return None
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.subplots()
    values = [similarity for _, similarity in found]
    edges = np.linspace(min(values) - 0.01, max(values) + 0.01, 33).tolist()
    for kind in sorted({kind for kind, _ in found}, key=lambda kind: (kind != "factual", kind)):
        own = [similarity for other, similarity in found if other == kind]
        color = _COLORS.get(kind, _OTHER)
        axes.hist(own, edges, color=color, alpha=0.75, label=label(f"{kind} ({len(own)})"))
        axes.axvline(float(np.mean(own)), color=color, linewidth=1, linestyle="--")
    axes.set(xlabel="cosine similarity of picture and sound", ylabel="samples")
    axes.legend(frameon=False, loc="best")
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _matrix(manifest: Path, samples: list[Sample]) -> str | None:
    """Every picture against every sound, samples in the manifest's order."""
    kept = read_matrix(manifest, {one.id: one.kind for one in samples})
    if kept is None:
        return None
    similarity, kinds = kept
    figure = Figure(figsize=(4.8, 3.9), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(similarity, cmap="viridis", interpolation="antialiased")
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.9)
    borders = [i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]]
    for border in borders:
        axes.axhline(border - 0.5, color="white", linewidth=1)
        axes.axvline(border - 0.5, color="white", linewidth=1)
    starts, ends = [0, *borders], [*borders, len(kinds)]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    names = [label(kinds[start], 16) for start in starts]
    few = len(names) < 4
    axes.set_xticks(middles, names, rotation=0 if few else 90)
    axes.set_yticks(middles, names, rotation=90 if few else 0, va="center")
    axes.tick_params(length=0)
    axes.set(xlabel="sound of sample", ylabel="picture of sample")
    return _png(figure)


def _png(figure: Figure) -> str:
    return f"data:image/png;base64,{base64.b64encode(drawn(figure, ['png'], 144)[0]).decode()}"


def _listed(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """How it was made, one line each."""
    flat = {**facts, **_mapping(facts.get("config"))}
    kept = ((k, v) for k, v in flat.items() if k not in ("config", "left_out", "missing"))
    return [(k.replace("_", " "), v if isinstance(v, str) else json.dumps(v)) for k, v in kept]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list) else ()
