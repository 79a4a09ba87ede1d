"""What is imported before it is needed? Each test looks into a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

from tests.support.places import ROOT

HEAVY = ("torchvision", "torch._dynamo", "datasets", "sentence_transformers", "transformer_lens")
RUN = """
import json, sys
from importlib import import_module
package, *commands = json.loads(sys.argv[1])
main = import_module(f"{package}.__main__").main
for command in commands:
    try:
        main(command)
        code = 0
    except SystemExit as end:
        code = end.code
    print(json.dumps([command, code, "torch" in sys.modules]))
"""


def run(*given: object) -> list[list[object]]:
    """Each command after the package, its exit code, and whether torch is there after it."""
    command = [sys.executable, "-c", RUN, json.dumps(given)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]


def test_load_comes_without_what_it_may_never_need() -> None:
    code = f"from hooked_omni import load; import sys; print([*{{*{HEAVY}}} & sys.modules.keys()])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "m.jsonl"
    path.write_text('{"schema": 1}\n{"id": "1", "kind": "factual", "video": "a.mp4"}\n')
    return path


def test_usage_errors_of_analyses_come_before_torch(manifest: Path) -> None:
    def analysis(name: str, *more: object) -> list[str]:
        known = ["--model", "random-omni", "--data", manifest, "--out", manifest.parent / "out"]
        return [str(word) for word in (name, *known, *more)]

    settings = {
        "captions": {"max_new_tokens": 0},
        "attention_share": {"sinks": "gone"},
        "logit_lens": {"top_k": "three"},
        "knockout": {"unknown": 1},
        "modality_reliance": {"variants": ["louder"]},
    }
    ways = (
        *("--unknown", "--base=b", "--shard=3", "--questions=taste", "--order=last"),
        *("--wording=taste=Salty?", "--kinds=x --audio=y", "--decoder-only", "--config=none.json"),
        *("--ask=Why?", f"--out={manifest}", f"--data={manifest}l", "--device-map=Auto"),
        *("--device-map={", "--device-map=auto --device=cuda", "--allow-quantized=yes"),
    )
    tomls = (
        *("unknown = 1", "", 'base = "b"\n[knockout]\nunknown = 1', 'base = "b"\nlimit = "x"'),
        *('base = "b"\n[judge]\nname = "lexical"\nunknown = 1', 'base = "b"\n[captions]\nown = 3'),
        *('base = "b', 'analyses = ["dreams"]', 'base = "b"\ndevice_map = "Auto"'),
        *('base = "b"\n[device_map]\nlm_head = 1.5', 'base = "b"\n[device_map]\nlm_head = 0'),
    )
    studies = []
    for i, text in enumerate(tomls):
        path = manifest.parent / f"{i}.toml"
        path.write_text(f'model = "random-omni"\ndata = "m.jsonl"\n{text}\n')
        studies.append(["study", "--config", str(path), "--out", str(manifest.parent / "out")])
    commands = [
        *(analysis(name, "--config", json.dumps(own)) for name, own in settings.items()),
        *(analysis("knockout", *way.split()) for way in ways),
        analysis("distribution_shift"),
        *studies,
    ]
    found = run("analyses", *commands)
    assert len(found) == len(commands)
    assert not [one for one in found if one[1] == 0 or one[2]]


def test_what_words_and_files_say_is_looked_at_before_torch(manifest: Path) -> None:
    """Models, settings, judges, manifests and folders that cannot be what is meant."""
    folder, out = manifest.parent, str(manifest.parent / "out")
    known = ["--model", "random-omni", "--data", str(manifest), "--out", out]
    ways = (
        *("--rope x", "--dtype int64", "--device gpuu", "--model none", f"--model {folder}"),
        *(f"--model {manifest}", f"--adapter {folder}", f"--adapter {folder}/none"),
        *(f"--decoder-only --embedded {folder}/none", f"--prompts {manifest}", "--kinds swapped"),
        *("--questions own", "--shard 5/4", "--shard 0/1", "--shard 2/2", "--cpus 2"),
        *("--ray nowhere", "--ray 127.0.0.1:1"),
    )
    settings = {
        "captions": ({"max_new_tokens": 0},),
        "logit_lens": ({"top_k": 0}, {"lenses": []}, {"span": ""}, {"at_least": 0}),
        "knockout": ({"width": 4}, {"step": 0}, {"windows": [[3, 1]]}, {"memory_budget": 0}),
        "modality_reliance": ({"swap_with": "none.mp4"},),
    }
    tomls = (
        *("rope = 'x'", "dtype = 'x'", "kinds = ['x']", "ratings = ['none.csv']"),
        *("adapter = 'none'", "embedded = 'none'\ndecoder_only = true", "max_new_tokens = 0"),
        *("[judge]\nconnections = 3", "[judge]\nname = 'gpt'", "[judge]\nname = 'embedding:'"),
        *("[judge]\nname = 'lexical'\nconnections = 3", "[judge]\nname = 'lexical'\nlast = 3"),
        *("[judge]\nname = 'openai/x'\nconnections = 'x'", "[judge]\nname = 'x'\nurl = 'ftp://x'"),
        "[judge]\nname = 'openai/x'\nlayers = [[3, 1]]",
    )
    studies = []
    for i, text in enumerate(("", *tomls)):
        path = folder / f"{i}.toml"
        path.write_text(f"model = 'random-omni'\nbase = 'random-vl'\ndata = 'm.jsonl'\n{text}\n")
        studies.append(["study", "--config", str(path), "--out", out])
    plain, *studies = studies
    commands = [
        *(["knockout", *known, *way.split()] for way in ways),
        *(
            [name, *known, "--config", json.dumps(one)]
            for name, own in settings.items()
            for one in own
        ),
        ["distribution_shift", *known, "--base", "none"],
        *studies,
        *([*plain, *more] for more in (["--data", "none"], ["--model", "none"])),
        [*plain[:-1], str(manifest)],
        ["plan", "--analysis", "knockout", "--model", "none", "--data", str(manifest)],
        *(["--media-gb", gb, "knockout", *known] for gb in ("-1", "nan")),
        *(["merge", out, str(folder)], ["summary", str(folder)]),
        ["compare", str(folder), str(folder), "--out", out],
    ]
    found = run("analyses", *commands)
    assert len(found) == len(commands)
    assert not [one for one in found if one[1] == 0 or one[2]]


def test_usage_errors_of_models_come_before_torch(tmp_path: Path) -> None:
    commands = [
        ["prove", "random-omni", "--unknown"],
        ["prove", "random-omni", "--attention", "flash"],
        ["prove", "random-omni", "--clip", "a.mp4", "--decoder-only"],
        ["embed", "random-omni"],
        ["prove", "random-omni", "--device-map", '{"lm_head": true}'],
        ["embed", "random-omni", "--out", "x", "--device-map", "auto", "--ray"],
        ["prove", "random-omni", "--question", " "],
        ["prove", "none"],
        ["prove", str(tmp_path)],
        *(["prove", "random-omni", f"--{what}", "none"] for what in ("clip", "audio", "prompt")),
        *(["prove", "random-omni", f"--{what}", "x"] for what in ("dtype", "device", "adapter")),
        ["embed", "random-omni", "--out", str(tmp_path)],
        ["embed", "a/b/c", "--out", str(tmp_path / "x")],
        ["embed", "random-omni", "--out", str(tmp_path / "x"), "--system", ""],
    ]
    found = run("hooked_omni", *commands)
    assert len(found) == len(commands) and not [one for one in found if one[1] == 0 or one[2]]


def test_data_preparation_without_a_model_is_without_torch(tmp_path: Path) -> None:
    """Those that fail are wrong; the world, its swap and its page are made."""
    world = str(tmp_path / "world")
    image, sound = tmp_path / "mm" / "image", tmp_path / "mm" / "audio"
    image.mkdir(parents=True)
    sound.mkdir()
    PIL.Image.new("RGB", (60, 40)).save(image / "a.png")
    soundfile.write(sound / "a.wav", np.zeros(800), 16_000)
    question = {"question": "What?", "options": ["A", "B"], "answer": "A"}
    lines = json.dumps(question | {"audio_path": "a.wav", "image_path": "a.png"})
    (tmp_path / "bench.jsonl").write_text(lines)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text('{"id": "1", "kind": "factual"}')
    served = ["--server", "http://localhost:1/v1", "--model", "x"]
    pairs, swapped = f"{world}/pairs.jsonl", f"{world}/swapped.jsonl"
    evaluated = tmp_path / "seed" / "test" / "evaluation.json"
    evaluated.parent.mkdir(parents=True)
    evaluated.write_text('{"biased": {"a": 1.0}, "balanced": {"a": 0.5}}')
    fine = [
        ["organism", "world", "--out", world, "--clips", "1"],
        ["swap", pairs, swapped],
        ["show", pairs],
        ["organism", "compare", str(tmp_path / "seed")],
        ["check", pairs],
        ["import", "omnibench", f"{tmp_path}/bench.jsonl", f"{tmp_path}/mm", f"{tmp_path}/o.jsonl"],
        ["captions", f"{tmp_path}/o.jsonl", f"{tmp_path}/c.jsonl", *served],
    ]
    wrong = [
        ["pairs", pairs, "--unknown"],
        ["captions", pairs, swapped],
        ["organism", "train", "--out", world, "--recipe", '{"unknown": 1}'],
        ["import", "audiocaps", f"{world}/none.csv", f"{world}/a.jsonl"],
        ["import", "huggingface", f"{tmp_path}/rows", f"{world}/h.jsonl", "--column", "x=y"],
        ["captions", f"{world}/none.jsonl", swapped, "--model", "x"],
        ["captions", pairs, swapped, "--server", "x", "--model", "x"],
        ["check", f"{world}/none.jsonl"],
        ["organism", "train", "--out", f"{world}/t", "--device", "gpuu"],
        *(["organism", "evaluate", "--out", world, "--split", s] for s in ("x", "test")),
    ]
    found = run("data_prep", *fine, *wrong)
    assert [code == 0 for _, code, _ in found] == [True] * 7 + [False] * 11
    assert not any(torch for _, _, torch in found)
