"""How much of the attention do the kept weights hold?"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analyses.cases import KEYS
from analyses.plots import figures
from analyses.plots.statistics import in_words, mean_band, pooled, require_rows


def plot(table: pd.DataFrame) -> Figure:
    """Percent of the attention on the prompt that is kept, by layer: what a map leaves out."""
    panels = figures.by_panel(pooled(_by_layer(table)))
    figure, axes = figures.panels(len(panels), "attention that\nis kept, %")
    for one, (kind, question, group) in zip(axes, panels, strict=True):
        band = mean_band(group, "percent", by=["layer"])
        one.set_title(f"{figures.as_written(kind)}, question {question!r}\n{figures.counted(band)}")
        figures.curve(one, band, "layer", figures.COLORS["other"], "kept")
        figures.layer_axis(one)
    axes[0].set_ylim(0, 100)
    return figure


def headline(table: pd.DataFrame) -> list[str]:
    """How much is kept, and by how much a weight may be off."""
    lines, kept = [], max(table["n_kept"], default=0)
    for kind, question, group in figures.by_panel(pooled(_by_layer(table))):
        whole = group.groupby("sample", as_index=False)["percent"].mean().assign(of="all")
        band = mean_band(whole, "percent", by=["of"]).iloc[0]
        lines.append(
            f"{kind}, {question}: the {kept} largest weights of each row hold {in_words(band)} of "
            "the attention on the prompt, mean over layers."
        )
    return [*lines, f"No weight is off by more than {max(table['bound']):.4f}, measured."]


def _by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """A row per case and layer."""
    require_rows(table)
    rows: list[dict[str, Any]] = []
    for row in table.to_dict("records"):
        keys = {key: row[key] for key in KEYS}
        rows += [dict(keys, layer=i, percent=share) for i, share in enumerate(row["kept_share"])]
    made = pd.DataFrame(rows)
    made.attrs = {"twins": table.attrs.get("twins", {})}
    return made
