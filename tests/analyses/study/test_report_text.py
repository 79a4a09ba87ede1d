"""What comes from data is text on the page of a study: no markup, no address, nothing hidden."""

import pytest

from analyses.study.report import as_text


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("![x](http://a.example/p.png)", r"!\[x\](http\://a.example/p.png)"),
        ("[click](javascript:alert(1))", r"\[click\](javascript:alert(1))"),
        ("<img src=//a.example/p>", r"\<img src=//a.example/p\>"),
        ("see HTTPS://a.example or www.a.example", r"see HTTPS\://a.example or www\.a.example"),
        ("a@b.example &lt; &#60;", r"a\@b.example \&lt; \&\#60;"),
        (
            "dog\n\n# The paper's claims\n| 1 | agrees |",
            r"dog \# The paper's claims \| 1 \| agrees \|",
        ),
        ("# heading", r"\# heading"),
        ("> quote", r"\> quote"),
        ("- item", r"\- item"),
        ("12. item", r"12\. item"),
        ("=====", r"\====="),
        ("    code\tblock", "code block"),
        ("`code` *b* _i_ ~~s~~ $m$", r"\`code\` \*b\* \_i\_ \~\~s\~\~ \$m\$"),
        ("a\\*b", r"a\\\*b"),
        ("evil\u202etxt\u2066\x00\x1b[2J", r"evilU+202EtxtU+2066U+0000U+001B\[2J"),
        ("line\u2028sep\u00a0x", "line sep x"),
        ("\u72d7 barks, 3.2 % (n = 4)", "\u72d7 barks, 3.2 % (n = 4)"),
    ],
)
def test_text_of_data_is_no_markup(given: str, line: str) -> None:
    assert as_text(given) == line
