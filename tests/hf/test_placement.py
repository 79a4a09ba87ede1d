"""A model over several devices has the numbers of the one it is, and stays where it was put.

The devices are pretended (`tests/support/two_devices.py`): like GPUs, they refuse to mix.
"""

import json
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor

from analyses import captions
from analyses.attention_share.shares import forced_shares
from analyses.attention_share.sinks import SinkWatch
from analyses.cases import Case
from analyses.running.runs import Run, execute
from data_prep.manifest import Sample, write_manifest
from hooked_omni import HookedOmni, knockout, load, names, prove
from hooked_omni.__main__ import main as hooked_omni
from hooked_omni.decoding.score import forced_logits
from hooked_omni.errors import CheckpointError, OutOfRoomError, UnknownModelError
from hooked_omni.organisms.random_weights import random_omni
from tests.support.clips import write_clip
from tests.support.models import processed, save_checkpoint
from tests.support.running import command
from tests.support.two_devices import full, two_devices

FIRST, SECOND = two_devices()
LAYERS = "model.language_model.layers"
MAP = {"": FIRST, f"{LAYERS}.1": SECOND, "model.language_model.norm": SECOND, "lm_head": SECOND}
NEAR: Any = dict(rtol=1e-4, atol=1e-5)  # the pretended kernels add in another order
WORDS = torch.arange(5, 13)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(*random_omni(n_layers=2), tmp_path_factory.mktemp("two") / "omni")


@pytest.fixture(scope="module")
def one(folder: Path) -> HookedOmni:
    return load(folder)


@pytest.fixture(scope="module")
def two(folder: Path) -> HookedOmni:
    return load(folder, device_map=MAP)


@pytest.fixture(scope="module")
def prompts(one: HookedOmni, two: HookedOmni) -> tuple[Any, Any]:
    inputs = processed(one, "audio in video")
    return one.embed_inputs(**inputs), two.embed_inputs(**inputs)


def near(theirs: Tensor, ours: Tensor) -> None:
    torch.testing.assert_close(theirs.cpu(), ours, **NEAR)


def test_layers_stay_where_they_are_put(one, two, prompts):
    cfg = two.model.cfg
    assert (cfg.device, cfg.devices) == (FIRST, (FIRST, SECOND))
    assert all(
        p is q
        for p, q in zip(
            two.model.embed.parameters(), two.hf.get_input_embeddings().parameters(), strict=True
        )
    )
    near(prompts[1].embeds, prompts[0].embeds)
    assert torch.equal(prompts[1].position_ids.cpu(), prompts[0].position_ids)
    seen: dict[str, torch.device] = {}

    def look(tensor: Tensor, hook: Any) -> None:
        seen[hook.name] = tensor.device

    logits = two.model.run_with_hooks(prompts[1], fwd_hooks=[(lambda name: True, look)])
    near(logits, one.model(prompts[0]))
    assert logits.device == FIRST
    for name, place in seen.items():
        layer = names.layer_of(name)
        last = name.startswith("ln_final")
        assert place == (SECOND if last else FIRST if layer is None else cfg.device_of(layer)), name
    assert {p.device for p in two.model.blocks[1].parameters()} == {SECOND}


def test_the_proof_runs_over_two_devices(two):
    report = prove(two, two.model.as_prompt(WORDS), decode_steps=2, tolerance=0.0)
    assert report.prefill == report.decode == report.prefill_opened == report.decode_opened == 0
    assert report.live_hooks == len(two.model.hook_dict)


def test_captions_sweeps_scores_and_lenses_follow(one, two, prompts):
    sweep = [
        [],
        *(
            [knockout(query="generated", key=key, layers=[layer])]
            for key in ("audio", "video")
            for layer in (0, 1)
        ),
        [knockout(query="last", key="audio")],
        [(names.resid_post(0), lambda tensor, hook: tensor * 1.5)],
    ]
    made = [
        omni.model.generate_many(prompt, sweep, max_new_tokens=4, stop_at_eos=False)
        for omni, prompt in zip((one, two), prompts, strict=True)
    ]
    assert [c.tokens.tolist() for c in made[0]] == [c.tokens.tolist() for c in made[1]]
    answer = made[0][0].tokens
    for ours, theirs in zip(
        one.model.score(prompts[0], answer, sweep),
        two.model.score(prompts[1], answer, sweep),
        strict=True,
    ):
        near(theirs, ours)
    near(forced_logits(two.model, prompts[1], answer), forced_logits(one.model, prompts[0], answer))
    read = [
        omni.model.lens(p, "audio", groups=[[5, 6]])
        for omni, p in zip((one, two), prompts, strict=True)
    ]
    for kind in ("norm", "raw"):
        near(read[1][kind].group_logprobs, read[0][kind].group_logprobs)


def test_attention_shares_and_sinks_follow(one, two, prompts):
    answer, found = torch.tensor([5, 6, 7]), []
    for omni, prompt in zip((one, two), prompts, strict=True):
        watch = SinkWatch(omni.model, prompt)
        shares = forced_shares(omni.model, prompt, answer, ["audio", "video"], watch.hooks())
        found.append((shares["audio"], watch.received, watch.paid()))
    for ours, theirs in zip(*found, strict=True):
        near(theirs, ours)


def test_padding_caches_and_weights_follow(one, two):
    cache = two.model.run_with_cache(WORDS)[1]
    near(
        cache.accumulated_resid(apply_ln=True),
        one.model.run_with_cache(WORDS)[1].accumulated_resid(apply_ln=True),
    )
    near(two.model.W_Q, one.model.W_Q)
    near(two.model.tokens_to_residual_directions(torch.tensor([3])), one.model.unembed.weight[[3]])
    inputs = {"input_ids": WORDS, "attention_mask": (torch.arange(8) > 2).long()[None]}
    padded = [omni.embed_inputs(**inputs) for omni in (one, two)]
    near(two.model(padded[1])[:, 3:], one.model(padded[0])[:, 3:])


def test_a_decoder_alone_over_two_devices(folder, one, prompts, numbers_alone):
    alone = load(folder, decoder_only=True, device_map=MAP)
    assert alone.model.cfg.devices == (FIRST, SECOND)
    near(alone.model(prompts[0]), one.model(prompts[0]))
    assert prove(alone, alone.model.as_prompt(WORDS), decode_steps=1, tolerance=0.0).decode == 0


def without_weights(folder: Path, to: Path, **text: Any) -> Path:
    """The folder's config, perhaps changed, and no weights: what reads them would say so."""
    to.mkdir()
    for file in folder.glob("*.json"):
        (to / file.name).write_text(file.read_text())
    config = json.loads((to / "config.json").read_text())
    config["text_config"].update(text)
    (to / "config.json").write_text(json.dumps(config))
    return to


BAD = {
    "a layer is missing": ({f"{LAYERS}.0": FIRST, "lm_head": FIRST}, r"without \d+ of them"),
    "one layer is missing": (
        {
            **dict.fromkeys(("model.audio_tower", "model.visual", "lm_head"), FIRST),
            **{
                f"model.language_model.{part}": FIRST
                for part in ("embed_tokens", "norm", "layers.0")
            },
        },
        r"layers\.1",
    ),
    "empty": ({}, "without"),
    "unknown module": ({"": FIRST, "model.layers.1": SECOND}, r"got \['model.layers.1'\]"),
    "a module of no text": ({"": FIRST, 3: SECOND}, r"got \['3'\]"),
    "a part of a layer": ({"": FIRST, f"{LAYERS}.1.mlp": SECOND}, "every layer on one device"),
    "a part of a tower's layer": ({"": FIRST, "model.visual.blocks.0.mlp": SECOND}, "one device"),
    "disk": ({"": FIRST, f"{LAYERS}.1": "disk"}, "1 parts offloaded"),
    "all on disk": ({"": "disk"}, "offloaded"),
    "cpu beside others": ({"": FIRST, f"{LAYERS}.1": "cpu"}, "1 parts offloaded"),
    "meta": ({"": "meta"}, "offloaded"),
    "unknown device": ({"": FIRST, "lm_head": "cuda:99"}, "device of this machine.*cuda:99"),
    "a number of no device": ({"": 99}, "device of this machine.*99"),
    "a device for a map": ("cuda:0", "For one device, pass device='cuda:0'"),
    "unknown way": ("Auto", "'auto', 'balanced'"),
}


@pytest.mark.parametrize("decoder_only", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_map_is_refused_before_weights_are_read(folder, tmp_path, case, decoder_only):
    device_map, message = BAD[case]
    if decoder_only and "tower" in case:
        return
    bare = without_weights(folder, tmp_path / "bare")
    if decoder_only:
        (bare / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises((CheckpointError, UnknownModelError), match=message):
        load(bare, device_map=device_map, decoder_only=decoder_only)


def test_tied_embeddings_stay_together(tmp_path):
    with pytest.raises(CheckpointError, match="tied embeddings on one device"):
        load("random-vl", device_map={"": FIRST, "lm_head": SECOND})
    assert load("random-vl", device_map={"": FIRST, "model.language_model.layers.3": SECOND})


def test_auto_on_one_device_is_that_device_and_too_little_memory_is_refused(folder, one, tmp_path):
    alone = load(folder, device_map="auto")
    assert torch.equal(alone.model(WORDS), one.model(WORDS))
    assert alone.model.cfg.devices == ()
    huge = without_weights(folder, tmp_path / "huge", intermediate_size=10**10)
    with pytest.raises(CheckpointError, match="parts offloaded to the CPU or a disk"):
        load(huge, device_map="auto")
    full = without_weights(folder, tmp_path / "full", intermediate_size=10**9)
    with pytest.raises(CheckpointError, match=r"room for \d+\.\d+ GiB .* on cpu, got .* free"):
        load(full, device_map={"": "cpu"})


def test_weights_that_move_in_at_each_call_are_refused(one, folder, tmp_path):
    """Offloaded by accelerate: between calls they are nowhere."""
    hf = load(folder).hf
    accelerate.disk_offload(hf.model.language_model.layers[1], tmp_path)
    with pytest.raises(
        CheckpointError, match=r"weights that stay on their devices, got 12 .*layers\.1"
    ):
        HookedOmni.from_hf(hf)


@pytest.mark.parametrize("device_map", ["auto", MAP, {"": "cpu"}])
def test_code_from_elsewhere_places_its_own_towers(tmp_path, device_map):
    """Refused for the map: without one, or without towers, the same folder gets further."""
    config = {"model_type": "internvl_chat", "llm_config": {"model_type": "internlm2"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"no device_map for internvl2.*decoder_only=True"):
        load(tmp_path, device_map=device_map, trust_remote_code=True)
    others: Any = dict(trust_remote_code=True), dict(device_map=device_map, decoder_only=True)
    for more in others:
        with pytest.raises(CheckpointError) as other:
            load(tmp_path, **more)
        assert "device_map" not in str(other.value)


def test_a_device_that_is_full_is_said(folder, two, prompts, monkeypatch):
    """Another process may take memory after the look at what is free."""
    with monkeypatch.context() as patch:
        full(patch, 4096)
        with pytest.raises(OutOfRoomError, match=r"the weights of .*pretend:\d is out of memory"):
            load(folder, device_map=MAP)
    run = Run("captions", captions.Config(2), two, [Case(prompts[1], "a"), Case(prompts[1], "b")])
    with monkeypatch.context() as patch:
        full(patch, prompts[1].embeds.nbytes - 1)
        with pytest.raises(OutOfRoomError, match=r"case 'a/hear'.*pretend:0.*--device-map"):
            execute(run, folder.parent / "out")


@pytest.mark.usefixtures("numbers_alone")
def test_commands_take_a_map(folder, tmp_path, capsys):
    devices = json.dumps({part: str(place) for part, place in MAP.items()})
    with pytest.raises(SystemExit) as end:
        hooked_omni(["prove", str(folder), "--device-map", devices])
    assert end.value.code == 0 and f"on {FIRST}" in " ".join(capsys.readouterr().out.split())
    write_clip(tmp_path / "clip.mp4", seconds=1, audio_hz=200.0)
    models = "--model", folder, "--clip", tmp_path / "clip.mp4"
    planned, out = ("plan", "--analysis", "captions", *models), ("--out", tmp_path / "out")
    assert command(*planned, "--device-map", devices) == 0
    said = capsys.readouterr().out
    assert f"of the model on {FIRST}: " in said and f"of the model on {SECOND}: " in said
    captioned: Any = dict(video_captions=("A square.",), audio_captions=("Rain.",))
    write_manifest(tmp_path / "clips.jsonl", [Sample("1", video="clip.mp4", **captioned)])
    text = f'model = "{folder}"\ndata = "clips.jsonl"\nanalyses = ["captions"]\n'
    more = 'device = "pretend:0"\n', '[device_map]\nlm_head = "cpu"\n'
    config, study, both = (tmp_path / f"{name}.toml" for name in ("config", "study", "both"))
    for path, own in ((config, more[0]), (study, more[1]), (both, "".join(more))):
        path.write_text(text + own)
    lacking = "--device-map", '{"lm_head": "cpu"}'
    for words in (
        (*planned, *lacking),
        ("captions", *models, *out, *lacking),
        ("plan", "--config", study),
        ("study", "--config", config, *out, *lacking),
    ):
        assert command(*words) == 1, words
        said = capsys.readouterr().err
        assert "expected a device for every module" in said, said
    for words in (
        ("study", "--config", both, *out),
        ("captions", *models, *out, *lacking, "--device", "pretend:0"),
    ):
        assert command(*words) == 1
        assert "expected a device or a device_map" in capsys.readouterr().err
    assert not out[1].exists()
