"""How faithful is a caption to what is heard and seen, and who says so?"""

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
