"""Every row of `docs/from-transformer-lens.md` runs, or is refused with the error it names."""

import builtins
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import patching
from transformer_lens.head_detector import detect_head
from transformer_lens.tools import analysis

from hooked_omni import HookedOmni, errors, names
from tests.support.models import look, processed
from tests.support.places import ROOT

PAGE = (ROOT / "docs" / "from-transformer-lens.md").read_text()


def rows(page: str) -> list[list[str]]:
    """Cells of every table row that is not a header."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0].startswith("`")]


def code(cell: str) -> str:
    return "\n".join(re.findall(r"`([^`]+)`", cell))


@pytest.fixture(scope="module")
def scope(omni: HookedOmni) -> Any:
    def metric(logits: Tensor) -> Tensor:
        return logits[0, -1, 5] - logits[0, -1, 7]

    model = omni.model
    tools = dict(patching=patching, analysis=analysis, detect_head=detect_head)
    prompt, other = (
        omni.embed_inputs(**processed(omni, "audio", words)) for words in ("the dog", "the cat")
    )
    own = dict(model=model, omni=omni, prompt=prompt, other=other)
    yield dict(names=names, torch=torch, look=look, metric=metric, **tools, **own)
    for flag in names.FLAGS:
        setattr(model.cfg, flag, False)
    model.reset_hooks()


def test_every_row_runs_or_is_refused(scope):
    accepted, refused = PAGE.split("## What is refused")
    assert len(rows(accepted)) > 40 and len(rows(refused)) > 10
    for row in rows(accepted):
        assert len(row) == 3, row
        exec(code(row[1]), scope)
    for line, error, _ in rows(refused):
        name = code(error)
        with pytest.raises(getattr(errors, name, None) or getattr(builtins, name)):
            exec(code(line), scope)


def test_the_page_names_every_flag_and_sweep():
    for flag in names.FLAGS:
        assert f"model.set_{flag}(True)" in PAGE
    assert "get_act_patch_*" in PAGE
