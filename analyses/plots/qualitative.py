"""How do an answer, its attention and the lens look in print? Figures 1, 5 and 7 of the paper.

From the records of a sample that the page shows too, so that print and page have one content. A
figure is set in fonts that have every character in it: a script without any is an error with what
to install, as a page of boxes says nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.textpath import TextPath

from analyses.plots import figures
from hooked_omni.errors import ResultsError

_FILLS = {"unshifted": "white", "marginal": "#F0E442", "shifted": "#E69F00"}
_SIZE, _LINE, _WIDE = 9.0, 0.24, 44  # points, inches, and how wide a line is in em
_ALWAYS = "DejaVu Sans"
_LAST_RESORTS = ("Last Resort", "LastResort")  # boxes for every character


def fonts(texts: Iterable[str]) -> list[str]:
    """Names of installed fonts that have every character; the usual one first.

    Raises:
        ResultsError: For characters that no installed font has.
    """
    needed = {ord(c) for text in texts for c in text if c.isprintable() and not c.isspace()}
    chosen, missing = [_ALWAYS], needed - _characters(findfont(_ALWAYS))
    others = sorted({font.name: font.fname for font in fontManager.ttflist}.items())
    known = [(name, file) for name, file in others if not name.startswith(_LAST_RESORTS)]
    while missing:
        name, file = max(known, key=lambda font: len(missing & _characters(font[1])))
        if not missing & _characters(file):
            raise ResultsError(
                f"expected a font with {''.join(map(chr, sorted(missing)[:10]))!r}, got none among "
                f"{len(known)} that are installed. Install one, such as Noto Sans CJK, and delete "
                "matplotlib's font cache."
            )
        chosen.append(name)
        missing -= _characters(file)
    return chosen


def coloured_answer(tokens: Sequence[Mapping[str, Any]]) -> Figure:
    """An answer, each token on the color of its shift: white, yellow (marginal), orange (shifted).

    `tokens` are those of the page's `Sample`: `text` and `shift`.
    """
    names = fonts(token["text"] for token in tokens)
    lines: list[list[tuple[float, float, Mapping[str, Any]]]] = [[]]
    at = 0.0
    for token in tokens:
        width = _width(token["text"], names)
        if at + width > _WIDE and lines[-1]:
            lines.append([])
            at = 0.0
        lines[-1].append((at, width, token))
        at += width
    figure = Figure(figsize=(figures.WIDTH, _LINE * (len(lines) + 1.5)))
    axes = figure.add_axes((0.02, 0, 0.96, 1), xlim=(0, _WIDE), ylim=(-len(lines) - 1.5, 0))
    axes.set_axis_off()
    plain: Any = dict(family=names, size=_SIZE, va="center", parse_math=False)
    for y, line in enumerate(lines, 1):
        for x, width, token in line:
            axes.barh(
                0.1 - y, width, 0.8, x, color=_FILLS.get(token["shift"], "white"), linewidth=0
            )
            axes.text(x, 0.1 - y, _shown(token["text"]), **plain)
    for x, (name, color) in enumerate(_FILLS.items()):
        axes.barh(-len(lines) - 1, 1, 0.6, 10 * x, color=color, edgecolor="black", linewidth=0.5)
        axes.text(10 * x + 1.5, -len(lines) - 1, name, **plain)
    return figure


def phrase_over_frames(
    phrase: str,
    frames: UInt8[np.ndarray, "frame height width 3"],
    weights: Float[np.ndarray, "frame row column"],
    seconds: Sequence[float] = (),
) -> Figure:
    """Each frame, and on its patches the attention of a phrase; one scale for all frames.

    `weights` has the share of each cell of the picture, `seconds` when each frame starts.
    """
    if len(frames) != len(weights) or not len(frames) or len(seconds) not in (0, len(frames)):
        raise ResultsError(
            f"expected as many frames as steps of the grid, got {len(frames)}, {len(weights)} and "
            f"{len(seconds)} times. Choose the frame of each step."
        )
    n_columns = min(len(frames), 5)
    n_rows = -(-len(frames) // n_columns)
    figure, grid = figures.grid(n_rows, n_columns, (figures.WIDTH, 0.6 + 1.2 * n_rows))
    highest, shade = max(float(weights.max()), 1e-12), None
    for i, (axes, frame, cells) in enumerate(zip(grid.flat, frames, weights, strict=False)):
        height, width = frame.shape[:2]
        axes.imshow(frame, extent=(0, width, height, 0))
        over: Any = dict(extent=(0, width, height, 0), vmin=0, vmax=100 * highest, alpha=0.6)
        shade = axes.imshow(100 * cells, cmap="inferno", interpolation="nearest", **over)
        axes.set_title(f"{seconds[i]:.1f} s" if len(seconds) else "", fontsize="small")
    for axes in grid.flat:
        axes.set_axis_off()
    figure.colorbar(shade, ax=grid, label="attention, %", shrink=0.8)
    figure.suptitle(_shown(phrase), family=fonts([phrase]), size=_SIZE, parse_math=False)
    return figure


def lens_grid(lens: Mapping[str, Any], layers: Sequence[int] = ()) -> Figure:
    """The tokens that the lens reads, layer by second; those that name what sounds stand out.

    `lens` is a `LensGrid` of the page's `Sample`, of which all layers are drawn, or some.
    """
    known = [*lens["layers"]]
    if not known or not lens["seconds"] or set(layers) - set(known):
        raise ResultsError(f"expected layers among {known} with seconds, got {[*layers]}.")
    rows = [known.index(layer) for layer in layers or known]
    texts = [[_shown(cell["text"]) for cell in lens["cells"][row]] for row in rows]
    size = (max(figures.WIDTH, 0.75 * len(lens["seconds"])), 0.5 + 0.2 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    hits = [[0.35 if cell["hit"] else 0.0 for cell in lens["cells"][row]] for row in rows]
    axes.imshow(hits, cmap="Oranges", vmin=0, vmax=1, aspect="auto", origin="lower")
    plain: Any = dict(ha="center", va="center", size=6.5, parse_math=False, clip_on=True)
    for y, line in enumerate(texts):
        for x, text in enumerate(line):
            axes.text(x, y, text[:12], family=fonts([text]), **plain)
    axes.set_xticks(range(len(lens["seconds"])), [f"{second:g}" for second in lens["seconds"]])
    axes.set_yticks(range(len(rows)), [str(known[row]) for row in rows])
    axes.set(xlabel="second of the clip", ylabel=f"layer, lens {lens['lens']}")
    return figure


def _shown(text: str) -> str:
    """On one line; what cannot be printed by its number."""
    spaced = "".join(" " if c.isspace() else c for c in text)
    return "".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in spaced)


def _width(text: str, names: Sequence[str]) -> float:
    """In em, at least a third for a token that shows nothing."""
    shown = _shown(text)
    font = FontProperties(family=list(names), size=_SIZE)
    # Spaces at the ends have no outline.
    edges = [TextPath((0, 0), f"|{part}|", prop=font).get_extents().width for part in (shown, "")]
    return max((edges[0] - edges[1]) / _SIZE, 0.3)


@lru_cache(maxsize=256)
def _characters(file: str) -> frozenset[int]:
    return frozenset(get_font(file).get_charmap())
