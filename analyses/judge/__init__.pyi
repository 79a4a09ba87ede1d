from .judgement import (
    ASKED_OF as ASKED_OF,
    Item as Item,
    Judge as Judge,
    JudgeDownError as JudgeDownError,
    JudgeError as JudgeError,
    Judgement as Judgement,
    items as items,
)
from .lookup import judge as judge
from .record import missing as missing, run as run

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
