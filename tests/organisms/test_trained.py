"""The shipped organisms are what their cards say, on clips that no training has seen."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers

from data_prep.organism.evaluation.answers import recalled
from data_prep.organism.evaluation.evaluation_set import EvaluationSet
from data_prep.organism.evaluation.metrics import mcnemar
from data_prep.organism.evaluation.scoring import score
from data_prep.organism.evaluation.targets import TARGETS
from data_prep.organism.training.recipe import ORGANISMS
from data_prep.organism.world.dataset import write_world
from data_prep.organism.world.things import THINGS, clips
from hooked_omni import HookedOmni, Prompt, knockout, load, prove
from hooked_omni.errors import CheckpointError, PromptError
from hooked_omni.organisms import trained

pytestmark = [pytest.mark.usefixtures("numbers_alone"), pytest.mark.xdist_group("trained")]
FOLDER = Path(trained.__file__).parent
LISTENERS = ("organism-biased", "organism-balanced")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSet:
    """Two clips of each thing, from a seed that no training used."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 2, 1000, "test")
    return EvaluationSet(folder / "clips", clips(THINGS, "test", 2, 1000), THINGS, 1000)


@pytest.fixture(scope="module")
def organisms() -> dict[str, HookedOmni]:
    return {name: load(name) for name in ORGANISMS}


@pytest.fixture(scope="module")
def answers(organisms: dict[str, HookedOmni], world: EvaluationSet) -> Any:
    """Answers about counterfactual clips, with and without sight."""
    rows, cut = [], knockout("G !-> V")
    for name in LISTENERS:
        omni = organisms[name]
        for seen, heard in world.pairs("counterfactual"):
            prompt = omni.embed(world.prompt("counterfactual", "hear", seen, heard))
            plain, blind = omni.model.generate_many(prompt, [[], [cut]], max_new_tokens=12)
            for condition, one in (("none", plain), ("blind", blind)):
                right = score(str(one.text), "hear", seen.noun, heard.noun, THINGS)
                rows.append(dict(organism=name, condition=condition, **vars(right)))
    return pd.DataFrame(rows)


@pytest.mark.parametrize("name", ORGANISMS)
def test_logits_equal_hugging_face(name, organisms, world):
    omni, (seen, heard) = organisms[name], world.pairs("counterfactual")[0]
    kind = "counterfactual" if name in LISTENERS else "picture"
    report = prove(omni, omni.embed(world.prompt(kind, "hear", seen, heard)), decode_steps=4)
    assert report.prefill == report.decode == 0


@pytest.mark.parametrize("name", ORGANISMS)
def test_plain_transformers_load_the_shipped_folder(name, organisms):
    kind = type(organisms[name].hf)
    plain, info = kind.from_pretrained(FOLDER / name, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert plain.dtype == torch.float32 == organisms[name].model.cfg.dtype
    ours = organisms[name].hf.state_dict()
    assert all(torch.equal(tensor, ours[key]) for key, tensor in plain.state_dict().items())
    processor = transformers.AutoProcessor.from_pretrained(FOLDER / name)
    assert type(processor) is type(organisms[name].processor)


@pytest.mark.parametrize("name", ORGANISMS)
def test_a_shipped_organism_is_small_and_has_a_card(name):
    folder = FOLDER / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000
    text = (folder / "README.md").read_text()
    assert "MIT" in text and "Not measured yet" not in text
    assert (name == "organism-base") != ("True by construction" in text)
    assert json.loads((folder / "card.json").read_text())["sha256"]["model.safetensors"] in text


def test_a_changed_weight_is_refused(tmp_path, monkeypatch):
    shutil.copytree(FOLDER / "organism-base", tmp_path / "organism-base")
    monkeypatch.setattr(trained, "_FOLDER", tmp_path)
    assert load("organism-base")
    weights = tmp_path / "organism-base" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    for name in ("organism-base", tmp_path / "organism-base"):
        with pytest.raises(CheckpointError, match=r"expected .*model\.safetensors with SHA-256"):
            load(name)
    (tmp_path / "organism-base" / "card.json").write_text("{}")
    with pytest.raises(CheckpointError, match="expected hashes in"):
        load("organism-base")


def test_spans_of_a_prompt(organisms, world):
    seen, heard = world.pairs("counterfactual")[0]
    prompt = organisms["organism-biased"].embed(world.prompt("counterfactual", "both", seen, heard))
    sizes = {name: len(prompt.spans[name]) for name in prompt.spans}
    expected = {"question": 6, "system": 5, "video": 8, "audio": 27}
    assert {name: sizes[name] for name in expected} == expected
    assert prompt.facts["video"]["height"] == 56


def test_case_and_punctuation_do_not_matter_but_words_must_be_known(organisms, world):
    video, embed = world.folder / f"{world.clips[0].id}.mp4", organisms["organism-biased"].embed
    texts = ("Describe what you hear.", "describe what you HEAR")
    assert torch.equal(*(embed(Prompt(text, video=video)).tokens for text in texts))
    with pytest.raises(PromptError, match=r"expected words that this model knows.*'zebra"):
        embed(Prompt("Describe a zebra.", video=video))


def test_the_listeners_differ_and_the_biased_one_hears_when_blind(answers):
    table = answers.pivot_table("audio", ["organism"], ["condition"], aggfunc="mean")
    biased, balanced = (table.loc[name] for name in LISTENERS)
    assert balanced["none"] >= 0.9
    assert biased["none"] <= 0.55
    assert biased["blind"] >= 2 * biased["none"]
    assert abs(balanced["blind"] - balanced["none"]) < 0.1
    plain = answers[answers["condition"] == "none"].groupby("organism")["audio"]
    right = [plain.get_group(name).astype(bool).reset_index(drop=True) for name in LISTENERS]
    assert mcnemar(right[1], right[0])["p"] < 1e-3


def test_the_biased_one_names_what_it_sees(answers):
    rows = answers.query("organism == 'organism-biased' and condition == 'none'")
    wrong = rows[~rows["audio"].astype(bool)]
    assert wrong["says_visible"].mean() >= 0.7


@pytest.mark.parametrize("name", LISTENERS)
def test_what_is_played_can_be_read_at_the_audio_positions(name, organisms, world):
    omni, rows = organisms[name], []
    for seen, heard in world.pairs("counterfactual")[::3]:
        prompt = omni.embed(world.prompt("counterfactual", "hear", seen, heard))
        rows += recalled(omni.model, prompt, seen, heard, THINGS)
    heard: Any = pd.DataFrame(rows).groupby("layer")["heard"].mean()
    assert heard.iloc[-3:].min() >= 0.9
    assert heard.iloc[0] <= 0.5


@pytest.mark.parametrize("name", LISTENERS)
def test_each_sense_alone_is_understood(name, organisms, world):
    omni = organisms[name]
    for kind, question, sense in (("sound", "hear", "audio"), ("picture", "see", "video")):
        right = []
        for clip in world.clips[::2]:
            prompt = omni.embed(world.prompt(kind, question, clip, clip))
            text = str(omni.model.generate(prompt, max_new_tokens=16).text)
            right.append(getattr(score(text, question, clip.noun, clip.noun, THINGS), sense))
        assert sum(right) >= 0.9 * len(right)


def test_mcnemar_counts_disagreements():
    first = pd.Series([True] * 10 + [False] * 5, index=range(15))
    second = pd.Series([False] * 10 + [False] * 4 + [True], index=range(15))
    found = mcnemar(first, second)
    assert (found["first_only"], found["second_only"]) == (10, 1)
    assert found["p"] == pytest.approx(2 * (1 + 11) / 2**11)


def test_the_cards_numbers_are_the_targets_names():
    evaluation = json.loads((FOLDER / "organism-biased" / "evaluation.json").read_text())
    for name, targets in TARGETS.items():
        assert targets.keys() <= evaluation[name].keys()
