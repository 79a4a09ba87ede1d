"""How faithful is a caption to what is heard and seen, and who says so?

Names are imported when they are first used: inspect-ai and sentence-transformers take seconds, and
a command that only asks for help needs neither.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyses.judge.chosen import judge
    from analyses.judge.judgement import (
        ASKED_OF,
        Item,
        Judge,
        JudgeDownError,
        JudgeError,
        Judgement,
        items,
    )
    from analyses.judge.record import missing, run

__all__ = [
    "ASKED_OF",
    "Item",
    "Judge",
    "JudgeDownError",
    "JudgeError",
    "Judgement",
    "items",
    "judge",
    "missing",
    "run",
]

_HOMES = {"judge": "chosen", "missing": "record", "run": "record"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'judgement')}"), name)
