"""One engine on one target in a process of its own; ``vi_children.py`` starts it and listens.

It writes lines that begin with ``@@`` and hold a JSON object each, as soon as it knows something,
so that a process that runs out of time has still said what it had.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from child import LONG, OTHER_SEED, say, versions
from vi_roster import NAMES, engine_class, settings

_SHARE = 0.75


def timed(work: Callable[[int], None], seed: int) -> float:
    """Seconds of some work."""
    begin = time.perf_counter()
    work(seed)
    return time.perf_counter() - begin


def peak_memory() -> float:
    """The most memory that this process has had, in MB.

    What the system counts as a process's most includes, on Linux, what its parent had.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def limit_memory() -> None:
    """Have what asks for more than most of the machine's memory fail, and nothing else with it."""
    most = int(_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def figures(target: Any, outcome: Any) -> dict[str, Any]:
    """All that is judged of a fit."""
    from vi_judging import is_close, is_wrong

    judged = {name: outcome.draws[name] for name in target.judged}
    found: dict[str, Any] = {
        "draws": int(np.prod(next(iter(judged.values())).shape[:2])),
        "khat": outcome.khat,
        "ok": outcome.ok,
        "failed": list(outcome.failed),
        "about": outcome.about,
    }
    if target.errors is not None:
        found.update(target.errors(judged))
    return {**found, "wrong": is_wrong(found), "close": is_close(found)}


def main() -> None:
    """Fit twice, each time with weights afterwards where the engine has them apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=NAMES, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--data", type=pathlib.Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    limit_memory()

    begin = time.perf_counter()
    try:
        engine = engine_class(options.engine)(**settings(options.engine))
    except ImportError as error:
        say(skipped=f"not installed: {error}")
        return
    say(import_s=time.perf_counter() - begin)

    from vi_targets import load_target

    try:
        target = load_target(options.target, options.data)
        engine.prepare(target)
    except LookupError as error:
        say(skipped=str(error))
        return

    outcomes = {}
    for which, seed in (("cold", options.seed), ("warm", options.seed + OTHER_SEED)):
        try:
            seconds = timed(engine.fit, seed)
        except engine.refusals as error:
            say(skipped=str(error))
            return
        said = {f"{which}_s": seconds}
        if which == "cold":
            said["peak_mb"] = peak_memory()
        outcomes[which] = engine.outcome()
        if engine.weighs:
            said[f"{which}_weights_s"] = timed(engine.weigh, seed)
            outcomes[f"{which}_weights"] = engine.outcome()
        say(**said)
        if which == "cold" and seconds > LONG:
            # In a fit that takes this long compilation is a few per cent: it passes for a warm one.
            say(**{name.replace("cold", "warm"): value for name, value in said.items()})
            outcomes = {name.replace("cold", "warm"): left for name, left in outcomes.items()}
            break
    say(versions=versions())
    for name, left in outcomes.items():
        say(**{name: figures(target, left)})


if __name__ == "__main__":
    main()
