"""Models, clips and prompts are known by their content, not by their names."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from analyses import captions
from analyses.cases import Case, embedded, plain_answer, prefilled
from analyses.running.identity import KeptPrompts, clips_digest, model_facts
from analyses.running.options import CaseSelection
from analyses.running.request import selection_facts
from analyses.running.runs import Run, execute
from data_prep.manifest import Sample, write_manifest
from hooked_omni import HookedOmni, Prompt, load
from hooked_omni.errors import ResultsError


def test_a_prompt_under_hooks_is_neither_kept_nor_read(data: Path, tmp_path: Path) -> None:
    """What a hook on a tower does is in no key."""
    omni = load("random-omni")
    kept, prompt = KeptPrompts(omni, tmp_path), Prompt("What now?", video=data.parent / "0.mp4")
    first, towers = kept.embed(prompt), cast(Any, omni.towers)
    mlp = towers.hf.model.visual.blocks[1].mlp
    for register, hook in (
        (mlp.register_forward_hook, lambda module, args, output: output / 2),
        (mlp.register_forward_pre_hook, lambda module, args: (args[0] / 2,)),
    ):
        with register(hook):
            edited = kept.embed(prompt)
        assert not edited.embeds.equal(first.embeds) and len([*tmp_path.iterdir()]) == 1
        assert kept.embed(prompt).embeds.equal(first.embeds)
        assert kept.embed(prompt).facts == first.facts


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
    assert (
        clips_digest(moved / "data.jsonl")
        == before
        == selection_facts(CaseSelection(manifest))["clips"]
    )
    seen = (tmp_path / "b.wav").stat()
    (tmp_path / "b.wav").write_bytes(b"1243")  # of the same size, and time
    os.utime(tmp_path / "b.wav", ns=(seen.st_atime_ns, seen.st_mtime_ns))
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
    items = [("video", clip), ("text", "A."), ("text", "B.")]
    talk = Prompt("C.", video=clip, turns=[("user", items[1:]), ("user", "D.")])
    for prompt_of_items in (
        *(Prompt(items=items), Prompt(items=items[::-1]), talk),
        replace(talk, turns=[("user", "A."), ("user", [("text", "B."), ("text", "D.")])]),
    ):
        assert kept.embed(prompt_of_items).embeds.equal(kept.embed(prompt_of_items).embeds)
    assert len(made) == 10
    del made[6:]
    for bundle in tmp_path.glob("*.safetensors"):
        bundle.write_bytes(b"damage")
    assert kept.embed(prompt).embeds.equal(first.embeds)
    assert len(made) == 7


def test_a_kept_prompt_is_of_its_model_clip_and_words(
    data: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    omni, made, embed = load("random-omni"), [], HookedOmni.embed
    monkeypatch.setattr(HookedOmni, "embed", lambda self, p: made.append(p) or embed(self, p))
    clip = Path(shutil.copy(data.parent / "0.mp4", tmp_path / "clip.mp4"))
    kept, prompt = KeptPrompts(omni, tmp_path / "kept"), Prompt("What now?", video=clip)
    first = kept.embed(prompt)
    towers: Any = omni.towers
    weight = towers.hf.model.visual.blocks[1].mlp.down_proj.weight
    before = weight.data.clone()
    weight.data[3, 5] += 0.5
    assert not kept.embed(prompt).embeds.equal(first.embeds) and len(made) == 2
    weight.data.copy_(before)
    assert kept.embed(prompt).embeds.equal(first.embeds) and len(made) == 2
    (path, other) = sorted((tmp_path / "kept").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    shutil.copy(other, path)  # a bundle under another's name
    assert kept.embed(prompt).embeds.equal(first.embeds) and len(made) == 3
    sound = clip.read_bytes()
    clip.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    kept.embed(prompt)
    assert len(made) == 4
    kept.processor.chat_template = str(kept.processor.chat_template).replace("assistant", "model")
    assert kept.embed(prompt).n_pos != first.n_pos and len(made) == 5


def test_a_prefilled_case_is_not_used_of_edited_towers(data: Path) -> None:
    omni = load("random-omni")
    case = prefilled(omni, Case(Prompt("What now?", video=data.parent / "0.mp4"), "a"))
    assert embedded(omni, case) is case.prefilled_prompt
    answer = plain_answer(omni, case, embedded(omni, case), 2)
    towers: Any = omni.towers
    towers.hf.model.visual.patch_embed.proj.weight.data[0] += 0.5
    prompt = embedded(omni, case)
    assert prompt is not case.prefilled_prompt
    assert prompt.embeds.equal(omni.embed(case.prompt).embeds)  # pyright: ignore
    assert plain_answer(omni, case, prompt, 2) is not answer


def test_a_clip_that_is_replaced_during_a_run_is_noticed(
    omni: HookedOmni, data: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    clip, compute = Path(shutil.copy(data.parent / "0.mp4", tmp_path / "a.mp4")), captions.run

    def replacing(*args: Any) -> Any:
        shutil.copy(data.parent / "1.mp4", clip)
        return compute(*args)

    monkeypatch.setattr(captions, "run", replacing)
    case = Case(Prompt("What now?", video=clip), "a")
    with pytest.raises(ResultsError, match="expected a table of this run"):
        execute(Run("captions", captions.Config(max_new_tokens=2), omni, [case]), tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()
