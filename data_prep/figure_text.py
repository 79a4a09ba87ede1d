"""How do kinds, names and ids stand in a figure as they are written?

matplotlib reads what is between two `$` as mathematics, leaves out labels that begin with `_`, and
draws a box for a character that its font lacks.
"""

import io
import warnings
from collections.abc import Sequence

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from data_prep.console import say

# For the whole process: legends and ticks ask for it when they are made, whoever makes them.
matplotlib.rcParams["text.parse_math"] = False
# Text stays text in a PDF, in fonts that printers take.
matplotlib.rcParams["pdf.fonttype"] = 42


def label(name: str, most: int = 40) -> str:
    """A label that stands in the legend, on one line of `most` letters, both ends kept.

    Before `_` stands a space of no width.
    """
    name = " ".join(name.split())
    name = name if len(name) <= most else f"{name[: most // 2]}\u2026{name[1 - most // 2 :]}"
    return f"\u200b{name}" if name.startswith("_") else name


def drawn(figure: Figure, formats: Sequence[str], dpi: int) -> list[bytes]:
    """The figure as a file of each format; prints the characters that no font here has."""
    files = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        lacking = _find_fonts(figure)
        for name in formats:
            file = io.BytesIO()
            figure.savefig(file, format=name, dpi=dpi)
            files.append(file.getvalue())
    if lacking:
        say(
            f"expected fonts for all that stands in a figure, got none for {''.join(lacking)!a}: "
            "boxes stand there. Install one that has them, such as Noto Sans CJK."
        )
    return files


def _find_fonts(figure: Figure) -> list[str]:
    """Let texts use other fonts for what the default one lacks; what all of them lack."""
    figure.draw_without_rendering()  # makes the texts of ticks
    texts: list[Text] = figure.findobj(Text)  # pyright: ignore[reportAssignmentType]
    wanted = {ord(c) for text in texts for c in text.get_text() if not c.isspace()} - {0x200B}
    wanted -= _characters(font_manager.findfont(font_manager.FontProperties()))
    found = []
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: font.name):
        if wanted and "LastResort" not in font.name.replace(" ", ""):
            has = wanted & _characters(font.fname)
            found += [font.name] if has else []
            wanted -= has
    for text in texts if found else []:
        text.set_fontfamily([*text.get_fontfamily(), *found])
    return [chr(code) for code in sorted(wanted)]


def _characters(path: str) -> set[int]:
    try:
        return set(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a file that is no font, or gone since the list was made
        return set()
