"""The README's first lines run as they are pasted, and print what stands beneath them."""

import re
from contextlib import redirect_stdout
from io import StringIO

from tests.support.places import ROOT


def test_the_first_lines_print_what_stands_beneath_them():
    section = (ROOT / "README.md").read_text().partition("## Ten lines")[2]
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", section, re.DOTALL)[:2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    out = StringIO()
    with redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue() == printed
