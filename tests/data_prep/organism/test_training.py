"""Training small organisms: a killed run goes on to the same bits, another recipe is refused."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data_prep.__main__ import main
from data_prep.organism.evaluation import answers, card
from data_prep.organism.evaluation.targets import TARGETS
from data_prep.organism.training import stage
from data_prep.organism.training.models import new_base, processors, thinker_from
from data_prep.organism.training.organisms import Training
from data_prep.organism.training.prompts import TrainingPrompts, audio_features, video_features
from data_prep.organism.training.recipe import ORGANISMS, Sizes, TrainingRecipe, claim
from data_prep.organism.world.things import THINGS
from hooked_omni import HookedOmni, Prompt, load
from hooked_omni.decoding.score import forced_logits
from hooked_omni.errors import CheckpointError, PromptError, ResultsError
from hooked_omni.families.omni.qwen2_5_omni import QWEN2_5_OMNI

THREE = THINGS[:3]
SIZES = Sizes(d_model=32, layers=3, heads=2, key_value_heads=1, d_mlp=48, d_tower=16,
              d_tower_mlp=16, tower_layers=1, tower_heads=2)  # fmt: skip
STEPS = dict(vision=2, audio=2, base=2, hearing=2, biased=6, balanced=6)
ANY = {"biased": (), "balanced": ()}
TINY = TrainingRecipe(things=THREE, sizes=SIZES, clips=2, batch=2, steps=STEPS, off_screen=ANY)
CHANGED = ("things", "sizes", "clips", "batch", "steps", "off_screen")
RECIPE = json.dumps({name: value for name, value in asdict(TINY).items() if name in CHANGED})
COMMAND = ["organism", "train", "--workers", "1", "--recipe", RECIPE, "--out"]


def exits_well(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert not done.value.code


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `organism train` filled, undisturbed."""
    folder = tmp_path_factory.mktemp("organism") / "whole"
    exits_well([*COMMAND, str(folder)])
    return folder


class Killed(BaseException):
    """Nothing catches it, as nothing would catch a signal."""


def test_a_killed_run_goes_on_to_the_same_bits(trained, tmp_path, monkeypatch):
    """Killed in the middle of a stage: after its second checkpoint, before its end."""
    save = stage._save

    def save_and_die(one: stage.Stage, folder: Path, optimizer: Any, step: int) -> None:
        save(one, folder, optimizer, step)
        if (one.name, step) == ("biased", 4):
            raise Killed

    folder = tmp_path / "x"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(stage, "_EVERY", 2)
        patch.setattr(stage, "_save", save_and_die)
        main([*COMMAND, str(folder)])
    assert torch.load(folder / "stages" / "biased.pt", weights_only=True)["step"] == 4
    assert not (folder / "organism-biased").exists()
    exits_well([*COMMAND, str(folder)])
    for name in ORGANISMS:
        whole, resumed = (load_file(f / name / "model.safetensors") for f in (trained, folder))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), name


def test_a_trained_folder_loads_by_this_project_and_by_transformers(trained: Path) -> None:
    import transformers

    folder = trained / "organism-biased"
    omni = load(folder)
    assert omni.model.cfg.dtype == torch.float32
    plain = transformers.Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder)
    assert plain.dtype == torch.float32
    clip = next((trained / "world" / "train" / "clips").glob("*.mp4"))
    prompt = omni.embed(Prompt("Describe what you SEE and hear!", video=clip))
    assert set(prompt.spans) >= {"question", "system", "markup", "audio", "video"}
    assert len(prompt.spans["question"]) == 6
    with pytest.raises(PromptError, match=r"expected words that this model knows.*zebra"):
        omni.embed(Prompt("Describe the zebra.", video=clip))


def test_a_changed_file_is_refused(trained: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        folder = shutil.copytree(trained / "organism-base", tmp_path / name)
        assert load(folder)
        data = bytearray((folder / name).read_bytes())
        data[-2] ^= 1
        (folder / name).write_bytes(bytes(data))
        with pytest.raises(CheckpointError, match=rf"expected .*{name} with SHA-256"):
            load(folder)


def test_another_recipe_or_version_is_refused_with_the_difference(tmp_path: Path) -> None:
    claim(tmp_path, TINY, "cpu")
    claim(tmp_path, TINY, "cpu")
    with pytest.raises(ResultsError, match=r"recipe\.clips 2 instead of 9"):
        claim(tmp_path, replace(TINY, clips=9), "cpu")
    facts = json.loads((tmp_path / "recipe.json").read_text())
    facts["versions"]["torch"] = "1.0"
    (tmp_path / "recipe.json").write_text(json.dumps(facts))
    with pytest.raises(ResultsError, match=r"versions\.torch '1\.0' instead of"):
        claim(tmp_path, TINY, "cpu")
    (tmp_path / "recipe.json").rename(tmp_path / "thesis.txt")
    with pytest.raises(ResultsError, match="with other files"):
        claim(tmp_path, TINY, "cpu")


def test_every_picture_needs_another_sound() -> None:
    with pytest.raises(ResultsError, match="picture of a siren, got none"):
        replace(TINY, off_screen={"biased": ("siren",), "balanced": ()})


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "x.pt").write_bytes(b"half")
    one = torch.nn.Linear(1, 1)
    damaged = stage.Stage("x", one, lambda step: one(torch.ones(1)).sum(), 2, 0.1)
    with pytest.raises(ResultsError, match="expected a whole checkpoint"):
        stage.run_stage(damaged, tmp_path, print)


def test_a_card_needs_a_finished_training(tmp_path: Path) -> None:
    claim(tmp_path, TINY, "cpu")
    with pytest.raises(ResultsError, match="expected a trained organism-base"):
        card.write_cards(tmp_path)


def test_the_thinker_sees_what_its_base_sees(trained: Path) -> None:
    base_processor, processor = processors(THREE)
    base = new_base(processor.tokenizer, SIZES, 0).requires_grad_(False).eval()
    thinker = thinker_from(base, processor.tokenizer, SIZES, 1).requires_grad_(False).eval()
    clip = next((trained / "world" / "train" / "clips").glob("*.mp4"))
    prompt = Prompt("Describe what you see.", video=clip, use_audio_in_video=False)
    before = HookedOmni.from_hf(base, base_processor).embed(prompt)
    after = HookedOmni.from_hf(thinker, processor).embed(prompt)
    assert torch.equal(before.tokens, after.tokens)
    torch.testing.assert_close(before.embeds, after.embeds)


def test_training_reads_what_the_model_reads(trained: Path) -> None:
    """A filled training prompt gives the logits of the project's own way from clip to logits."""
    training = Training(TINY, trained, print)
    clips, hf = training.clips, load(trained / "organism-balanced").hf
    folder, rows = trained / "world" / "train" / "clips", torch.tensor([3])
    first, clip = (folder / f"{clips.clips[i].id}.mp4" for i in (0, 3))
    prompts = TrainingPrompts(hf, QWEN2_5_OMNI, training.processor, first)
    answer = prompts.answer_tokens(["a dog is barking loudly"])
    with torch.no_grad():
        video = video_features(hf, clips, rows, training.processor)
        audio = audio_features(hf, clips, rows)
        logits = prompts.logits(("clip", "hear"), video, audio, answer)
    omni = HookedOmni.from_hf(hf, training.processor)
    prompt = omni.embed(Prompt("Describe what you hear.", video=clip))
    forced = forced_logits(omni.model, prompt, answer[0])
    torch.testing.assert_close(logits[0, -answer.shape[1] :], forced, atol=1e-5, rtol=1e-5)


def test_an_evaluation_is_written_and_goes_to_the_cards(trained, tmp_path, monkeypatch):
    """These answers may be anything; the numbers are there, and the card holds them."""
    monkeypatch.setattr(answers, "_NEW", 2)
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    exits_well(["organism", "evaluate", "--out", str(folder), "--clips", "1"])
    found = json.loads((folder / "test" / "evaluation.json").read_text())
    assert found["clips of each kind"] == 3
    for name, targets in TARGETS.items():
        assert targets.keys() <= found[name].keys()
        assert "True by construction" in (folder / f"organism-{name}" / "README.md").read_text()
    assert load(folder / "organism-biased")
