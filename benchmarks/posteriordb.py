"""Fit every posterior of a folder of reference posteriors with default settings.

    python benchmarks/posteriordb.py --data DIR [--only NAME ...] [--seed N] [--reparam auto]

DIR holds ``harness.py`` (``names()``, ``load(name)``, ``check(name, draws)``) and the posteriors. A
posterior is right when all means lie within 4 combined standard errors of the reference, all
standard deviations within 10 %, R-hat is below 1.01 and every effective sample size at least 400.
The verdict must agree: a fit that is not right must not be called ok.
"""

from __future__ import annotations

import argparse
import importlib.util
import pathlib
import sys
import time
import warnings
from types import ModuleType

import bayes
from bayes.diagnostics.convergence import convergence

MAX_Z, MAX_SD, MAX_RHAT, MIN_ESS = 4.0, 0.10, 1.01, 400


def load_harness(folder: pathlib.Path) -> ModuleType:
    """Import the folder's checker."""
    spec = importlib.util.spec_from_file_location("harness", folder / "harness.py")
    if spec is None or spec.loader is None or not (folder / "harness.py").exists():
        sys.exit(f"{folder} has no harness.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(harness: ModuleType, name: str, seed: int, reparam: str | None) -> tuple[str, bool, bool]:
    """Fit one posterior; the printed line, whether it is right and whether it is called ok."""
    model, data, _ = harness.load(name)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        post = bayes.fit(model, data, seed=seed, reparam=reparam)
    seconds = time.perf_counter() - begin
    draws = {str(k): v.values for k, v in post.data["posterior"].data_vars.items()}
    report = harness.check(name, draws)
    found = convergence(post.data["posterior"].to_dataset(), None)
    rhat, bulk, tail = found.worst_rhat[0], found.worst_bulk[0], found.worst_tail[0]
    stats = post.data["sample_stats"]
    right = (
        report["max_abs_z"] <= MAX_Z
        and report["max_rel_sd_err"] <= MAX_SD
        and rhat < MAX_RHAT
        and min(bulk, tail) >= MIN_ESS
    )
    ok = post.diagnostics.ok
    failed = ", ".join(c.name for c in post.diagnostics.failed)
    info = post.method.info
    line = (
        f"{name:<42}{report['n_params']:>5}{report['max_abs_z']:>7.1f}"
        f"{report['max_rel_sd_err']:>7.3f}{rhat:>8.4f}{bulk:>7.0f}{tail:>7.0f}"
        f"{int(stats['diverging'].sum()):>5}{float(stats['n_steps'].mean()):>7.1f}"
        f"{info['target_accept']:>6.2f} {info['metric']:<9}{seconds:>7.1f}"
        f"  {'right' if right else 'WRONG':<6} {'ok' if ok else 'not ok: ' + failed}"
    )
    return line, right, ok


def main() -> None:
    """Run all and print a table and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reparam", choices=["auto"])
    options = parser.parse_args()
    harness = load_harness(options.data)
    names = options.only or harness.names()
    print(
        f"{'posterior':<42}{'p':>5}{'max|z|':>7}{'sd err':>7}{'R-hat':>8}{'bulk':>7}{'tail':>7}"
        f"{'div':>5}{'leaps':>7}{'acc':>6} {'metric':<9}{'s':>7}  verdict"
    )
    rights, oks, trusted_wrong = 0, 0, []
    for name in names:
        line, right, ok = run(harness, name, options.seed, options.reparam)
        print(line, flush=True)
        rights, oks = rights + right, oks + ok
        if ok and not right:
            trusted_wrong.append(name)
    print(
        f"{len(names)} posteriors: {rights} right, {oks} called ok, "
        f"{len(trusted_wrong)} called ok but not right {' '.join(trusted_wrong)}"
    )


if __name__ == "__main__":
    main()
