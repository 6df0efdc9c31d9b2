"""Approximations side by side: error, verdict, seconds and memory, every fit in a fresh process.

    python benchmarks/vi.py [--data DIR] [--only NAME ...] [--engines NAME ...] [--seeds N]
    python benchmarks/vi.py --report FILE [--markdown]

README.md beside this file says what is measured and what the columns mean. What is measured goes to
a file, line by line; the same call again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from children import Record, Setup, read
from targets import reference_names
from vi_children import measure
from vi_roster import NAMES
from vi_tables import report
from vi_targets import OWN


def main() -> None:
    """Measure what is not measured yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help="folder of reference posteriors")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="targets")
    parser.add_argument("--engines", nargs="+", metavar="NAME", choices=NAMES)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds (default 1)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds a process")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results/vi.jsonl"))
    parser.add_argument("--report", type=pathlib.Path, help="print the tables of a file only")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown")
    options = parser.parse_args()
    if options.report:
        print(report(read(options.report), markdown=options.markdown))
        return

    known = [*(reference_names(options.data) if options.data else ()), *OWN]
    names = options.only or known
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no target {', '.join(unknown)}; there are {', '.join(known)}")
    setup, record = Setup(options.timeout, options.data), Record(options.out)
    # Seeds outermost, engines innermost: a slow hour of the machine hits all engines alike, and a
    # run that is stopped early has every target.
    for seed in range(options.seeds):
        for target in names:
            for engine in options.engines or NAMES:
                measure(setup, record, engine, target, seed)
    print()
    print(report(read(options.out), markdown=options.markdown))


if __name__ == "__main__":
    main()
