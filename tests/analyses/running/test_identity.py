"""Models, clips and prompts are known by their content, not by their names."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from analyses.running.identity import KeptPrompts, model_facts, clips_digest
from analyses.running.request import CaseSelection
from data_prep.manifest import Sample, write_manifest
from hooked_omni import HookedOmni, Prompt


def test_weights_tell_models_of_one_name_apart(omni: HookedOmni) -> None:
    before = model_facts(omni)
    weight = dict(omni.model.named_parameters())["blocks.1.mlp.down_proj.weight"]
    kept = weight.data.clone()
    weight.data += 1e-3
    changed = model_facts(omni)
    weight.data.copy_(kept)
    assert changed["weights"] != before["weights"]
    assert model_facts(omni) == before
    assert before["torch"] and before["transformers"]


def test_a_clip_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.wav"):
        (tmp_path / name).write_bytes(b"1234")
    samples = [Sample("x", video="a.mp4", audio="b.wav"), Sample("y", video="gone.mp4")]
    manifest = write_manifest(tmp_path / "data.jsonl", samples)
    before = clips_digest(manifest)
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, moved)
    assert clips_digest(moved / "data.jsonl") == before == CaseSelection(manifest).facts()["clips"]
    (tmp_path / "b.wav").write_bytes(b"12345")
    assert clips_digest(manifest) != before


def test_prompts_embed_once(omni: HookedOmni, data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    kept, made, embed = KeptPrompts(omni, tmp_path), [], HookedOmni.embed
    monkeypatch.setattr(HookedOmni, "embed", lambda self, p: made.append(p) or embed(self, p))
    clip, other = data.parent / "0.mp4", data.parent / "1.mp4"
    prompt = Prompt("What now?", video=clip)
    first, second = kept.embed(prompt), kept.embed(prompt)
    assert len(made) == 1 and len(list(tmp_path.iterdir())) == 1
    assert first.embeds.equal(second.embeds) and first.facts == second.facts
    kept.embed(replace(prompt, text="What then?"))
    kept.embed(replace(prompt, video=other))
    kept.embed(replace(prompt, audio=other))
    kept.embed(replace(prompt, rope="paper-scripts"))
    kept.embed(replace(prompt, use_audio_in_video=False))
    assert len(made) == 6
    kept.embed(replace(prompt, video=shutil.copy(clip, tmp_path / "moved.mp4")))
    assert len(made) == 6  # the same content
    for bundle in tmp_path.glob("*.safetensors"):
        bundle.write_bytes(b"damage")
    assert kept.embed(prompt).embeds.equal(first.embeds)
    assert len(made) == 7
