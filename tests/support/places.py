"""Where the project lies, and the material beside it that a fresh machine may lack."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
