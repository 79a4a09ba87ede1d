"""Every question can be put to a clip without a manifest, and so without reference captions."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import captions
from analyses.__main__ import ANALYSES
from analyses.running import results, runs
from analyses.running.summary import sentences
from data_prep.clips import write_clip
from hooked_omni.inputs.media import MEMORY
from tests.support.running import command


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (8, 112, 112, 3), dtype=np.uint8)
    wave = 0.1 * np.sin(np.arange(16_000) / 9)
    return write_clip(tmp_path_factory.mktemp("clip") / "c.mp4", frames, 8, wave)


@pytest.mark.parametrize("name", list(ANALYSES))
def test_every_question_can_be_put_to_one_clip(tmp_path: Path, name: str, clip: Path) -> None:
    base = ["--base", "organism-base"] if ANALYSES[name][1] else []
    given = '{"options": ["dog", "bell"]}'
    few = {"choice": given, "heads": given, "mitigation": '{"max_new_tokens": 6}'}
    base += ["--config", few[name]] if name in few else []
    words = [name, "--model", "organism-biased", "--out", tmp_path, *base]
    assert command(*words, "--clip", clip, "--ask", "Describe what you hear.") == 0
    table = results.load(tmp_path)
    assert name in ("logit_lens", "choice", "heads", "mitigation") or {*table["ended"]} == {True}
    assert set(table["sample"]) == {str(clip)} and set(table["question"]) == {"own"}
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert sentences([tmp_path])
    if name == "logit_lens":  # panels without a curve say why
        assert "nothing to recall" in runs.analysis(name).plot(table).get_suptitle()


def test_answers_without_references_stand_for_themselves(tmp_path: Path) -> None:
    row = dict(sample="a", kind="factual", question="own", caption="A dog.", n_tokens=3, ended=True)
    table = pd.DataFrame([row | dict(sample=str(i)) for i in range(12)])
    table = table.assign(heard_found=float("nan"), seen_found=float("nan"))
    lines = captions.headline(table)
    assert lines[0] == "0, own: A dog." and lines[10] == "and 2 more, in the table"
    (axes,) = captions.plot(table).axes
    assert "A dog." in axes.texts[0].get_text()
    compared = captions.headline(table.assign(heard_found=0.5))
    assert "50.0 %" in compared[0]


def test_the_memory_limit_is_an_option(
    tmp_path: Path, clip: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MEMORY, "1")
    words = ["captions", "--model", "random-omni", "--out", tmp_path, "--clip", clip]
    assert command("--media-gb", "0.0001", *words) == 1
    assert "at most 0.0001 GB of memory" in capsys.readouterr().err
