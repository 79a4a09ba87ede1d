"""The table of attention shares says what Hugging Face's attentions say."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import eager

from analyses import attention_share, results
from analyses.published import published
from hooked_omni import HookedOmni, Spans
from hooked_omni.errors import ResultsError

ROOT = Path(__file__).resolve().parents[1]
CONFIG = attention_share.Config(max_new_tokens=6)


@pytest.fixture
def inputs(clips: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    return clips["omni", "audio in video"]


def test_shares_are_hugging_faces(omni: HookedOmni, inputs: dict[str, Any]) -> None:
    prompt = omni.embed_inputs(**inputs)
    table = attention_share.run(omni, {"a": prompt}, CONFIG)
    with eager(omni) as hf:
        out = hf.generate(
            **inputs,
            max_new_tokens=6,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        )
    steps = out.attentions[1:]
    assert table["n_queries"].unique().tolist() == [len(steps)]
    for layer in range(omni.model.cfg.n_layers):
        for segment in ("audio", "video", "text", "generated"):
            expected = 0.0
            for step in steps:
                paid = step[layer][0, :, -1].mean(0)
                keys = (
                    torch.arange(prompt.n_pos, len(paid))
                    if segment == "generated"
                    else prompt.spans[segment]
                )
                expected += float(paid[keys].sum()) / len(steps)
            row = table[(table["layer"] == layer) & (table["segment"] == segment)]
            assert row["share"].item() == pytest.approx(expected, abs=1e-6)


def test_segments_share_out_everything(omni: HookedOmni, inputs: dict[str, Any]) -> None:
    table = attention_share.run(omni, {"a": omni.embed_inputs(**inputs)}, CONFIG)
    sums: dict[int, float] = {}
    for layer, share in zip(table["layer"], table["share"], strict=True):
        sums[layer] = sums.get(layer, 0.0) + share
    assert list(sums.values()) == pytest.approx([1.0] * 4, abs=1e-6)
    assert int((table["n_keys"] > 0).to_numpy().sum()) == 3 * 4


def test_planted_attention_is_found(omni: HookedOmni, inputs: dict[str, Any]) -> None:
    """One layer is made to look at audio alone: only there is the share one."""
    prompt = omni.embed_inputs(**inputs)
    audio = prompt.spans["audio"]

    def stare(pattern: torch.Tensor, hook: Any) -> torch.Tensor | None:
        if hook.positions.start < prompt.n_pos:
            return None
        planted = torch.zeros_like(pattern)
        planted[..., audio] = 1 / len(audio)
        return planted

    with omni.model.hooks([("blocks.2.attn.hook_pattern", stare)]):
        table = attention_share.run(omni, {"a": prompt}, CONFIG)
    audio_rows = table["segment"].to_numpy() == "audio"
    shares = table["share"].to_numpy()[audio_rows].tolist()
    assert shares.pop(2) == pytest.approx(1.0, abs=1e-6)
    assert max(shares) < 0.9


def test_a_figure_of_percentages(omni: HookedOmni, inputs: dict[str, Any]) -> None:
    table = attention_share.run(omni, {"a": omni.embed_inputs(**inputs)}, CONFIG)
    axes = attention_share.plot(table).axes[0]
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.get_lines()}
    assert set(lines) == {"audio", "video", "query text"}
    assert np.stack(list(lines.values())).sum(0).tolist() == pytest.approx([100.0] * 4)


def test_published_points_stand_under_a_model_of_36_layers() -> None:
    rows = [
        dict(sample="a", layer=layer, segment=s, share=0.3, n_queries=1)
        for layer in range(36)
        for s in ("audio", "video", "text")
    ]
    axes = attention_share.plot(pd.DataFrame(rows)).axes[0]
    n_points = sum(np.asarray(points.get_offsets()).shape[0] for points in axes.collections)
    assert n_points == len(published("figure4_attention_share_qwen2_5_omni_3b"))


def test_no_prompts(omni: HookedOmni) -> None:
    with pytest.raises(ResultsError, match="expected at least one prompt, got none"):
        attention_share.run(omni, {}, CONFIG)


def test_an_answer_of_one_token(omni: HookedOmni, inputs: dict[str, Any]) -> None:
    prompt = omni.embed_inputs(**inputs)
    with pytest.raises(ResultsError, match="expected an answer of two tokens or more for 'a'"):
        attention_share.run(omni, {"a": prompt}, attention_share.Config(max_new_tokens=1))


def test_a_clip_without_sound_has_no_audio_rows(
    omni: HookedOmni, clips: dict[tuple[str, str], dict[str, Any]]
) -> None:
    prompt = omni.embed_inputs(**clips["omni", "video"])
    table = attention_share.run(omni, {"a": prompt}, CONFIG)
    assert set(table["segment"]) == {"video", "text", "generated"}


def test_run_json_comes_last_and_guards_the_folder(omni: HookedOmni, tmp_path: Path) -> None:
    prompt = omni.model.as_prompt(torch.arange(2, 12)[None])
    prompt = replace(prompt, spans=Spans({"text": torch.arange(10)}, 10))
    table = attention_share.run(omni, {"a": prompt}, CONFIG)
    figure = attention_share.plot(table)
    results.save(tmp_path, "attention_share", table, figure, CONFIG, model="random-omni")
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert max(times, key=lambda name: times[name]) == "run.json"
    made = json.loads((tmp_path / "run.json").read_text())
    assert made["config"]["max_new_tokens"] == 6
    assert made["facts"]["model"] == "random-omni"
    pd.testing.assert_frame_equal(results.load(tmp_path, "attention_share"), table)

    other = attention_share.Config(max_new_tokens=7)
    with pytest.raises(ResultsError, match="Choose another folder"):
        results.save(tmp_path, "attention_share", table, figure, other)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ResultsError, match=r"got one without run\.json"):
        results.load(tmp_path, "attention_share")


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "analyses", "attention_share", "--model", "random-omni"),
            *("--clip", str(tmp_path / "nowhere.mp4"), "--out", str(tmp_path / "out")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "MediaError: expected a media file, got no file" in done.stderr
    assert not (tmp_path / "out").exists()
