"""Nothing reaches for the network: the demo, a checkpoint in a folder, and the command line."""

import subprocess
import sys
from pathlib import Path

from tests.support.places import ROOT

# No offline switch is set: whatever tried to connect would be stopped here, and fail the run.
BLOCKED = """
import os, socket, sys

def refuse(self, address, *rest):
    if self.family != socket.AF_UNIX:
        print(f"tried to reach {address}", file=sys.stderr)
        os._exit(3)

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda host, *rest, **kwargs: refuse(socket.socket(), host)
os.environ.pop("HF_HUB_OFFLINE", None)
"""


def run_blocked(code: str, tmp_path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_block_stops_a_connection(tmp_path: Path) -> None:
    code = "import urllib.request; urllib.request.urlopen('http://example.org')"
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "tried to reach" in done.stderr


def test_the_demo_needs_no_network(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from examples.demo import main
main(1, Path(sys.argv[1]) / "demo")
"""
    assert "claims about the bias" in run_blocked(code, tmp_path)


def test_a_checkpoint_in_a_folder_needs_no_network(tmp_path: Path) -> None:
    code = """
from hooked_omni import load
omni = load("random-omni")
omni.hf.save_pretrained(sys.argv[1])
omni.processor.save_pretrained(sys.argv[1])
again = load(sys.argv[1])
print("layers", again.model.cfg.n_layers)
"""
    assert "layers 4" in run_blocked(code, tmp_path)
