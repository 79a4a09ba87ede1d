"""Embed all cases of a manifest where a model's own code runs, for decoders alone elsewhere.

python -m examples.embed_prompts OpenGVLab/InternOmni data/pairs.jsonl prompts/internomni
python -m examples.embed_prompts OpenGVLab/InternVL2-8B data/pairs.jsonl prompts/internomni --base

The first writes a bundle for each sample and question, under the name by which the analyses'
`--embedded` and a study's `embedded` find it; the second, those of the base, beside them. Samples
of items are embedded too, those with words of their own under the question "own". Bundles that are
there are kept. It needs what `python -m hooked_omni embed` needs, and this repository's
folder. Without arguments: a clip of ours, by shipped models.
"""

from hooked_omni.endings import StopSignals, run_command

if __name__ == "__main__":
    StopSignals().__enter__()  # before what takes long to import, to the end of the process

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from analyses.asking import prompt_of, without_sound
from analyses.text.wording import OWN, QUESTIONS, worded
from data_prep.manifest import Sample, file_name, read_manifest, write_manifest
from examples._clip import two_seconds
from hooked_omni.cluster.joining import Cluster
from hooked_omni.cluster.spreading import spread
from hooked_omni.cluster.tasks import Made, Task
from hooked_omni.errors import MediaError, PromptError, WorkerLostError
from hooked_omni.fingerprint import model_hash
from hooked_omni.hf.config_file import family_named
from hooked_omni.hf.loading import load_towers
from hooked_omni.inputs.prompt import Prompt


# %% which model, which clips, where to
def options(arguments: list[str] | None, prog_name: str) -> argparse.Namespace:
    """What the command says; without a manifest, a clip of ours."""
    parser = argparse.ArgumentParser(prog_name)
    parser.add_argument("model", nargs="?", default="random-omni")
    parser.add_argument("manifest", nargs="?", type=Path)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--base", action="store_true", help="prompts of a base, which only sees")
    everything = "default: see,hear,both; of a base, hear; where samples have words, own"
    parser.add_argument("--questions", help=everything)
    parser.add_argument("--wording", action="append", default=[], help="as 'hear=What sounds?'")
    parser.add_argument("--system", help="system prompt; default: the family's")
    orders = ["text-first", "clip-first"]
    parser.add_argument("--order", choices=orders, help="default: the family's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", help="that of the study; default: as saved")
    parser.add_argument("--ray", metavar="ADDRESS", help="on a Ray cluster: auto, local, HOST:PORT")
    parser.add_argument("--cpus", type=int, help="of a worker")
    parser.add_argument("--storage", choices=["driver", "shared"], default="driver")
    given = parser.parse_args(arguments)
    wording = (one.partition("=") for one in given.wording)
    given.words = worded({name: text for name, _, text in wording})
    given.questions = given.questions and given.questions.split(",")
    if unknown := sorted({*(given.questions or ())} - {*QUESTIONS, OWN}):
        parser.error(f"expected questions among {[*QUESTIONS, OWN]}, got {unknown}")
    if given.manifest is None:
        given.folder = Path(tempfile.mkdtemp())
        two_seconds(given.folder / "clip.mp4")
        given.manifest = given.folder / "clip.jsonl"
        write_manifest(given.manifest, [Sample("clip", video="clip.mp4")])
    elif given.folder is None:
        parser.error("expected a folder for the prompts after the manifest, got none")
    return given


# %% the prompts, as the analyses make them
def prompts(given: argparse.Namespace) -> Iterator[tuple[str, Prompt]]:
    """Every prompt, and the name of its case."""
    usual = ["hear"] if given.base else ["see", "hear", "both"]
    for sample in read_manifest(given.manifest):
        has_words = any(kind == "text" for kind, _ in sample.items)
        for question in given.questions or ([OWN] if has_words else usual):
            how = given.words, given.manifest.parent, given.order, given.system
            prompt = prompt_of(sample, question, *how)
            yield f"{sample.id}/{question}", without_sound(prompt) if given.base else prompt


# %% the towers, once or in each worker of a cluster, and every case
def worker(model: str, device: str, dtype: str | None) -> Made:
    """What a worker does: embed, and save."""
    towers = load_towers(model, device, dtype, trust_remote_code=True)
    weights = model_hash({"towers": towers.hf}, portable=True)
    return lambda prompt, paths: towers.embed(prompt).save(paths[0]), {"weights": weights}


def main(arguments: list[str] | None, prog_name: str) -> None:
    """Embed what is not there yet."""
    given = options(arguments, prog_name)
    cases, family = dict(prompts(given)), family_named(given.model)
    folder = given.folder / "base" if given.base else given.folder
    tasks = []
    for name, prompt in cases.items():
        try:
            family.require(prompt)  # before weights are read
        except PromptError as error:
            error.add_note(f"This is case {name!r}.")
            raise
        files = tuple(Path(source.path) for source in prompt.sources(True))
        tasks.append(Task(name, prompt, files, (folder / f"{file_name(name)}.safetensors",)))
    left = [task for task in tasks if not task.outputs[0].is_file()]
    make = partial(worker, given.model, given.device, given.dtype)
    cluster = Cluster(given.ray, given.cpus, given.storage) if given.ray else None
    for task, future in spread(cluster, make, left, gpus=int(given.device != "cpu")):
        try:
            future.result()
        except (MediaError, WorkerLostError) as error:
            print(f"left out: {task.name}: {error}")  # the analyses skip it, and say so
    for task in tasks:
        if task.outputs[0].is_file():
            print(task.outputs[0])


if __name__ == "__main__":
    run_command(main, None, "python -m examples.embed_prompts")
