"""Every example runs as its first lines say, without network, on the shipped models."""

import json
import runpy
import sys

import pandas as pd
import pytest

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
