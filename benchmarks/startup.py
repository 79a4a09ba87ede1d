"""How long until something answers? `python -m benchmarks.startup [--rounds 5]`.

Each row is a process of its own, from its start to its end; rows take turns, and medians are shown:
of imports beside that of torch alone, of wrong commands, and of commands that need no model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import soundfile

from benchmarks.timing import in_turn, machine

_IMPORTS = {
    "import torch": "import torch",
    "import torch, transformers": "import torch, transformers",
    "from hooked_omni import load": "from hooked_omni import load",
    "what `load` takes from there": "from hooked_omni import load; load('random-omni')",
}


def _started(*words: str) -> None:
    subprocess.run([sys.executable, *words], capture_output=True, check=False)


def _refused(folder: Path) -> dict[str, list[str]]:
    """Commands that end with what is wrong."""
    (folder / "m.jsonl").write_text('{"schema": 1}\n{"id": "1", "kind": "factual"}\n')
    (folder / "s.toml").write_text('model = "random-omni"\ndata = "m.jsonl"\nunknown = 1\n')
    known = ["--model", "random-omni", "--data", f"{folder}/m.jsonl", "--out", f"{folder}/out"]
    study = ["study", "--config", f"{folder}/s.toml", "--out", f"{folder}/out"]
    return {
        "analyses: an unknown option": ["analyses", "knockout", *known, "--unknown"],
        "analyses: an unknown field": ["analyses", "knockout", *known, "--config", '{"x": 1}'],
        "analyses: no base": ["analyses", "distribution_shift", *known],
        "analyses: an unknown key of a study": ["analyses", *study],
        "hooked_omni: no such model": ["hooked_omni", "prove", "none"],
        "data_prep: an unknown option": ["data_prep", "swap", "a", "b", "--unknown"],
    }


def _without_model(folder: Path) -> dict[str, list[str]]:
    """Commands of data_prep, on one question and on a small world."""
    image, sound, world = folder / "mm" / "image", folder / "mm" / "audio", folder / "world"
    image.mkdir(parents=True)
    sound.mkdir()
    PIL.Image.new("RGB", (60, 40)).save(image / "a.png")
    soundfile.write(sound / "a.wav", np.zeros(800), 16_000)
    question = {"question": "What?", "options": ["A", "B"], "answer": "A"}
    files = {"audio_path": "a.wav", "image_path": "a.png"}
    (folder / "bench.jsonl").write_text(json.dumps(question | files))
    _started("-m", "data_prep", "organism", "world", "--out", str(world), "--clips", "1")
    bench = [str(folder / name) for name in ("bench.jsonl", "mm", "imported.jsonl")]
    return {
        "data_prep import": ["data_prep", "import", "omnibench", *bench],
        "data_prep swap": ["data_prep", "swap", f"{world}/pairs.jsonl", f"{world}/swapped.jsonl"],
        "data_prep show": ["data_prep", "show", f"{world}/pairs.jsonl"],
        "data_prep check": ["data_prep", "check", f"{world}/pairs.jsonl"],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        commands = _refused(Path(folder)) | _without_model(Path(folder))
        ways = {name: partial(_started, "-c", code) for name, code in _IMPORTS.items()}
        ways |= {name: partial(_started, "-m", *words) for name, words in commands.items()}
        ways["python alone"] = partial(_started, "-c", "")
        seconds = in_turn(ways, rounds)
    print(f"{machine()}\n\n| process | seconds | beside importing torch |\n|---|---|---|")
    for name, each in seconds.items():
        print(f"| {name} | {each:.2f} | {each / seconds['import torch']:.2f} |")


if __name__ == "__main__":
    main()
