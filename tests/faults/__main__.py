"""Every sink × every fault × its worker killed at random moments: `make faults`.

    make faults ARGS="--sinks webhook,jsonl --faults reject,hang --kills 8 --seed 7"

Prints a table, and what does not hold; exits with 0 only if every cell holds. A seed repeats the choices, not
the moments at which processes are.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from faults.crm import CRMS
from faults.matrix import Cell, cells, run_cell
from faults.subjects import SUBJECTS as OTHERS

SUBJECTS = (*OTHERS, *CRMS)

#: What is judged of a cell; `rest`, `retry` and `fault` are about the run itself.
JUDGED = ("state", "links", "order", "ids", "whole")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    names = [make.name for make in SUBJECTS]  # type: ignore[attr-defined]
    parser.add_argument("--sinks", default=",".join(name.replace(", ", " ") for name in names))
    parser.add_argument("--faults", default="", help="only these, by name; `kills only` is one of them")
    parser.add_argument("--kills", type=int, default=4, help="of the worker, per cell")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    wanted = {name.strip() for name in options.sinks.split(",")}
    sinks = [make for make in SUBJECTS if make.name.replace(", ", " ") in wanted]  # type: ignore[attr-defined]
    if not sinks:
        parser.error(f"--sinks: none of {', '.join(names)}")
    faults = [name.strip() for name in options.faults.split(",") if name.strip()]
    print(f"seed {options.seed}", flush=True)
    print(f"{'sink':<21}{'fault':<21}" + "".join(f"{name:<7}" for name in JUDGED), end="")
    print(f"{'changes':>8}{'arrived':>9}{'letters':>9}{'kills':>7}{'s':>6}", flush=True)
    failed = 0
    for make, fault in cells(sinks, faults):
        place = Path(tempfile.mkdtemp(prefix="cdcflow-faults-"))
        cell = run_cell(make, fault, place, seed=options.seed, kills=options.kills)
        print(row(cell), flush=True)
        for what, why in cell.wrong.items():
            print(f"    {what}: {why}", flush=True)
        if cell.wrong:
            failed += 1
            print(f"    what there is to look at is in {place}", flush=True)
        else:
            shutil.rmtree(place)
    print(f"{failed} cell(s) do not hold" if failed else "every cell holds")
    return 1 if failed else 0


def row(cell: Cell) -> str:
    verdicts = "".join(f"{'NO' if name in cell.wrong else 'yes':<7}" for name in JUDGED)
    figures = f"{cell.changes:>8}{cell.arrivals:>9}{cell.letters:>9}{cell.kills:>7}{cell.seconds:>6.0f}"
    return f"{cell.sink:<21}{cell.fault:<21}{verdicts}{figures}"


if __name__ == "__main__":
    sys.exit(main())
