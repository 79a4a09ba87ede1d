"""Every example runs as its first lines say, without network, on the shipped models."""

import json
import os
import re
import runpy
import subprocess
import sys
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.main import get_command

from analyses.__main__ import app as analyses
from hooked_omni.endings import StopSignals
from tests.support.figures import no_figures
from tests.support.places import ROOT

EXAMPLES = {path.stem for path in (ROOT / "examples").glob("*.py") if path.stem[0] != "_"}


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """`python -m examples.<name>`, in this process: most of its time is the import of packages."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with StopSignals():  # puts back the handlers that an example leaves
        runpy.run_module(f"examples.{name}", run_name="__main__")


@pytest.mark.parametrize("name", sorted(EXAMPLES - {"demo"}))
def test_an_example_runs(name, monkeypatch, capsys):
    run(name, monkeypatch)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("words", "code"),
    [(["random-omni", "none.jsonl", "out"], 1), (["random-omni", "none.jsonl"], 2),
     (["random-omni", "none.jsonl", "out", "--questions", "hear,smell"], 2)],
)  # fmt: skip
def test_prompts_that_cannot_be_embedded_are_one_message(words, code, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run("embed_prompts", monkeypatch, *words)
    printed = capsys.readouterr().err
    assert end.value.code == code and "expected" in printed and "Traceback" not in printed


def test_the_demo_studies_both_models(monkeypatch, capsys, tmp_path):
    no_figures(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        run("demo", monkeypatch, "--clips", "1", "--limit", "1", "--out", str(tmp_path))
    printed = capsys.readouterr().out
    # Two samples are too few for any claim; the demo says so, and fails.
    assert stop.value.code == 1 and printed.count("not as it must be") == 14
    assert "logits equal Hugging Face's: largest difference 0" in printed
    assert "Of 7 claims about the bias, 0 agree" in printed
    for organism in ("organism-biased", "organism-balanced"):
        page = (tmp_path / organism / "report.md").read_text()
        assert "1 factual, 1 counterfactual" in page
        made = tmp_path / organism / "knockout"
        table = pd.read_parquet(made / "knockout.parquet")
        facts = json.loads((made / "run.json").read_text())
        assert facts["rows"] == len(table) and facts["n_cases"] == 4


CLUSTER = sorted((ROOT / "examples" / "cluster").iterdir())


def test_examples_for_clusters_name_commands_and_options_that_exist():
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.scripts.scripts import cli as ray_commands

    known: dict[str, Any] = {"analyses": get_command(analyses), "ray": ray_commands}
    found = 0
    for path in CLUSTER:
        text = re.sub(r"\\\n|^# {3}", " ", path.read_text(), flags=re.MULTILINE)
        for program, name, words in re.findall(r"\b(analyses|ray) ([a-z_]+)([^\n'&]*)", text):
            if name in known[program].commands:  # else it is prose
                options = {o for p in known[program].commands[name].params for o in p.opts}
                assert {*re.findall(r"--[a-z-]+", words)} <= options, (path, words)
                found += 1
    assert found >= 9
    config = yaml.safe_load((ROOT / "examples" / "cluster" / "ray.yaml").read_text())
    validate_config(prepare_config(config))


@pytest.mark.parametrize("path", [path for path in CLUSTER if path.suffix == ".slurm"], ids=str)
def test_a_job_of_slurm_runs_its_commands(path, tmp_path):
    """With programs that print what they are given, in place of a cluster's."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "ray", "srun", "scontrol", "sleep"):
        said = "n1" if name == "scontrol" else f'{name} "$@"'
        (programs / name).write_text(f"#!/bin/sh\necho {said}\n")
        (programs / name).chmod(0o755)
    of_slurm = {"PROJECT": str(tmp_path), "SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "8"}
    of_slurm |= {"SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_NODELIST": "n[1-4]"}
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", **of_slurm}
    done = subprocess.run(["bash", path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    expected = {
        "shards": ["--shard 2/8", "--out runs/shards/2"],
        "study": ["--ray n1:6379 --storage shared", "ray start --address=n1:6379", "--nodes=3"],
    }
    assert all(words in done.stdout for words in expected[path.stem])
