"""What gives the organisms their hearing back, on clips that nothing was chosen on?

    python -m benchmarks.mitigation [--clips 9]

Counterfactual clips of a world of seed 11, asked what is heard and what is seen. Steering vectors
are fitted, and each mitigation's setting is chosen, on the first half of the clips (by picture);
the numbers are of the second. Then the same settings on `organism-balanced`, its vectors its own.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from analyses import mitigation
from analyses.cases import Case, read_cases
from analyses.mitigation.figure import reported
from analyses.mitigation.vectors import fit, half, write_vectors
from benchmarks.timing import machine
from data_prep.organism.world.dataset import write_world
from hooked_omni import load

N_NEW, SEED = 16, 11
SOUND = "last+generated x{}-> A @ 3-5"
TRIED = {
    "no video in blocks 3 to 5": ["last+generated !-> V @ 3-5"],
    "more sound in blocks 3 to 5": [SOUND.format(x) for x in (2, 3, 4, 6)],
    "plain and more sound": [f"contrast; 1; 8 {SOUND.format(x)}" for x in (4, 6)],
    "against no sound": [f"contrastive audio a={a} plausible=0" for a in (1, 4)],
    "against no sound, plausible": ["contrastive audio a=2 plausible=0.01"],
    "against silence": ["silence a=4 plausible=0.01"],
    "VCD": ["vcd a=1"],
    "AVCD": ["avcd"],
}
STEERED = {
    f"steer {name}": [f"steer {name} x{x} @ {layer}" for layer in (1, 3, 4) for x in (2, 4, 8)]
    for name in ("sound - silence", "black - clip", "factual - counterfactual")
}


def main() -> None:
    """Print a table for each organism."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=9, help="of each of the world's things")
    clips = parser.parse_args().clips
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder), clips, SEED, "test")
        manifest = Path(folder, "pairs.jsonl")
        cases = read_cases(manifest, ("hear", "see"), ["counterfactual"])
        own: dict[str, list[str]] | None = None
        for name in ("organism-biased", "organism-balanced"):
            fitted = read_cases(manifest, ("hear",))
            found = _found(name, cases, fitted, Path(folder, f"{name}.safetensors"), own)
            real = found[~found["random"] & (found["setting"] != "")]
            own = own or {row.mitigation: [row.setting] for row in real.itertuples()}


def _found(name: str, cases: list[Case], fitted: list[Case], path: Path, own: Any) -> Any:
    omni = load(name)
    write_vectors(path, omni, fit(omni, fitted, N_NEW), fitted)
    config = mitigation.Config(own or TRIED | STEERED, str(path), max_new_tokens=N_NEW)
    counted = cases if own is None else [case for case in cases if half(case) == "second"]
    found = reported(mitigation.run(omni, counted, config))
    n = found["heard"].iloc[0]["n"]
    print(f"\n{name}, {len(cases) // 2} clips, {n} reported\n")
    print(f"| mitigation | setting | heard | seen | plain log p | cost |\n{'|---' * 6}|")
    for row in found.to_dict("records"):
        label = row["mitigation"] + ", at random" * row["random"]
        heard, seen = (f"{row[what]['mean']:.0f} %" for what in ("heard", "seen"))
        more = f"{row['fluency']['mean']:.2f} | {row['cost']['mean']:.2f}"
        print(f"| {label} | `{row['setting']}` | {heard} | {seen} | {more} |", flush=True)
    return found


if __name__ == "__main__":
    main()
