"""One engine on one target in a process of its own; ``children.py`` starts it and listens.

It writes lines that begin with ``@@`` and hold a JSON object each, as soon as it knows something,
so that a process that runs out of time has still said what it had.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import pathlib
import time
import warnings
from typing import Any

from roster import NAMES, engine_class

_PACKAGES = ("bayes", "jax", "numpyro", "blackjax", "pymc", "nutpie", "numba", "numpy")

# A second fit has another seed, and none that any run's first fit has.
OTHER_SEED = 1000
# In a fit that takes this long, compilation is a few per cent: it passes for a warm one where only
# that is asked for.
LONG = 100.0


def say(**what: Any) -> None:
    """Tell the parent."""
    print("@@ " + json.dumps(what), flush=True)


def timed_fit(engine: Any, seed: int) -> float:
    """Seconds of a fit."""
    begin = time.perf_counter()
    engine.fit(seed)
    return time.perf_counter() - begin


def figures(target: Any, outcome: Any) -> dict[str, Any]:
    """All that is judged of a fit."""
    from judging import convergence, is_right

    judged = {name: outcome.draws[name] for name in target.judged}
    shapes = [value.shape for value in judged.values()]
    found: dict[str, Any] = {
        "p": sum(int(_product(shape[2:])) for shape in shapes),
        "draws": shapes[0][1],
        **convergence(judged),
        "divergences": outcome.divergences,
        "leapfrogs": outcome.leapfrogs,
        "total": outcome.total,
        "ok": outcome.ok,
        "failed": list(outcome.failed),
    }
    if target.errors is not None:
        found.update(target.errors(judged))
    return {**found, "right": is_right(found)}


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def versions() -> dict[str, str]:
    """What is installed of the packages that matter."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def main() -> None:
    """Fit, twice in a first process, once and with a summary in a second one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=NAMES, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--pass", dest="which", choices=["first", "second", "warm"], required=True)
    parser.add_argument("--data", type=pathlib.Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    begin = time.perf_counter()
    try:
        engine = engine_class(options.engine)()
    except ImportError as error:
        say(skipped=f"not installed: {error}")
        return
    say(import_s=time.perf_counter() - begin)

    from targets import load_target

    try:
        target = load_target(options.target, options.data, program=options.engine != "nutpie")
        engine.prepare(target)
    except LookupError as error:
        say(skipped=str(error))
        return

    seconds = timed_fit(engine, options.seed)
    if options.which == "second":
        say(cached_s=seconds)
        engine.show()
        say(shown=True)
        return
    say(cold_s=seconds)
    if options.which == "warm" and seconds > LONG:
        say(warm_s=seconds)
        say(warm=figures(target, engine.outcome()))
        return
    cold = engine.outcome() if options.which == "first" else None
    say(warm_s=timed_fit(engine, options.seed + OTHER_SEED))
    say(versions=versions())
    if cold is not None:
        say(cold=figures(target, cold))
    say(warm=figures(target, engine.outcome()))


if __name__ == "__main__":
    main()
