"""A line of a journal is as it was written, or worked out again."""

import json
import random
from pathlib import Path

import pytest

from data_prep.journal import Journal

VALUES = {
    f"key {i}": {"score": i / 7, "reason": "a dog,\nbarking \u97f3", "words": ["dog"], "none": None}
    for i in range(12)
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = Journal(tmp_path / "kept.jsonl")
    for key, value in VALUES.items():
        journal.put(key, value)
    return journal.path


def values(path: Path) -> dict[str, object]:
    journal = Journal(path)
    return {key: journal.get(key) for key in VALUES if key in journal}


def test_no_flipped_bit_changes_a_value(path: Path) -> None:
    whole, rng = path.read_bytes(), random.Random(0)
    assert values(path) == VALUES
    for _ in range(250):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        found = values(path)
        assert len(found) >= len(VALUES) - 2 and found.items() <= VALUES.items()
        assert set(Journal(path)._values) <= set(VALUES)


def test_a_value_under_another_key_and_one_without_a_checksum_are_not_taken(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["key"], lines[1]["key"] = lines[1]["key"], lines[0]["key"]
    del lines[2]["checksum"]
    lines[3]["value"]["score"] = 1.0
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(values(path)) == list(VALUES)[4:]
    Journal(path).put("key 0", 5)
    assert Journal(path).get("key 0") == 5
