"""A plan knows positions, memory and work before a weight is read."""

from pathlib import Path
from typing import Any

import pytest

from analyses.captions import Config as CaptionsConfig
from analyses.cases import Case
from analyses.knockout import Config as KnockoutConfig
from analyses.logit_lens import Config as LensConfig
from analyses.running.request import ModelOptions
from analyses.study.config import STAGES, read_study
from analyses.study.plan import plan
from analyses.study.run import study_cases
from benchmarks.plan import rows
from data_prep.manifest import Sample, write_manifest
from hooked_omni import Prompt, load
from hooked_omni.errors import CheckpointError, ResultsError, UnknownModelError
from hooked_omni.hf.loading import unloaded
from hooked_omni.hf.tower_memory import tower_bytes
from hooked_omni.organisms import SHIPPED
from tests.support.clips import write_clip
from tests.support.models import save_checkpoint
from tests.support.running import command

SEES = ("vl", "internvl", "video-llama3", "llava-onevision")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A turned clip with sound."""
    path = tmp_path_factory.mktemp("clips") / "a.mp4"
    return write_clip(path, seconds=3.3, fps=12.5, width=240, height=136, turns=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights are gone."""
    path = tmp_path_factory.mktemp("models") / "omni"
    save_checkpoint(*SHIPPED["random-omni"](), path)
    for weights in path.glob("*.safetensors"):
        weights.unlink()
    return path


@pytest.mark.parametrize("name", ["omni", "omni3", "audio", "phi4", *SEES])
def test_positions_are_those_that_the_towers_make(clip: Path, name: str) -> None:
    towers = load(f"random-{name}").towers
    assert towers is not None
    if towers.family.sees:
        prompt = Prompt("What now?", video=clip, use_audio_in_video=towers.family.hears)
    else:
        prompt = Prompt("What now?", audio=clip)
    counted, made = towers.count_positions(prompt), towers.embed(prompt)
    for kind in ("audio", "video"):
        found = len(made.spans[kind]) if kind in made.spans else 0
        # The header of a sound leaves out how its last packet is filled up.
        assert 0 <= found - counted.get(kind, 0) <= (2 if kind == "audio" else 0)
    sounds = len(made.spans["audio"]) - counted["audio"] if "audio" in made.spans else 0
    assert counted["prompt"] == made.n_pos - sounds


def test_a_plan_needs_no_weights(clip: Path, folder: Path) -> None:
    case, silent = (
        Case(Prompt("What?", video=clip), "a"),
        Case(Prompt("What?", clip, None, False), "b"),
    )
    gone = Case(Prompt("What?", video=clip.with_name("gone.mp4")), "c")
    cases = [case, silent, gone]
    stages = {
        "captions": CaptionsConfig(20),
        "logit_lens": LensConfig(),
        "knockout": KnockoutConfig(),
    }
    table: Any = plan({k: (c, cases) for k, c in stages.items()}, ModelOptions(str(folder)))
    found = table.set_index("stage")
    assert found["n_cases"].to_dict() == {"pass": 2, "answer": 2, "logit_lens": 1, "knockout": 1}
    assert len(table.attrs["skipped"]) == 1 and "gone.mp4" in str(table.attrs["skipped"])
    hf = SHIPPED["random-omni"]()[0]
    assert table.attrs["weights"] == sum(p.nbytes for p in hf.parameters())
    both = [found["captions"].to_dict()[stage] for stage in ("pass", "answer")]
    assert sum(both) == pytest.approx(2.0)  # a plain caption of each case
    half = plan(
        {"captions": (stages["captions"], cases)}, ModelOptions(str(folder), dtype="bfloat16")
    )
    assert half.attrs["weights"] * 2 == table.attrs["weights"]
    with pytest.raises(ResultsError, match=r"expected a clip that can be read, got .*gone.mp4"):
        plan({"captions": (CaptionsConfig(), [gone])}, ModelOptions(str(folder)))


def test_a_lens_costs_by_the_span_it_reads(clip: Path, folder: Path) -> None:
    """Only the streams at audio are kept; others take a pass of their own."""
    case = Case(Prompt("What?", video=clip), "a")
    captions, n_bytes = dict[str, float](), dict[str, int]()
    for span in ("audio", "audio@0-1s", "video", "audio+video", "last"):
        stages = {"logit_lens": (LensConfig(span=span), [case])}
        made: Any = plan(stages, ModelOptions(str(folder)))
        row = made.set_index("stage").loc["logit_lens"]
        captions[span], n_bytes[span] = row["captions"], row["n_bytes"]
    assert captions["audio"] == captions["audio@0-1s"] < 0.5
    assert captions["audio+video"] > captions["video"] > 0.9 and captions["last"] > 0.9
    assert n_bytes["video"] > n_bytes["audio"]


@pytest.mark.parametrize("name", ["omni", "omni3", "qwen2-vl", "vl", "vl3"])
def test_what_towers_take_grows_with_the_clip(clip: Path, tmp_path: Path, name: str) -> None:
    """Of media and activations, without weights; `benchmarks.plan --towers` measures it."""
    longer = write_clip(tmp_path / "b.mp4", seconds=6.6, fps=12.5, width=240, height=136, turns=1)
    towers, found = unloaded(f"random-{name}"), list[int]()
    for path in (clip, longer):
        prompt = Prompt("What now?", video=path, use_audio_in_video=towers.family.hears)
        inputs = towers.header_inputs(prompt)
        n_bytes = tower_bytes(towers, inputs)
        assert n_bytes and n_bytes > sum(v.nbytes for v in inputs.values() if hasattr(v, "nbytes"))
        # A sound is filled up to the longest there is.
        found.append(n_bytes - (inputs["input_features"].nbytes if towers.family.hears else 0))
    assert 1.3 < found[1] / found[0] < 2.5


def test_towers_whose_code_reads_numbers_are_not_planned(clip: Path) -> None:
    towers = unloaded("random-phi4")
    assert tower_bytes(towers, towers.header_inputs(Prompt("What?", video=clip))) is None


def test_a_study_is_planned_with_its_base(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    samples = [Sample(name, "factual", video="a.mp4") for name in ("a", "b")]
    write_manifest(tmp_path / "pairs.jsonl", samples)
    lines = ['model = "random-omni"', 'base = "random-vl"', 'data = "pairs.jsonl"']
    lines += [f"analyses = {[*STAGES, 'modality_reliance']}", "max_new_tokens = 20"]
    (tmp_path / "study.toml").write_text("\n".join(lines).replace("'", '"'))
    study = read_study(tmp_path / "study.toml")
    stages = {name: (study.config(name), study_cases(study, name)) for name in study.analyses}
    found = plan(stages, study.models()).set_index("stage")
    n_cases = {"pass": 6, "attention_share": 2, "knockout": 4, "distribution_shift": 2}
    assert {name: found["n_cases"].to_dict()[name] for name in n_cases} == n_cases
    captions = found["captions"].to_dict()
    # The pass of the base, and those of two variants, are most of what these do.
    assert 0.3 < captions["distribution_shift"] / 2 < 1.2
    assert 0.5 < captions["modality_reliance"] / (2 * 2) < 1.2


def test_memory_is_what_is_measured() -> None:
    """Within 20 % at every stage; `python -m benchmarks.plan` has larger shapes."""
    measured = rows("small")
    assert len(measured) == 8
    wrong = {stage: (real, ours) for stage, real, ours in measured if abs(ours / real - 1) > 0.2}
    assert not wrong
    assert max(real for _, real, _ in measured) > 250 * 2**20


@pytest.mark.usefixtures("as_installed")
def test_a_plan_for_an_unknown_model_is_refused(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--analysis", "captions", "--clip", str(clip)]
    assert command("plan", *start, "--model", "no/such/model") != 0
    assert "expected a hub name, a folder with a config.json, or one of" in _said(capsys)
    for kind, reason in {"bert": "expected a model of type", "mamba": "hooked exactly"}.items():
        (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
        assert command("plan", *start, "--model", str(tmp_path)) != 0
        assert reason in _said(capsys)
        with pytest.raises(UnknownModelError, match=kind):
            unloaded(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "minicpmo", "version": "4.5"}')
    with pytest.raises(CheckpointError, match="its own code makes its positions"):
        unloaded(str(tmp_path))


def test_a_plan_is_printed(clip: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: Any = ["--analysis", "knockout", "--model", str(folder), "--clip", str(clip)]
    assert command("plan", *given, "--settings", '{"max_new_tokens": 8}') == 0
    said = _said(capsys)
    for text in (
        "weights:",
        "float32",
        "knockout",
        "positions",
        "plain captions",
        "towers, at least",
    ):
        assert text in said
    assert command("plan", *given, "--config", "study.toml") == 2
    assert command("plan", "--analysis", "distribution_shift", *given[2:]) == 2
    assert command("plan", "--analysis", "knockouts", *given[2:]) == 2


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    out = capsys.readouterr()
    return " ".join((out.out + out.err).split())
