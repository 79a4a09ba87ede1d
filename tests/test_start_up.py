"""What is imported before it is needed? Each test looks into a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_usage_errors_of_models_come_before_torch() -> None:
    commands = [
        ["prove", "random-omni", "--unknown"],
        ["prove", "random-omni", "--attention", "flash"],
        ["prove", "random-omni", "--clip", "a.mp4", "--decoder-only"],
        ["embed", "random-omni"],
        ["prove", "random-omni", "--device-map", '{"lm_head": true}'],
        ["embed", "random-omni", "--out", "x", "--device-map", "auto", "--ray"],
    ]
    found = run("hooked_omni", *commands)
    assert len(found) == 6 and not [one for one in found if one[1] == 0 or one[2]]


def test_data_preparation_without_a_model_is_without_torch(tmp_path: Path) -> None:
    """Those that fail are wrong; the world, its swap and its page are made."""
    world = str(tmp_path / "world")
    pairs, swapped = f"{world}/pairs.jsonl", f"{world}/swapped.jsonl"
    evaluated = tmp_path / "seed" / "test" / "evaluation.json"
    evaluated.parent.mkdir(parents=True)
    evaluated.write_text('{"biased": {"a": 1.0}, "balanced": {"a": 0.5}}')
    fine = [
        ["organism", "world", "--out", world, "--clips", "1"],
        ["swap", pairs, swapped],
        ["show", pairs],
        ["organism", "compare", str(tmp_path / "seed")],
    ]
    wrong = [
        ["pairs", pairs, "--unknown"],
        ["captions", pairs, swapped],
        ["organism", "train", "--out", world, "--recipe", '{"unknown": 1}'],
        ["import", "audiocaps", f"{world}/none.csv", f"{world}/a.jsonl"],
    ]
    found = run("data_prep", *fine, *wrong)
    assert [code == 0 for _, code, _ in found] == [True] * 4 + [False] * 4
    assert not any(torch for _, _, torch in found)
