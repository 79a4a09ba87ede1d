"""Do the analyses tell the two organisms apart, and blame the layers that hold the difference?

40 clips whose sound is another thing's. Every test is a permutation test over clips, corrected over
the layers or windows that it looks at. In 20 draws of 30 of 36 such clips, knockouts and shift gave
p = 0.0001, the least that 10 000 permutations can give, each time: 40 leave room.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pandas as pd
import pytest
import torch

from analyses import attention_share, captions, distribution_shift, knockout, logit_lens
from analyses.cases import Case, prefilled, read_cases
from analyses.knockout.figure import measured
from analyses.logit_lens.recall import recall
from analyses.plots.curves import paired_permutation
from data_prep.organism.evaluation.scoring import score
from data_prep.organism.world.dataset import write_world
from data_prep.organism.world.things import THINGS
from hooked_omni import HookedOmni, load

pytestmark = pytest.mark.xdist_group("science")  # what all share is made once

N, N_TRANSPLANTED = 40, 20
NAMES = ("organism-biased", "organism-balanced")
CONFIGS: dict[Any, Any] = {
    captions: captions.Config(max_new_tokens=16),
    attention_share: attention_share.Config(max_new_tokens=16, tokens=True),
    logit_lens: logit_lens.Config(lenses=("norm",)),
    knockout: knockout.Config(keys=("video",), width=3, step=1, max_new_tokens=16),
    distribution_shift: distribution_shift.Config(max_new_tokens=16),
}
Tables = dict[str, dict[Any, pd.DataFrame]]


@pytest.fixture(scope="module", autouse=True)
def _unchecked() -> Iterator[None]:
    """No shape checks, four fifths of the time here: tests of each analysis have them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder: Path = tmp_path_factory.mktemp("world")
    write_world(folder, 4, 3, "test")
    return read_cases(folder / "pairs.jsonl", ("hear",), ("counterfactual",))[:N]


@pytest.fixture(scope="module")
def omnis() -> dict[str, HookedOmni]:
    return {name: load(name) for name in NAMES}


@pytest.fixture(scope="module")
def tables(cases: list[Case], omnis: dict[str, HookedOmni]) -> Tables:
    base, made = load("organism-base"), {}
    for name, omni in omnis.items():
        parts: dict[Any, list[pd.DataFrame]] = {module: [] for module in CONFIGS}
        for case in cases:
            case = prefilled(omni, case)
            for module, config in CONFIGS.items():
                more = {"base": base} if module is distribution_shift else {}
                parts[module].append(module.run(omni, [case], config, **more))
        made[name] = {module: pd.concat(each, ignore_index=True) for module, each in parts.items()}
    return made


def to_the_picture(shares: Any) -> Any:
    """The video's share at the word that names the sound, by layer."""
    naming = shares["next_word"].isin([thing.noun for thing in THINGS])
    rows = shares[naming & (shares["segment"] == "video")]
    return rows.drop_duplicates(subset=["sample", "layer"]).assign(value=rows["share"])


def heard_again(table: Any) -> Any:
    """What cutting the video returns to the heard words, by window."""
    cut: Any = measured(table).query("key == 'video'")
    return cut.assign(value=cut["word_change"])


def as_the_base(shifts: Any) -> Any:
    """The share of naming tokens that the base would choose too."""
    events = shifts[shifts["events"].str.len() > 0]
    same = events.assign(value=events["base_rank"] == 1)
    return same.groupby("sample", as_index=False)["value"].mean().assign(all="")


@pytest.mark.parametrize(
    ("module", "value_of", "by"),
    [
        (attention_share, to_the_picture, ["layer"]),
        (knockout, heard_again, ["first_layer", "last_layer"]),
        (distribution_shift, as_the_base, ["all"]),
    ],
    ids=["attention_share", "knockout", "distribution_shift"],
)
def test_the_biased_one_has_more(tables: Tables, module: Any, value_of: Any, by: Any) -> None:
    biased, balanced = (value_of(tables[name][module]) for name in NAMES)
    tested: Any = paired_permutation(biased, balanced, "value", by=by)
    assert tested["n"].min() >= 0.8 * N
    most = tested.loc[tested["p_corrected"].idxmin()]
    assert most["p_corrected"] < 0.001 and most["difference"] > 0


def test_the_lens_finds_the_sound_in_both(tables: Tables, omnis: dict[str, HookedOmni]) -> None:
    for name in NAMES:
        found: Any = recall(tables[name][logit_lens])
        last = found[found["layer"] >= 2 * omnis[name].model.cfg.n_layers / 3]
        assert last["recall"].mean() >= 90


def test_the_layers_that_knockout_blames_hold_the_difference(
    tables: Tables, cases: list[Case], omnis: dict[str, HookedOmni]
) -> None:
    """Blocks of the balanced model, put into the biased one, cure it where knockout points.

    Both were trained from the same weights, so that training has put the difference there.
    """
    biased, balanced = (omnis[name] for name in NAMES)
    n_layers = biased.model.cfg.n_layers
    blamed = heard_again(tables[NAMES[0]][knockout]).groupby("first_layer")["value"].mean()
    few = cases[:N_TRANSPLANTED]
    prompts = [biased.embed(case.prompt) for case in few]  # pyright: ignore[reportArgumentType]  # of a manifest
    cured = {
        first: _right_with(biased, balanced, range(first, first + 3), few, prompts)
        for first in range(0, n_layers - 2)
    }
    best = int(blamed.idxmax())
    assert abs(best - max(cured, key=lambda first: cured[first])) <= 2
    assert cured[best] > cured[0]


@torch.no_grad()
def _right_with(
    biased: HookedOmni, balanced: HookedOmni, layers: range, cases: list[Case], prompts: list[Any]
) -> float:
    own, other = (dict(omni.model.named_parameters()) for omni in (biased, balanced))
    names = [name for name in own if any(name.startswith(f"blocks.{n}.") for n in layers)]
    kept = {name: own[name].clone() for name in names}
    try:
        for name in names:
            own[name].copy_(other[name])
        texts = [str(biased.model.generate(prompt, max_new_tokens=16).text) for prompt in prompts]
    finally:
        for name in names:
            own[name].copy_(kept[name])
    heard = [next(t.noun for t in THINGS if t.noun in c.audio_captions[0].split()) for c in cases]
    pairs = zip(texts, heard, strict=True)
    return sum(bool(score(t, "hear", "", h, THINGS).audio) for t, h in pairs) / len(cases)
