"""In a fresh process: nothing reaches for the network, and embedding imports no decoder.

The examples, with the demo among them, run without network in `test_examples.py`.
"""

import subprocess
import sys

from tests.support.places import ROOT, without_network

CODE = """
import sys
import hooked_omni.__main__
print("help without torch:", "torch" not in sys.modules)
import hooked_omni.hf.loading
decoder = {"transformer_lens", "hooked_omni.transformer", "hooked_omni.hooks"}
print("towers without decoder:", not decoder & sys.modules.keys())
import hooked_omni.parity
import hooked_omni.hooks.attention_edits
from hooked_omni import knockout, load, prove
print("functions stay functions:", callable(prove) and callable(knockout))
omni = load("random-omni")
omni.hf.save_pretrained(sys.argv[1])
omni.processor.save_pretrained(sys.argv[1])
print("loads from a folder:", load(sys.argv[1]).model.cfg.n_layers == 4)
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, "-c", code, *arguments], without_network()
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_fresh_process(tmp_path):
    """The half that embeds must run beside code that knows no newer transformers."""
    done = run(CODE, str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    facts = done.stdout.splitlines()
    assert len(facts) == 4 and all(fact.endswith(": True") for fact in facts), facts


def test_the_block_stops_a_connection():
    done = run("import urllib.request; urllib.request.urlopen('http://example.org')")
    assert done.returncode == 3 and "tried to reach" in done.stderr
