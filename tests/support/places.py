"""Where the project lies, and the material beside it that a fresh machine may lack."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"


def without_network() -> dict[str, str]:
    """The environment of a process that ends as soon as it tries to connect."""
    own = str(Path(__file__).with_name("no_network"))
    paths = [own, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


OWN_ADDRESSES = {"127.0.0.1", "::1"}
"""Of this machine; a cluster has it by another one, which its fixture adds."""
