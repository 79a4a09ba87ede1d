"""Parts and tables say whose they are, and are as they were written, or made again."""

import hashlib
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from analyses import attention_share
from analyses.cases import Case
from analyses.running import results
from analyses.running.runs import Run, execute, part_path
from analyses.running.shards import merge_shards
from data_prep.manifest import file_name
from hooked_omni import HookedOmni
from hooked_omni.errors import ResultsError

# The first eight hex digits of their hashes, and all letters and digits, are the same.
TWINS = ("dog ***rain", 'dog %@"rain')
SAMPLES = (*TWINS, "Dog", "dog", "e\u0301", "\u00e9", "x" * 300, "x" * 301)


def run_of(omni: HookedOmni, samples: tuple[str, ...] = SAMPLES, **more: Any) -> Run:
    tokens = [torch.arange(2, 30 + n)[None] for n in range(len(samples))]
    cases = [Case(omni.model.as_prompt(t), s) for t, s in zip(tokens, samples, strict=True)]
    return Run("attention_share", attention_share.Config(max_new_tokens=2), omni, cases, **more)


@pytest.fixture(scope="module")
def whole(omni: HookedOmni, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("parts") / "whole"
    return out, execute(run_of(omni), out)


@pytest.fixture
def folder(whole: tuple[Path, pd.DataFrame], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole[0], tmp_path / "copy"))


def same(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert ours.attrs == theirs.attrs


def test_ids_that_look_alike_have_parts_of_their_own(whole: tuple[Path, pd.DataFrame]) -> None:
    out, table = whole
    names = {path.name.casefold() for path in (out / "parts").iterdir()}
    assert len(names) == len(SAMPLES) and max(map(len, names)) < 200
    assert list(dict.fromkeys(table["sample"])) == list(SAMPLES)
    assert [*table.attrs["cases"]] == [f"{sample}/hear" for sample in SAMPLES]
    old = [
        f"{file_name(f'{twin}/hear')[:-32]}{file_name(f'{twin}/hear')[-32:-24]}" for twin in TWINS
    ]
    assert old[0] == old[1]


def flips(path: Path, n: int, read: Callable[[], pd.DataFrame], expected: pd.DataFrame) -> int:
    """How many of `n` flipped bits of a file are noticed; no other gives other values."""
    data, rng, noticed = path.read_bytes(), random.Random(0), 0
    for _ in range(n):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            same(read(), expected)
        except ResultsError:
            noticed += 1
    path.write_bytes(data)
    return noticed


def test_no_flipped_bit_changes_a_table(whole: tuple[Path, pd.DataFrame], folder: Path) -> None:
    table = folder / "attention_share.parquet"
    read = lambda: results.load(folder)  # noqa: E731
    assert flips(table, 250, read, whole[1]) == 250
    assert flips(folder / "run.json", 100, read, whole[1]) > 90  # or a letter in another case
    assert pd.read_parquet(table).shape == whole[1].shape  # others read past the checksum


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "of another case", "no table"])
def test_a_part_that_is_not_its_own_is_made_again(
    whole: tuple[Path, pd.DataFrame], folder: Path, omni: HookedOmni, damage: str
) -> None:
    path, other = (part_path(folder, f"{sample}/hear") for sample in TWINS)
    data = path.read_bytes()
    flipped = bytes([data[50] ^ 4])
    path.write_bytes(
        {
            "flipped": data[:50] + flipped + data[51:],
            "cut": data[:-9],
            "empty": b"",
            "of another case": other.read_bytes(),
            "no table": b"PAR1" * 30,
        }[damage]
    )
    same(execute(run_of(omni), folder), whole[1])
    assert path.read_bytes() == data


def test_a_part_of_another_run_is_made_again(
    whole: tuple[Path, pd.DataFrame], folder: Path, omni: HookedOmni, tmp_path: Path
) -> None:
    run = run_of(omni)
    execute(replace(run, config=attention_share.Config(max_new_tokens=3)), tmp_path / "other")
    shutil.rmtree(folder / "parts")
    shutil.copytree(tmp_path / "other" / "parts", folder / "parts")
    same(execute(run, folder), whole[1])


def test_another_prompt_of_the_same_name_is_another_case(
    whole: tuple[Path, pd.DataFrame], folder: Path, omni: HookedOmni
) -> None:
    run = run_of(omni)
    prompt: Any = run.cases[3].prompt
    prompt.embeds[:, 4] *= 3
    again = execute(run, folder)
    old, new = ([*t.attrs["cases"].items()] for t in (whole[1], again))
    assert [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b] == [3]
    assert not again.equals(whole[1])


def test_a_table_of_another_run_and_edited_json_are_refused(
    folder: Path, omni: HookedOmni, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    execute(replace(run_of(omni), facts={"rope": "other"}), other)
    shutil.copy(other / "attention_share.parquet", folder)
    with pytest.raises(ResultsError, match="expected a table of this run"):
        results.load(folder)
    made = json.loads((other / "run.json").read_text())
    made["facts"]["model"]["name"] = "better"
    (other / "run.json").write_text(json.dumps(made))
    with pytest.raises(ResultsError, match="than its checksum is of"):
        results.load(other)


def test_shards_with_a_part_that_changed_are_not_merged(omni: HookedOmni, tmp_path: Path) -> None:
    shards = [tmp_path / "1", tmp_path / "2"]
    for i, shard in enumerate(shards, 1):
        execute(run_of(omni, SAMPLES[:4], shard=(i, 2)), shard)
    merged = merge_shards(tmp_path / "whole", shards[::-1])
    assert [*merged.attrs["cases"]] == [f"{sample}/hear" for sample in SAMPLES[:4]]
    same(merged, execute(run_of(omni, SAMPLES[:4]), tmp_path / "alone"))
    parts = [part_path(shards[0], f"{SAMPLES[i]}/hear") for i in (0, 2)]
    shutil.copy(*parts)
    with pytest.raises(ResultsError, match="expected a table of this run"):
        merge_shards(tmp_path / "again", shards)


def test_a_model_that_is_edited_during_a_run_is_noticed(
    omni: HookedOmni, tmp_path: Path, monkeypatch: Any
) -> None:
    weight: Any = omni.hf.model.language_model.layers[0].mlp.up_proj.weight
    compute = attention_share.run
    kept = weight.data.clone()

    def editing(*args: Any) -> pd.DataFrame:
        weight.data[0, 0] += 1e-3
        return compute(*args)

    monkeypatch.setattr(attention_share, "run", editing)
    with pytest.raises(ResultsError, match=r"facts\.model\.weights"):
        execute(run_of(omni, ("one",)), tmp_path)
    weight.data.copy_(kept)
    with pytest.raises(ResultsError, match=r"without run\.json"):
        results.load(tmp_path)


@pytest.mark.parametrize("attrs", ["[]", "3", "null", "[" * 100_000, '{"schema": NaN}', "\xff"])
def test_a_table_with_other_attributes_is_refused(folder: Path, attrs: str) -> None:
    """Also with a checksum that fits."""
    path, file = folder / "attention_share.parquet", io.BytesIO()
    table = pq.read_table(path)
    kept = {**(table.schema.metadata or {}), b"PANDAS_ATTRS": attrs.encode("latin-1")}
    pq.write_table(table.replace_schema_metadata(kept), file)
    data = file.getvalue()
    at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:at] + hashlib.sha256(data).digest() + data[at:])
    with pytest.raises(ResultsError, match="expected a whole table"):
        results.load(folder)
