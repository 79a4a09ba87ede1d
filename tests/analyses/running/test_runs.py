"""A run comes back after any stop, knows what it is of, and says what it found."""

import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses import attention_share, knockout, modality_reliance
from analyses.__main__ import ANALYSES, main
from analyses.cases import Case
from analyses.running import results, runs
from analyses.running.identity import KeptPrompts, model_facts, sizes_digest
from analyses.running.request import Chosen
from analyses.running.summary import sentences
from analyses.running.type_check import misfit
from data_prep.manifest import Sample, write_manifest
from hooked_omni import HookedOmni, Prompt
from hooked_omni.errors import ResultsError
from tests.support.clips import write_clip
from tests.support.killed import work
from tests.support.places import ROOT

CONFIG = '{"max_new_tokens": 4}'
N_KILLS = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of five clips, one of them deaf, and one that is not there."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(5):
        sound = None if i == 3 else 200.0 * (i + 1)
        write_clip(folder / f"{i}.mp4", seconds=1.0, fps=4, width=56, height=56, audio_hz=sound)
    samples = [
        Sample(f"clip {i}", "factual" if i % 2 else "counterfactual", video=f"{i}.mp4")
        for i in range(5)
    ]
    return write_manifest(folder / "data.jsonl", [*samples, Sample("gone", video="none.mp4")])


def ask(out: Path, data: Path, *more: object, config: str = CONFIG) -> int:
    """The exit code of `python -m analyses attention_share`, run here."""
    return command(*asked(out, data), "--config", config, *more)


def asked(out: Path, data: Path) -> list[str]:
    """Prompts are kept, since embedding clips takes most of the time."""
    kept = data.parent / "prompts"
    options = {"--model": "random-omni", "--data": data, "--out": out, "--prompts": kept}
    return ["attention_share", *(str(word) for option in options.items() for word in option)]


def command(*arguments: object) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    raise AssertionError("expected the command line to exit")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert ask(out, data) == 0
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def table_of(folder: Path) -> pd.DataFrame:
    return results.load(folder)


# --- what a folder holds --------------------------------------------------------------------


def test_a_run_leaves_a_table_figures_and_last_of_all_run_json(finished: Path) -> None:
    names = {"attention_share.parquet", "attention_share.pdf", "attention_share.png", "run.json"}
    times = {name: (finished / name).stat().st_mtime_ns for name in names}
    assert max(times, key=lambda name: times[name]) == "run.json"
    made = json.loads((finished / "run.json").read_text())
    assert made["analysis"] == "attention_share" and made["schema"] == results.SCHEMA
    assert made["config"]["max_new_tokens"] == 4 and made["config"]["sinks"] == "kept"
    facts = made["facts"]
    assert facts["model"]["name"] == "random-omni" and len(facts["model"]["weights"]) == 16
    assert facts["rope"] == "model" and facts["questions"] == ["hear"]
    assert facts["data"][0]["file"] == "data.jsonl" and len(facts["data"][0]["sha256"]) == 64
    assert "last prompt position" in made["G"]
    assert made["n_cases"] == 6 and set(made["skipped"]) == {"clip 3/hear", "gone/hear"}
    assert "no sound" in made["skipped"]["clip 3/hear"] or made["skipped"]["clip 3/hear"]
    assert {"torch", "transformers", "hooked-omni"} <= made["versions"].keys()


def test_the_table_is_that_of_the_analysis_with_its_skipped_cases(
    finished: Path, data: Path
) -> None:
    from analyses.cases import read_cases
    from hooked_omni import load

    config = attention_share.Config(max_new_tokens=4)
    plain = attention_share.run(load("random-omni"), read_cases(data), config)
    found = table_of(finished)
    pd.testing.assert_frame_equal(found, plain)
    for name in ("n_cases", "skipped"):
        assert found.attrs[name] == plain.attrs[name]


def test_the_same_command_again_changes_no_table(copy: Path, data: Path) -> None:
    before = {path.name: path.read_bytes() for path in (copy / "parts").iterdir()}
    table = table_of(copy)
    assert ask(copy, data) == 0
    assert {path.name: path.read_bytes() for path in (copy / "parts").iterdir()} == before
    pd.testing.assert_frame_equal(table_of(copy), table)


# --- stops ----------------------------------------------------------------------------------


def killed_runs(out: Path, n_kills: int, seed: int = 0) -> int:
    """Kill runs at random moments; how many were caught in the middle of their work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed"])

    def start() -> Any:
        process = context.Process(target=work, args=(out,))
        process.start()
        return process

    seconds = 0.0
    for _ in range(2):  # the first one also starts the fork server
        shutil.rmtree(out, ignore_errors=True)
        begun = time.perf_counter()
        start().join()
        seconds = time.perf_counter() - begun
    undisturbed = table_of(out)
    shutil.rmtree(out)
    generator, caught = random.Random(seed), 0
    for _ in range(n_kills):
        if (out / "run.json").exists():
            shutil.rmtree(out)
        process = start()
        time.sleep(generator.uniform(0, seconds))
        process.kill()
        process.join()
        caught += process.exitcode == -9
        if (out / "run.json").exists():
            assert_same(table_of(out), undisturbed)
    process = start()
    process.join()
    assert process.exitcode == 0
    assert_same(table_of(out), undisturbed)
    return caught


def assert_same(table: pd.DataFrame, undisturbed: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(table, undisturbed)
    assert table.attrs == undisturbed.attrs


def test_a_run_killed_at_random_moments_and_repeated_ends_as_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    assert killed_runs(tmp_path / "out", N_KILLS) >= N_KILLS // 2


def test_only_what_is_missing_is_computed(
    copy: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, seen, run = table_of(copy), [], attention_share.run

    def watched(omni: Any, cases: list[Case], config: Any) -> pd.DataFrame:
        seen.append([case.id for case in cases])
        return run(omni, cases, config)

    monkeypatch.setattr(attention_share, "run", watched)
    (copy / "run.json").unlink()
    next((copy / "parts").glob("clip-2-*")).unlink()
    assert ask(copy, data) == 0
    assert seen == [["clip 2/hear"]]
    pd.testing.assert_frame_equal(table_of(copy), table)


def test_an_error_names_the_case_and_keeps_the_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = attention_share.run

    def failing(omni: Any, cases: list[Case], config: Any) -> pd.DataFrame:
        if cases[0].sample == "clip 2":
            raise RuntimeError("out of memory")
        return run(omni, cases, config)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError) as raised:
        patch.setattr(attention_share, "run", failing)
        ask(tmp_path, data)
    assert raised.value.__notes__ == ["This was attention_share of case 'clip 2/hear'."]
    assert len(list((tmp_path / "parts").iterdir())) == 2
    with pytest.raises(ResultsError, match=r"got one without run\.json. Give the same command"):
        results.load(tmp_path)


# --- folders of other runs ------------------------------------------------------------------


def test_a_folder_of_another_config_is_refused_with_the_difference(
    copy: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copy / "run.json").read_bytes()
    assert ask(copy, data, config='{"max_new_tokens": 5}') == 1
    assert "config.max_new_tokens 4 there and 5 asked for" in capsys.readouterr().err
    assert ask(copy, data, "--rope", "paper-scripts") == 1
    assert "facts.rope 'model' there and 'paper-scripts' asked for" in capsys.readouterr().err
    assert (copy / "run.json").read_bytes() == before


def test_an_unfinished_folder_of_another_config_is_refused_too(copy: Path, data: Path) -> None:
    (copy / "run.json").unlink()
    assert ask(copy, data, config='{"max_new_tokens": 5}') == 1
    assert ask(copy, data) == 0


def test_other_data_under_the_same_name_is_refused(
    copy: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "data.jsonl"
    other.write_text(data.read_text().replace("clip 0", "clip 9"))
    assert ask(copy, other) == 1
    assert "facts.data" in capsys.readouterr().err


def test_weights_tell_models_of_one_name_apart(omni: HookedOmni) -> None:
    before = model_facts(omni)
    weight = dict(omni.model.named_parameters())["blocks.1.mlp.down_proj.weight"]
    kept = weight.data.clone()
    weight.data += 1e-3
    changed = model_facts(omni)
    weight.data.copy_(kept)
    assert changed["weights"] != before["weights"]
    assert model_facts(omni) == before


def test_results_of_another_version_are_refused(copy: Path, data: Path) -> None:
    made = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({k: v for k, v in made.items() if k != "schema"}))
    with pytest.raises(ResultsError, match="expected results of schema 2, got none in"):
        results.load(copy)
    (copy / "run.json").write_text(json.dumps({**made, "schema": 0}))
    (copy / "recipe.json").unlink()
    assert ask(copy, data) == 1
    (copy / "run.json").unlink()
    table = pd.read_parquet(copy / "attention_share.parquet")
    table.attrs.pop("schema")
    table.to_parquet(copy / "attention_share.parquet")
    with pytest.raises(ResultsError, match="They are from another version of this project"):
        results.read_table(copy / "attention_share.parquet")


def test_damage_is_seen(copy: Path) -> None:
    whole = (copy / "attention_share.parquet").read_bytes()
    (copy / "attention_share.parquet").write_bytes(whole[:-100])
    with pytest.raises(ResultsError, match="expected a whole table at"):
        results.load(copy)
    results.write_table(
        copy / "attention_share.parquet",
        results.read_table(next((copy / "parts").glob("clip-0*"))),
        "attention_share",
    )
    with pytest.raises(ResultsError, match=r"rows as run\.json says, got"):
        results.load(copy)


def test_two_runs_never_write_to_one_folder(copy: Path, data: Path) -> None:
    with runs._alone(copy):
        assert ask(copy, data) == 1
    assert ask(copy, data) == 0


# --- choosing cases -------------------------------------------------------------------------


def test_shards_put_together_are_the_whole(
    finished: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = [tmp_path / f"shard{i}" for i in (1, 2, 3)]
    for i, shard in enumerate(shards, start=1):
        assert ask(shard, data, "--shard", f"{i}/3") == 0
    whole = tmp_path / "whole"
    assert command("merge", whole, *shards[:2]) == 1
    assert "expected the shards ['1/2', '2/2'], each once" in capsys.readouterr().err
    assert command("merge", whole, shards[2], shards[0], shards[1]) == 0
    assert_same(table_of(whole), table_of(finished))
    made = [json.loads((folder / "run.json").read_text()) for folder in (whole, finished)]
    assert made[0] | {"made": None} == made[1] | {"made": None}
    other = tmp_path / "other"
    assert ask(other, data, "--shard", "2/3", config='{"max_new_tokens": 5}') == 0
    assert command("merge", tmp_path / "mixed", shards[0], other, shards[2]) == 1
    assert "expected shards of one run" in capsys.readouterr().err


def test_a_first_look_can_be_gone_on_with(data: Path, tmp_path: Path, finished: Path) -> None:
    assert ask(tmp_path, data, "--limit", 2) == 0
    assert table_of(tmp_path).attrs["n_cases"] == 2
    assert ask(tmp_path, data) == 0
    assert_same(table_of(tmp_path), table_of(finished))


def test_kinds_and_questions(data: Path, tmp_path: Path) -> None:
    assert ask(tmp_path, data, "--kinds", "counterfactual", "--questions", "see,hear") == 0
    table = table_of(tmp_path)
    assert set(table["kind"]) == {"counterfactual"}
    assert table[["sample", "question"]].drop_duplicates()["question"].tolist() == [
        *["see", "hear"] * 3
    ]


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--kinds", "imaginary"), "expected a sample of kind ('imaginary',)"),
        (
            ("--questions", "smell"),
            "expected questions among ['both', 'hear', 'see'], got ['smell']",
        ),
        (("--shard", "7/7"), "at most 6 shards"),
        (("--shard", "first"), "expected a shard as i/n, such as 1/4, got 'first'"),
        (("--config", '{"tokens": 3}'), "expected tokens like False in the config, got 3"),
        (("--config", '{"token": true}'), "in the config, got ['token']"),
        (("--config", "{"), "expected a config as JSON"),
        (("--ask", "What?"), "expected --clip with --audio and --ask, got --data"),
        (("--rope", "none"), "expected rope 'model' or 'paper-scripts', got 'none'"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: Any, message: str
) -> None:
    out = tmp_path / "out"
    assert ask(out, data, *more) == 1
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()


def test_an_empty_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write_manifest(tmp_path / "empty.jsonl", [])
    assert ask(tmp_path / "out", empty) == 1
    assert "expected a sample of kind any" in capsys.readouterr().err


def test_every_case_skipped(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = write_manifest(tmp_path / "gone.jsonl", [Sample("gone", video="none.mp4")])
    assert ask(tmp_path / "out", gone) == 1
    assert "expected a case that attention_share can be asked of, got 1 that" in (
        said := capsys.readouterr().err
    )
    assert "gone/hear: expected a media file" in said
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_quick_look_at_clips(data: Path, tmp_path: Path) -> None:
    words = ["attention_share", "--model", "random-omni", "--out", tmp_path, "--config", CONFIG]
    clips = ["--clip", data.parent / "0.mp4", "--clip", data.parent / "1.mp4"]
    assert command(*words, *clips, "--ask", "What now?", "--audio", data.parent / "2.mp4") == 0
    table = table_of(tmp_path)
    assert table["sample"].unique().tolist() == [str(data.parent / f"{i}.mp4") for i in (0, 1)]
    assert set(table["question"]) == {"own"}
    made = json.loads((tmp_path / "run.json").read_text())
    assert made["facts"]["questions"] == ["What now?"]
    assert [file["file"] for file in made["facts"]["data"]] == ["0.mp4", "1.mp4", "2.mp4"]
    assert command(*words, "--clip", tmp_path / "none.mp4") == 1


# --- kept prompts ---------------------------------------------------------------------------


def test_prompts_are_embedded_once(
    omni: HookedOmni, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, made, embed = KeptPrompts(omni, tmp_path), [], HookedOmni.embed
    monkeypatch.setattr(HookedOmni, "embed", lambda self, p: made.append(p) or embed(self, p))
    prompt = Prompt("What now?", video=data.parent / "0.mp4")
    first, second = kept.embed(prompt), kept.embed(prompt)
    assert len(made) == 1 and len(list(tmp_path.iterdir())) == 1
    assert first.embeds.equal(second.embeds) and first.facts == second.facts
    others = [
        Prompt("What then?", video=data.parent / "0.mp4"),
        Prompt("What now?", video=data.parent / "1.mp4"),
        Prompt("What now?", video=data.parent / "0.mp4", audio=data.parent / "1.mp4"),
        Prompt("What now?", video=data.parent / "0.mp4", rope="paper-scripts"),
        Prompt("What now?", video=data.parent / "0.mp4", use_audio_in_video=False),
    ]
    for other in others:
        kept.embed(other)
    assert len(made) == 6
    moved = shutil.copy(data.parent / "0.mp4", tmp_path / "moved.mp4")
    kept.embed(Prompt("What now?", video=moved))
    assert len(made) == 6  # the same content
    bundle = next(tmp_path.glob("*.safetensors"))
    for bundle in tmp_path.glob("*.safetensors"):
        bundle.write_bytes(b"damage")
    assert kept.embed(prompt).embeds.equal(first.embeds)
    assert len(made) == 7


def test_kept_prompts_change_no_table(data: Path, tmp_path: Path, finished: Path) -> None:
    for out in ("first", "second"):
        assert ask(tmp_path / out, data) == 0
        assert_same(table_of(tmp_path / out), table_of(finished))


# --- the command line -----------------------------------------------------------------------


def test_without_a_command_the_questions_are_listed_fast() -> None:
    start = time.perf_counter()
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "analyses"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "150"},
    )
    assert time.perf_counter() - start < 5  # 1 s on an idle machine
    heavy = ("torch", "pandas", "transformers", "matplotlib", "numpy")
    assert not [name for name in heavy if f" {name}\n" in shown.stderr]
    for name in ANALYSES:
        assert name in shown.stdout
    assert "Where do the words of an answer look?" in shown.stdout
    assert "--base" in shown.stdout


def test_each_question_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    start = ["--model", "random-omni", "--out", "x"]
    assert command("attention_share", *start) == 2
    assert "expected --data, a manifest, or --clip" in capsys.readouterr().err.replace("\n", " ")
    clip = ["--clip", "x.mp4"]
    assert command("attention_share", *start, *clip, "--base", "random-vl") == 2
    assert command("distribution_shift", *start, *clip) == 2


def test_a_summary_says_the_headlines(
    finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ((title, said),) = sentences([finished]).items()
    assert "attention_share, random-omni, 6 cases, 2 skipped" in title
    assert said == attention_share.headline(table_of(finished))
    assert command("summary", finished) == 0
    shown = capsys.readouterr().out
    assert all(sentence in shown for sentence in said)
    assert "n = 3" in shown and "n = 1" in shown
    assert command("summary", tmp_path) == 1


# --- what would be mixed up ------------------------------------------------------------------


def test_runs_that_mean_different_prompts_by_one_name_are_refused(
    omni: HookedOmni, tmp_path: Path
) -> None:
    config = attention_share.Config(2)
    cases = [Case(Prompt(text, video="a.mp4"), "a") for text in ("What?", "What?", "Who?")]
    every = [runs.Run("attention_share", config, omni, [case]) for case in cases]
    with pytest.raises(ResultsError, match="expected one prompt and its captions for 'a/hear'"):
        runs.carry_out_all({tmp_path / "a": every[0], tmp_path / "b": every[2]})
    assert not any(tmp_path.iterdir())
    with pytest.raises(ResultsError, match="skipped"):  # the clip is not there, but it is one
        runs.carry_out_all({tmp_path / "a": every[0], tmp_path / "b": every[1]})


def test_a_clip_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.wav"):
        (tmp_path / name).write_bytes(b"1234")
    samples = [Sample("x", video="a.mp4", audio="b.wav"), Sample("y", video="gone.mp4")]
    manifest = write_manifest(tmp_path / "data.jsonl", samples)
    before = sizes_digest(manifest)
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path, moved)
    assert sizes_digest(moved / "data.jsonl") == before == Chosen(manifest).facts()["clips"]
    (tmp_path / "b.wav").write_bytes(b"12345")
    assert sizes_digest(manifest) != before


def test_versions_are_facts_of_a_model(omni: HookedOmni) -> None:
    facts = model_facts(omni)
    assert facts["torch"] and facts["transformers"]


@pytest.mark.parametrize("inside", ["", "deep/down"])
def test_a_file_is_no_folder(
    tmp_path: Path,
    data: Path,
    inside: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    monkeypatch.setattr(
        "analyses.running.request.load", lambda *_a, **_k: pytest.fail("was loaded")
    )
    assert ask(file / inside, data) == 1
    assert "expected a folder, got the file" in capsys.readouterr().err
    with pytest.raises(ResultsError, match="expected a folder, got the file"):
        results.require_same(file / inside, {})
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"width": "three"}, r"expected width as int \| None in the config, got 'three'"),
        ({"width": True}, "expected width as int"),
        ({"windows": [4, 5]}, r"expected windows as tuple\[tuple\[int, int\], ...\]"),
        ({"own": "abc"}, r"expected own as Mapping\[str, Sequence\[str\]\]"),
        ({"own": {"dog": "woof"}}, "expected own as"),
        ({"keys": ["video", 3]}, r"expected keys like \('video', 'audio'\)"),
        ({"query": "all"}, r"expected query as Literal\['generated', 'generated\+last'\]"),
        ({"max_new_tokens": 2.0}, "expected max_new_tokens like 50 in the config, got 2.0"),
    ],
)
def test_values_of_another_type(asked: Any, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        runs.made_config(knockout.Config, asked)


def test_values_that_fit() -> None:
    made = runs.made_config(knockout.Config, {"windows": [[0, 2]], "own": {"dog": ["woof"]}})
    assert made.windows == ((0, 2),) and made.own == {"dog": ["woof"]}
    assert misfit(modality_reliance.Config, {"shift_seconds": 1}, "it") is None  # an int is a float
