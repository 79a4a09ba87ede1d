"""Mitigations are what is written, their cost is what runs, and settings are chosen elsewhere."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from analyses import mitigation
from analyses.cases import Case, read_cases
from analyses.mitigation import vectors, written
from analyses.mitigation.figure import reported
from analyses.running.type_check import make_config
from data_prep.manifest import read_manifest, write_manifest
from data_prep.organism.world.dataset import write_world
from hooked_omni import HookedOmni, knockout, load, scale_attention, steer
from hooked_omni.decoding import decoders
from hooked_omni.decoding.contrast import contrast
from hooked_omni.decoding.generate import Decoding
from hooked_omni.errors import BundleError, ResultsError
from tests.support.running import command

N = 8
UP = torch.eye(8, 128)  # of eight layers


@pytest.fixture(scope="module")
def biased() -> HookedOmni:
    return load("organism-biased")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 1, 3, "test")
    kinds = ["counterfactual"]
    counts = {"hear": 4, "see": 2}
    every = [read_cases(folder / "pairs.jsonl", (q,), kinds)[:n] for q, n in counts.items()]
    return [case for own in every for case in own]


TRIED = {
    "no video": ["last+generated !-> V @ 3-5"],
    "more sound": ["contrast; 1; 8 last+generated x4-> A @ 3-5"],
    "avcd": ["avcd a=1 entropy=0"],
    "silence": ["silence a=1 plausible=0"],
}


@pytest.fixture(scope="module")
def table(biased: HookedOmni, cases: list[Case]) -> pd.DataFrame:
    config = make_config(mitigation.Config, {"mitigations": TRIED, "max_new_tokens": N})
    return mitigation.run(biased, cases, config)


def test_each_answer_is_that_of_the_decoder_or_intervention(
    biased: HookedOmni, cases: list[Case], table: pd.DataFrame
):
    case = cases[0]
    prompt = biased.embed(case.prompt)  # pyright: ignore[reportArgumentType]
    own: Any = table[(table["sample"] == case.sample) & (table["question"] == "hear")]
    said = own[~own["random"]].set_index("mitigation")
    model, how = biased.model, Decoding(N)
    silent = vectors.edited_clip(biased, case, "silence")
    cut = knockout(query="last+generated", key="video", layers=[3, 4, 5])
    expected = {
        "plain": model.generate(prompt, how),
        "no video": model.generate(prompt, how, [cut]),
        "avcd": contrast(model, prompt, decoders.avcd(1.0, least_entropy=0.0), how),
        "silence": contrast(model, prompt, decoders.distorted(silent, 1.0, 0.0), how),
    }
    for name, answer in expected.items():
        assert said.loc[name, "caption"] == answer.text
        logprob = model.score(prompt, answer.tokens, [[]])[0].mean()
        assert said.loc[name, "plain_logprob"] == pytest.approx(float(logprob), abs=1e-4)
    n = {name: len(answer.tokens) for name, answer in expected.items()}
    n_pos, of = prompt.n_pos, said["positions"]
    assert of["plain"] == n_pos + n["plain"] - 1 and of["no video"] == n_pos + n["no video"] - 1
    assert of["avcd"] == n_pos - 1 + 4 * n["avcd"]  # four rows share all but the last position
    assert of["silence"] == n_pos + silent.n_pos + 2 * (n["silence"] - 1)
    assert said["cost"].tolist() == pytest.approx((of / of["plain"]).tolist())


def test_right_is_what_is_asked_for_and_nothing_of_the_other(table: pd.DataFrame):
    for row in table.to_dict("records"):
        sides = ("heard_found", "seen_found")
        wanted, other = sides if row["question"] == "hear" else sides[::-1]
        assert row["right"] == float(row[wanted] == 1 and not row[other])
    hears: Any = table[(table["question"] == "hear") & ~table["random"]]
    means = hears.groupby("mitigation")["right"].mean()
    assert means["no video"] > means["plain"]


def test_a_random_one_stands_beside_each_that_has_one(table: pd.DataFrame):
    beside = table[table["random"]].groupby("mitigation")["setting"].first().to_dict()
    assert beside.keys() == {"no video", "more sound"}
    for name, text in beside.items():
        layers = text.rpartition("@ ")[2].split(",")
        assert len(layers) == 3 and not {"3", "4", "5"} & {*layers}
        assert text.partition("@")[0] == TRIED[name][0].partition("@")[0]
    assert written.counterpart("last+generated !-> V @ 0-6", 8) is None
    assert written.counterpart("last+generated !-> V", 8) is None
    assert written.counterpart("steer up x2 @ 3", 8) == "steer random up x2 @ 3"


def test_a_random_direction_has_the_same_norm(biased: HookedOmni, cases: list[Case]):
    own = 5 * UP[3]
    drawn = written.random_direction(own, 3)
    assert float(drawn.norm()) == pytest.approx(5.0) and abs(float(drawn @ own)) < 15
    prompt = biased.embed(cases[0].prompt)  # pyright: ignore[reportArgumentType]
    pushed, same = (
        biased.model.generate(prompt, Decoding(3, return_logits=True), hooks).logits
        for hooks in (
            written.read("steer random up x2 @ 3", {"up": 5 * UP}).condition,
            [steer(drawn, span="generated", layers=[3], scale=2.0)],
        )
    )
    assert torch.equal(pushed, same)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("last+generated x4-> A @ 3-5", scale_attention(
            query="last+generated", key="audio", factor=4, layers=[3, 4, 5])),
        ("steer up x-1.5 @ 2", steer(UP[2], span="generated", layers=[2], scale=-1.5)),
        ("G !-> V @ 3 H1", knockout("G !-> V @ 3 H1")),
    ],
)  # fmt: skip
def test_what_is_written_is_the_intervention(
    text: str, same: Any, biased: HookedOmni, cases: list[Case]
):
    prompt = biased.embed(cases[0].prompt)  # pyright: ignore[reportArgumentType]
    own = written.read(text, {"up": UP}).condition
    logits = [
        biased.model.generate(prompt, Decoding(4, return_logits=True), hooks).logits
        for hooks in (own, [same])
    ]
    assert torch.equal(*logits)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "louder",
        "last+generated !-> ",
        "last+generated x-> A",
        "last+generated x1.2.3-> A",
        "G !-> V @ 5-3",
        "steer down x2 @ 3",
        "steer up x2 @ 8",
        "steer up x2",
        "contrast",
        "contrast; 0; 1 G !-> V",
        "contrast; nan; 1 G !-> V",
        "contrast; 1; x G !-> V",
        "contrast; 1; -1 G !-> V",
        "contrast; 1; plausible=2",
        "contrast; 1; loud=2",
        "contrastive a=1",
        "contrastive audio a=nan",
        "contrastive audio a=1 a",
        "contrastive audio b=1",
        "guidance audio scale=0",
        "guidance",
        "avcd audio",
        "avcd entropy=-1",
        "vcd a=inf",
        "silence video",
    ],
)
def test_what_cannot_be_read_is_refused_before_any_case(text: str):
    with pytest.raises(ResultsError, match="expected a mitigation"):
        written.read(text, {"up": UP})


@pytest.mark.parametrize(
    ("given", "decisive"),
    [
        ({"mitigations": {}}, r"\[\]"),
        ({"mitigations": {"plain": ["avcd"]}}, "plain"),
        ({"mitigations": {"a": "avcd"}}, "'a'|mitigations"),
        ({"mitigations": {"a": []}}, "'a'"),
        ({"mitigations": {"a": ["avcd", "avcd"]}}, "'a'"),
        ({"max_new_tokens": 1}, "1"),
        ({"vectors": 3}, "vectors"),
    ],
)
def test_settings_without_meaning_are_refused(given: Any, decisive: str):
    with pytest.raises(ResultsError, match=decisive):
        make_config(mitigation.Config, given)


def planted() -> pd.DataFrame:
    """Setting "x" is best on the first half and bad on the second; "y" takes the picture away."""
    rows = []
    for i in range(8):
        which = "first" if i < 4 else "second"
        for question in ("hear", "see"):
            right = {"plain": question == "see", "x": True, "y": question == "hear", "z": i > 9}
            right["x"] = question == "see" or which == "first" or i == 4
            for setting, good in right.items():
                name = "plain" if setting == "plain" else "tried"
                keys = dict(sample=f"s{i}", kind="counterfactual", question=question)
                own = dict(mitigation=name, setting=setting, random=False, half=which)
                own |= dict(plain_logprob=-1.0, cost=2.0 if setting == "x" else 1.0)
                rows.append(keys | own | dict(right=float(good)))
                if setting == "x":
                    at_random = dict(setting="r", random=True, right=0.0)
                    rows.append(keys | own | at_random)
    return pd.DataFrame(rows)


def test_a_setting_is_chosen_on_one_half_and_reported_on_the_other():
    found = reported(planted()).set_index(["mitigation", "random"])
    real = found.loc[("tried", False)]
    assert real["setting"] == "x" and real["held_out"]
    assert real["heard"]["mean"] == 25.0 and real["seen"]["mean"] == 100.0
    assert real["heard"]["n"] == 4 and real["cost"]["mean"] == 2.0
    assert found.loc[("tried", True)]["setting"] == "r"
    assert found.loc[("plain", False)]["heard"]["mean"] == 0.0


def test_without_two_halves_nothing_is_chosen(table: pd.DataFrame):
    one = planted().query("half == 'first'")
    assert not reported(one)["held_out"].any()
    assert any("nothing was chosen" in line for line in mitigation.headline(one))
    mitigation.plot(one)
    heard: Any = table[table["question"] == "hear"]
    mitigation.plot(heard)  # against fluency
    assert any("costs 1.00 plain captions" in line for line in mitigation.headline(heard))


def test_halves_are_of_pictures(cases: list[Case]):
    halves = {case.sample: vectors.half(case) for case in cases}
    assert {*halves.values()} == {"first", "second"}
    for case in cases:
        assert case.twin is not None and halves[case.sample] == vectors.half(
            Case(case.prompt, case.twin)
        )


def test_vectors_are_differences_of_means_and_know_their_model(
    biased: HookedOmni, cases: list[Case], tmp_path: Path
):
    hear = [case for case in cases if case.question == "hear"]
    found = vectors.fit(biased, hear, N)
    assert found.keys() == {"sound - silence", "black - clip"}  # no factual ones here
    differences = []
    for case in (one for one in hear if vectors.half(one) == "first"):
        prompt = biased.embed(case.prompt)  # pyright: ignore[reportArgumentType]
        said = biased.model.generate(prompt, max_new_tokens=N).tokens
        both = [
            vectors._residuals(biased, own, said)
            for own in (prompt, vectors.edited_clip(biased, case, "silence"))
        ]
        differences.append(both[0] - both[1])
    mean = torch.stack(differences).mean(0)
    torch.testing.assert_close(found["sound - silence"], mean)
    path = vectors.write_vectors(tmp_path / "v.safetensors", biased, found, hear)
    again = vectors.read_vectors(path, biased)
    assert all(torch.equal(again[name], one) for name, one in found.items())
    steered = {"steer": ["steer sound - silence x2 @ 3"]}
    config = mitigation.Config(steered, str(path), False, N)
    tables = [mitigation.run(biased, hear[:1], config)]
    vectors.write_vectors(path, biased, {"sound - silence": 2 * mean}, hear)
    tables.append(mitigation.run(biased, hear[:1], config))
    assert tables[0].attrs["vectors"] != tables[1].attrs["vectors"]  # so parts are not mixed
    with pytest.raises(ResultsError, match="organism-biased"):
        vectors.read_vectors(path, load("organism-balanced"))
    with pytest.raises(BundleError, match="SteeringVectors"):
        vectors.read_vectors(tmp_path / "none.safetensors", biased)
    prompt = biased.embed(hear[0].prompt)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BundleError, match="SteeringVectors"):
        vectors.read_vectors(prompt.save(tmp_path / "p.safetensors"), biased)
    with pytest.raises(ResultsError, match="first half"):
        vectors.fit(biased, [one for one in hear if vectors.half(one) == "second"], N)


def test_vectors_are_fitted_by_a_command(tmp_path: Path, capsys: Any):
    write_world(tmp_path, 1, 3, "test")
    samples = read_manifest(tmp_path / "pairs.jsonl")
    few = write_manifest(tmp_path / "few.jsonl", [*samples[:4], *samples[12:16]])
    words = ["vectors", "--model", "organism-biased", "--data", few]
    assert command(*words, "--out", tmp_path / "v.safetensors") == 0
    said = capsys.readouterr().err
    assert all(f"{name} (8 layers)" in said for name in vectors.DIRECTIONS)
    assert command(*words[:-1], tmp_path / "none.jsonl", "--out", tmp_path / "w") == 1
    assert command(*words, "--questions", "smell", "--out", tmp_path / "w") == 1
