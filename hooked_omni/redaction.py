"""Which secrets are known here, and how is a text written down without them?

Servers echo what they are sent: a key in the body of an error, in a reply, in an address. Errors of
this project never print one; what a server sends is redacted where it is received.
"""

import base64
import os
import re
from functools import lru_cache
from typing import AnyStr

_NAMES = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)$")  # of variables of the environment
_SHORTEST = 6  # shorter ones ("none", "EMPTY") are words of any text
_BREAK = r"(?:\s|\\{1,4}[nrt]){0,3}"
_ESCAPE = re.compile(
    r"\\+(?:u00|x)([\da-f]{2})|%([\da-f]{2})|&#x0*([\da-f]{2});|&#0*(\d{2,3});|\\+[nrt]?", re.I
)
_given: set[str] = set()


def keep_secret(secret: str | None) -> None:
    """Redact this from now on; of an address, its user name and password."""
    if secret and "//" in secret:
        found = re.search(r"//([^/?#]*)@", secret)
        user = found[1] if found else ""
        _given.update((user, user.partition(":")[2]))
    else:
        _given.add((secret or "").strip())  # a line break from a file is no part of a key


def redacted(text: AnyStr) -> AnyStr:
    """The text, with "[key]" in place of every secret.

    Secrets are those given to `keep_secret`, and variables of the environment that end in KEY,
    TOKEN, SECRET or PASSWORD. They are found as they are, with characters escaped as JSON, HTML or
    an address would, broken by a line, and in base64 or hexadecimal, alone or within another text.
    """
    if isinstance(text, bytes):  # every byte is a letter of latin-1
        return redacted(text.decode("latin-1")).encode("latin-1")
    known = {value.strip() for name, value in os.environ.items() if _NAMES.search(name.upper())}
    secrets = {one for one in known | _given if len(one) >= _SHORTEST and one[0] != "/"}
    spellings, pattern = _spelled(frozenset(secrets))
    plain = "".join(_ESCAPE.sub(_unescaped, text).split()).lower()
    # The pattern takes microseconds for each character, and most texts hold no secret.
    return pattern.sub("[key]", text) if any(one in plain for one in spellings) else text


def _unescaped(found: re.Match[str]) -> str:
    hexadecimal, decimal = found[1] or found[2] or found[3], found[4]
    return chr(int(hexadecimal, 16) if hexadecimal else int(decimal)) if found.lastindex else ""


@lru_cache(maxsize=8)
def _spelled(secrets: frozenset[str]) -> tuple[list[str], re.Pattern[str]]:
    spellings = {text for one in secrets for text in (one, *_encoded(one.encode()))}
    longest_first = sorted(spellings, key=len, reverse=True)
    pattern = "|".join(_BREAK.join(map(_escaped, text)) for text in longest_first)
    return ["".join(text.lower().split()) for text in longest_first], re.compile(pattern, re.I)


def _encoded(secret: bytes) -> set[str]:
    """In hexadecimal, and in base64 after any number of bytes: what depends on it alone."""
    found = {secret.hex()}
    for before in range(3):
        text = base64.b64encode(bytes(before) + secret).decode()
        whole = text.rstrip("=")
        core = whole[(0, 2, 3)[before] : len(whole) - (len(whole) < len(text))]
        found |= {core, core.translate(str.maketrans("+/", "-_"))}
    return found


def _escaped(character: str) -> str:
    code, backslashes = ord(character), r"\\{0,4}" if not character.isalnum() else ""
    escaped = rf"\\{{1,4}}(?:u00|x){code:02x}|%{code:02x}|&\#x0*{code:x};|&\#0*{code};"
    return rf"(?:{backslashes}{re.escape(character)}|{escaped})"
