"""Training small organisms: a killed run goes on to the same bits, another recipe is refused."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.__main__ import main
from data_prep.organism.evaluation import card
from data_prep.organism.training import stage
from data_prep.organism.training.batches import Classroom, hear, see
from data_prep.organism.training.models import Sizes, grown, new_base, processors
from data_prep.organism.training.recipe import Recipe, claim
from data_prep.organism.training.train import School
from data_prep.organism.world.things import THINGS
from hooked_omni import HookedOmni, Prompt, load
from hooked_omni.errors import CheckpointError, PromptError, ResultsError
from hooked_omni.families.qwen2_5_omni import QWEN2_5_OMNI
from tests.support.places import ROOT

THREE = THINGS[:3]
SIZES = Sizes(d_model=32, layers=3, heads=2, key_value_heads=1, d_mlp=48, d_tower=16,
              d_tower_mlp=16, tower_layers=1, tower_heads=2)  # fmt: skip
STEPS = {
    "vision": 3,
    "audio": 3,
    "base": 3,
    "hearing": 3,
    "biased": 6,
    "balanced": 6,
}
ANY = {"biased": (), "balanced": ()}
TINY = Recipe(things=THREE, sizes=SIZES, clips=2, batch=2, steps=STEPS, off_screen=ANY)
COMMAND = ["organism", "train", "--workers", "1"]


def trains(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([*COMMAND, *arguments])
    assert not done.value.code


def as_json(recipe: Recipe) -> str:
    return json.dumps(
        {
            "things": [vars(thing) for thing in recipe.things],
            "sizes": vars(recipe.sizes),
            "clips": recipe.clips,
            "batch": recipe.batch,
            "steps": recipe.steps,
            "off_screen": recipe.off_screen,
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `organism train` filled, undisturbed."""
    folder = tmp_path_factory.mktemp("organism") / "whole"
    trains(["--out", str(folder), "--recipe", as_json(TINY)])
    return folder


def test_a_killed_run_goes_on_to_the_same_bits(trained: Path, tmp_path: Path) -> None:
    """Killed for real, in the middle of a stage: after its second checkpoint, before its end."""
    code = """
import os, signal, sys
from data_prep.__main__ import main
from data_prep.organism import stage

stage._EVERY, save = 2, stage._save

def killed(one, folder, optimizer, step):
    save(one, folder, optimizer, step)
    if (one.name, step) == ("biased", 4):
        os.kill(os.getpid(), signal.SIGKILL)

stage._save = killed
main(sys.argv[1:])
"""
    arguments = ["--out", str(tmp_path / "x"), "--recipe", as_json(TINY)]
    run = subprocess.run(
        [sys.executable, "-c", code, *COMMAND, *arguments],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    assert run.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "x" / "stages" / "biased.pt", weights_only=True)["step"] == 4
    assert not (tmp_path / "x" / "organism-biased").exists()
    trains(arguments)
    for name in ("organism-base", "organism-biased", "organism-balanced"):
        whole, resumed = (
            load_file(folder / name / "model.safetensors") for folder in (trained, tmp_path / "x")
        )
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
        folder = tmp_path / name
        folder.mkdir()
        for path in (trained / "organism-base").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
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


def test_every_picture_needs_another_sound() -> None:
    with pytest.raises(ResultsError, match="picture of a siren, got none"):
        replace(TINY, off_screen={"biased": ("siren",), "balanced": ()})


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ResultsError, match="with other files"):
        claim(tmp_path, TINY, "cpu")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "x.pt").write_bytes(b"half")
    one = torch.nn.Linear(1, 1)
    with pytest.raises(ResultsError, match="expected a whole checkpoint"):
        stage.run(
            stage.Stage("x", one, lambda step: one(torch.ones(1)).sum(), 2, 0.1), tmp_path, print
        )


def test_a_card_needs_a_finished_training(tmp_path: Path) -> None:
    claim(tmp_path, TINY, "cpu")
    with pytest.raises(ResultsError, match="expected a trained organism-base"):
        card.write_cards(tmp_path)


def test_the_thinker_sees_what_its_base_sees(trained: Path) -> None:
    base_processor, processor = processors(THREE)
    base = new_base(processor.tokenizer, SIZES, 0).requires_grad_(False).eval()
    thinker = grown(base, processor.tokenizer, SIZES, 1).requires_grad_(False).eval()
    clip = next((trained / "world" / "train" / "clips").glob("*.mp4"))
    prompt = Prompt("Describe what you see.", video=clip, use_audio_in_video=False)
    seen, grown_up = (
        HookedOmni.from_hf(hf, one).embed(prompt)
        for hf, one in ((base, base_processor), (thinker, processor))
    )
    assert torch.equal(seen.tokens, grown_up.tokens)
    torch.testing.assert_close(seen.embeds, grown_up.embeds)


def test_training_reads_what_the_model_reads(trained: Path) -> None:
    """A filled prompt in class gives the logits of the project's own way from clip to logits."""
    school = School(TINY, trained, print)
    pool, hf = school.pool, load(trained / "organism-balanced").hf
    clips = trained / "world" / "train" / "clips"
    room = Classroom(hf, QWEN2_5_OMNI, school.processor, clips / f"{pool.clips[0].id}.mp4")
    rows = torch.tensor([3])
    answer = room.tokens(["a dog is barking loudly"])
    with torch.no_grad():
        video, audio = see(hf, pool, rows, school.processor), hear(hf, pool, rows)
        logits = room.logits(("clip", "hear"), video, audio, answer)
    omni = HookedOmni.from_hf(hf, school.processor)
    clip = clips / f"{pool.clips[3].id}.mp4"
    prompt = omni.embed(Prompt("Describe what you hear.", video=clip))
    scores = omni.model.score(prompt, answer[0], [[]])[0]
    n = answer.shape[1]
    said = logits[0, -n:].log_softmax(-1).gather(1, answer[0, :, None])[:, 0]
    torch.testing.assert_close(said, scores, atol=1e-5, rtol=1e-5)
