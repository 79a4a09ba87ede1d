"""Figures for print say what the records say, in fonts that have every character."""

import io

import numpy as np
import pytest

from analyses.plots.qualitative import coloured_answer, fonts, lens_grid, phrase_over_frames
from hooked_omni.errors import ResultsError

TOKENS = [
    {"text": text, "shift": shift}
    for text, shift in (("A", "unshifted"), (" $dog", "shifted"), ("\n\x00", None), ("", None))
]
CELL = {"text": "dog", "logprob": -1.0, "others": [], "hit": True}
LENS = {"lens": "raw", "layers": [3, 5], "seconds": [0, 1], "cells": [[CELL, CELL]] * 2}


def drawn(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="pdf")
    return file.getvalue()


def test_an_answer_is_drawn_word_for_word() -> None:
    figure = coloured_answer(TOKENS * 30)
    texts = [one.get_text() for one in figure.axes[0].texts]
    assert texts.count(" $dog") == 30 and texts[-3:] == ["unshifted", "marginal", "shifted"]
    assert texts.count(" U+0000") == 30 and drawn(figure).startswith(b"%PDF")


def test_characters_without_a_font_are_named() -> None:
    assert fonts(["plain", "señal"]) == ["DejaVu Sans"]
    with pytest.raises(ResultsError, match="Install one, such as Noto Sans CJK"):
        fonts(["\U0001f9ff\U0001fae8\ue000"])  # the last is private: no font of text has it


@pytest.mark.usefixtures("as_installed")
def test_a_phrase_stands_on_every_frame() -> None:
    frames, weights = np.zeros((6, 20, 30, 3), np.uint8), np.full((6, 2, 3), 1 / 36)
    figure = phrase_over_frames("a $dog", frames, weights, [0.5 * i for i in range(6)])
    shades = [np.asarray(one.images[1].get_array()) for one in figure.axes[:6]]
    assert all(np.allclose(shade, 100 / 36) for shade in shades)
    assert [one.get_title() for one in figure.axes[:2]] == ["0.0 s", "0.5 s"]
    for wrong in (
        (frames[:5], weights, ()),
        (frames, weights, (1.0,)),
        (frames[:0], weights[:0], ()),
    ):
        with pytest.raises(ResultsError, match="as many frames"):
            phrase_over_frames("a", *wrong)


def test_the_lens_is_a_grid_of_tokens() -> None:
    figure = lens_grid(LENS, [5])
    axes = figure.axes[0]
    assert [one.get_text() for one in axes.texts] == ["dog", "dog"]
    assert [one.get_text() for one in axes.get_yticklabels()] == ["5"]
    assert (np.asarray(axes.images[0].get_array()) > 0).all() and drawn(figure)
    with pytest.raises(ResultsError, match=r"among \[3, 5\]"):
        lens_grid(LENS, [4])
