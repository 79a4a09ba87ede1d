"""Do the scripts run whose numbers will be quoted?"""

import pytest
import torch

from benchmarks import gpu


def test_the_gpus_table_is_made_in_small(tmp_path, capsys):
    """All figures, each with its peak of memory; bf16 has Hugging Face's bits on a CPU."""
    path, before = tmp_path / "gpu.md", torch.get_default_dtype()
    gpu.main(["--dry-run", "--cuda-graphs", "--out", str(path)])
    text = path.read_text()
    assert text == capsys.readouterr().out and "no number here is of a GPU" in text
    assert torch.get_default_dtype() == before
    assert text.count("| 0 / 0 |") == 2  # against sdpa, and against eager
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.endswith("iB |")]
    names = [cells[0].strip() for cells in rows]
    assert f"sweep of {gpu.SHAPES['dry run'].n_cuts} conditions" in names and len(rows) == 12
    assert sum(name.startswith("a prefilled case") for name in names) == 7
    assert all(float(cells[1]) > 0 for cells in rows)
    assert f"CUDA graphs: {gpu.NO_GRAPHS}." in text


@pytest.mark.parametrize("name", ["3B", "7B"])
def test_shapes_are_those_of_the_released_models(name):
    sizes = gpu.SHAPES[name]
    assert (sizes.n_pos, sizes.n_new, sizes.n_cuts) == (3250, 64, 72)
    chosen = gpu.chosen_cuts(sizes)
    assert len(set(chosen)) == 72 and {key for key, _ in chosen} == {"video", "audio"}


def test_without_a_gpu_nothing_is_called_a_measurement():
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="expected a GPU, got none"):
            gpu.main([])
