"""List columns come back from Parquet as the analyses make them, whichever parts were empty."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analyses.running import results


def test_lists_of_parts_come_back_as_tuples(tmp_path: Path) -> None:
    parts = [[("dog", "siren"), (), ("dog", "siren")], [(), ()], [None, ("cat",)]]
    paths = [tmp_path / f"{i}.parquet" for i in range(len(parts))]
    for path, events in zip(paths, parts, strict=True):
        table = pd.DataFrame({"k": range(len(events)), "events": events, "rank": 1})
        table = table.astype({"k": "Int64"})
        table.attrs = {"n_cases": 1}
        results.write_table(path, table, "logit_lens")
        assert pa.types.is_list(pq.read_schema(path).field("events").type)
    whole = results.gather({path: {} for path in paths})
    assert list(whole.columns) == ["k", "events", "rank"] and whole["k"].dtype == "Int64"
    assert whole["events"].tolist() == [events for part in parts for events in part]
    assert whole["events"].iloc[0] is whole["events"].iloc[2]  # millions of rows, few lists
    assert results.read_table(paths[1])["events"].tolist() == [(), ()]
