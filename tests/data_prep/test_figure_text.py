"""Labels stand in figures as they are written, or what is lacking is printed."""

import warnings

import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

from data_prep.figure_text import drawn, label


def test_labels_are_text() -> None:
    axes = Figure().subplots()
    names = ["_swapped", "$5 and $6", "factual", "__", "$\\frac{"]
    for name in names:
        axes.plot([0, 1], [0, 1], label=label(name))
    axes.set_title("$a_1$ and $b$")
    legend = axes.legend()
    texts = [text.get_text().lstrip("\u200b") for text in legend.get_texts()]
    assert texts == names
    assert not any(text.get_parse_math() for text in [*legend.get_texts(), axes.title])
    assert drawn(axes.figure, ["png"], 50)[0].startswith(b"\x89PNG")  # pyright: ignore[reportArgumentType]


def test_long_labels_are_one_short_line() -> None:
    assert label("a\nb\t c") == "a b c"
    long = label("very long kind\n" * 20 + "(n = 7)")
    assert len(long) == 40 and long.startswith("very long") and long.endswith(" (n = 7)")
    assert len(label("kind" * 20, 16)) == 16 and label("k" * 40) == "k" * 40


def test_characters_without_a_font_are_printed_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = Figure()
    figure.subplots().set_title("dog \u72d7 and \u732b")
    fonts = font_manager.fontManager.ttflist
    plain = [font for font in fonts if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(figure, ["png", "pdf"], 50)
    printed = capsys.readouterr().err
    assert printed.count("expected fonts") == 1 and "'\\u72d7\\u732b'" in printed


def test_a_font_of_the_machine_serves_what_the_default_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figure = Figure()
    title = figure.subplots().set_title("\u222e \U0001d49c")  # script A is in STIX, not in DejaVu
    drawn(figure, ["png"], 50)
    assert not capsys.readouterr().err
    assert len(title.get_fontfamily()) > 1
