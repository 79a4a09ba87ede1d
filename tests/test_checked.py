"""The checks of shapes in tests are as strict as beartype's, and inner functions share theirs."""

from typing import Any

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from hooked_omni.decoder.rotary import rotate
from tests.support import checked


def transposed(check: Any, wrong: bool = False) -> Any:
    @jaxtyped(typechecker=check)
    def inner(
        x: Float[Tensor, "a b"], y: Float[Tensor, " b"], *, ret0: str = ""
    ) -> Float[Tensor, "b a"]:
        return x if wrong else x.T

    return inner


def accepts(function: Any, *given: Any, **more: Any) -> bool:
    try:
        function(*given, **more)
    except TypeError:
        return False
    return True


@pytest.mark.parametrize(
    ("shapes", "more", "expected"),
    [([(2, 3), (3,)], {}, (True, False)), ([(2, 2), (2,)], {}, (True, True)),
     ([(2, 3), (2,)], {}, (False, False)), ([(2,), (3,)], {}, (False, False)),
     ([(2, 3), (3,)], {"ret0": 1}, (False, False)), ([(2, 3), (3,)], {"ret0": "1"}, (True, False))],
)  # fmt: skip
def test_as_strict_as_beartype(shapes, more, expected):
    given = [torch.zeros(shape) for shape in shapes]
    for check in (beartype, checked.once):
        found = [accepts(transposed(check, wrong), *given, **more) for wrong in (False, True)]
        assert tuple(found) == expected


def test_an_inner_functions_checks_are_made_once():
    transposed(checked.once)
    before = len(checked._kept)
    transposed(checked.once)
    assert len(checked._kept) == before


def test_the_project_is_checked():
    turned = torch.ones(1, 5, 2, 8), torch.ones(1, 5, 8), torch.ones(1, 5, 8)
    assert rotate(*turned).shape == (1, 5, 2, 8)
    with pytest.raises(TypeCheckError, match="sin"):
        rotate(*turned[:2], torch.ones(1, 4, 8))
