"""Kronecker sparse Bayesian learning side by side: error, calibration, seconds, memory.

    python benchmarks/kronecker_sbl.py paper [--rank-one]    # He and Joseph's made-up problem
    python benchmarks/kronecker_sbl.py irs                   # their channel estimation, complex
    python benchmarks/kronecker_sbl.py speed                 # beside covariances that are formed
    python benchmarks/kronecker_sbl.py large                 # 16.8 million coefficients
    python benchmarks/kronecker_sbl.py pines [--pines FILE]  # a hyperspectral image
    python benchmarks/kronecker_sbl.py small                 # type-II intervals and those of NUTS
    python benchmarks/kronecker_sbl.py all

Seeds are 0, 1, ... (50 of paper and irs); one is the same data for all engines. What is measured
goes to --out, a JSON object a line; the same call goes on where it was stopped, and --report FILE
prints the tables of such a file only.

Ours run two programs: `flat` (improper priors of relevances and noise, the paper's type-II maximum
likelihood; `mm-flat`, `am`, `svd`, `ksbl`) and `half_normal` (relevances Gamma(1/2, 1/2), that is,
squares of half-normal scales, and noise HalfNormal(10); `mm`, `nuts`). The latter prior was chosen
on seeds 500 to 515 of `paper`, which are not measured here. Its rate is 1e-4 in `irs` and `pines`,
whose coefficients are larger. `mm-blocks`, of `irs`, knows besides that paths arrive from
neighbouring directions: relevances are C v with 0.8 beside the diagonal of C, as in the paper's
PC-KroSBL. All learn the noise; ridge is told it, omp is told how many
coefficients there are, oracle where they are. em-sbl, with a variance of its own for each
coefficient, runs on the first 5 seeds of `paper` alone; ard would take minutes a fit there, so that
it is in `small` only, unless --engines names it.

dsbl takes the outer product nearest to the observations first. Where coefficients are an outer
product (`paper --rank-one`, `irs`) that is quicker and can be more exact than Kronecker sparse
Bayesian learning, which makes no use of it. Where they are not, as in `paper`, it is wrong.

NMSE is |error|^2 / |truth|^2; of `irs` that of each pattern's channel, averaged over patterns, and
`pooled` that of all together. `covers`: coefficients on the true support inside their 90 %
intervals; of `irs` and `pines` all that is estimated. `cold`: the first fit of a program in the
process, compilation included. `warm`: the median of the others. Both are of bayes.fit, `solver` is
its method alone, `moments` what means and standard deviations take after it. Peers have one BLAS
thread, which is their best, but two where they form a covariance at the paper's size; bayes.fit
sets its own number. Every fit of `large` has a process, whose peak memory counts imports, truth and
all.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ["BAYES_CACHE"] = ""  # a first fit compiles

import kronecker_setups as setups
import numpy as np
from children import Record, read
from kronecker_peers import PEERS, Estimate, em_sbl, kronecker_em, need_sklearn
from kronecker_setups import Problem
from kronecker_tables import DENSE, FEW, report
from layout import number
from threadpoolctl import threadpool_limits

_CAPPED = {"starts": 1, "sweeps": FEW, "tolerance": 1e-300, "draws": 1}
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "mm": ("half_normal", {"update": "mm"}),
    "mm-flat": ("flat", {"update": "mm"}),
    "am": ("flat", {"update": "am"}),
    "svd": ("flat", {"update": "svd"}),
    "ksbl": ("flat", {"update": "ksbl"}),
    "mm-blocks": ("blocks", {"update": "mm"}),
    "nuts": ("half_normal", {"hyper": "nuts"}),
    f"am-{FEW}": ("flat", {"update": "am", **_CAPPED}),
}
OTHERS: dict[str, Callable[[Problem], Estimate]] = {
    **PEERS,
    DENSE: functools.partial(kronecker_em, sweeps=FEW, tolerance=0.0),
    f"em-sbl-{FEW}": functools.partial(em_sbl, sweeps=FEW),
}
ENGINES = (*OURS, *OTHERS)
_FORMED = ("em-sbl", "ard", DENSE, f"em-sbl-{FEW}")


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is measured.

    Parameters
    ----------
    make : callable
        A problem, from seed and signal-to-noise ratio in dB.
    ratios : tuple of float
        These ratios by default.
    seeds : int
        So many seeds by default.
    engines, columns : tuple of str
        Who, and what the table shows.
    seldom : dict
        Engines that run on fewer seeds.
    apart : bool
        Whether every fit has a process of its own.
    """

    make: Callable[..., Problem]
    ratios: tuple[float, ...]
    seeds: int
    engines: tuple[str, ...]
    columns: tuple[str, ...]
    seldom: dict[str, int] = dataclasses.field(default_factory=dict)
    apart: bool = False


_KRONECKER = ("mm", "mm-flat", "am", "svd", "ksbl")
_TIMES = ("cold", "warm", "solver", "moments", "sweeps", "ok")
_ERRORS = ("fits", "NMSE", "median", "x oracle", "covers")
_IRS = ("fits", "NMSE", "median", "pooled", "pooled median", "covers")
SETUPS = {
    "paper": Setup(
        setups.paper,
        (5, 15, 25),
        50,
        (*_KRONECKER, "dsbl", "omp", "oracle", "em-sbl"),
        (*_ERRORS, *_TIMES),
        {"em-sbl": 5},
    ),
    "rank-one": Setup(
        functools.partial(setups.paper, rank_one=True),
        (5, 15, 25),
        50,
        (*_KRONECKER, "dsbl", "omp", "oracle"),
        (*_ERRORS, *_TIMES),
    ),
    "irs": Setup(
        setups.irs,
        (4, 12, 20),
        50,
        ("mm", "mm-blocks", *_KRONECKER[1:], "dsbl", "oracle"),
        (*_IRS, *_TIMES),
    ),
    "speed": Setup(
        setups.paper,
        (15,),
        3,
        (f"am-{FEW}", "am", "mm-flat", DENSE, f"em-sbl-{FEW}"),
        ("fits", "sweeps", "seconds", "ms a sweep", "evidence", "dense / it"),
    ),
    "large": Setup(
        setups.large,
        (20,),
        1,
        ("mm", "mm-flat"),
        ("fits", "NMSE", "x oracle", "found", "wrong", "seconds", "solver", "moments", "GB", "ok"),
        apart=True,
    ),
    "pines": Setup(
        setups.pines,
        (30,),
        1,
        ("mm", "mm-flat", "am", "svd", "ridge"),
        ("fits", "error", "PSNR dB", "covers", "seconds", "solver", "moments", "sweeps", "ok"),
    ),
    "small": Setup(
        setups.small,
        (5, 15, 25),
        20,
        ("mm", "mm-flat", "nuts", "dsbl", "em-sbl", "ard", "omp", "oracle"),
        (*_ERRORS, *_TIMES),
    ),
}


def ours(engine: str, problem: Problem, seed: int) -> Estimate:
    """A fit of the project, with what matters in the place of the coefficients."""
    import bayes

    kind, settings = OURS[engine]
    program = setups.program(kind, problem.rate, problem.is_complex)
    begin = time.perf_counter()
    post = bayes.fit(program, problem.data, bayes.KroneckerSBL(**settings), seed=seed)
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    found = post.linear(*problem.maps) if problem.maps else post.moments("x")
    mean, sd = (np.asarray(found[name].values) for name in ("mean", "sd"))
    info = {
        "seconds": seconds,
        "moments_s": time.perf_counter() - begin,
        "solver_s": post.method.seconds,
        "ok": post.diagnostics.ok,
        **{k: post.method.info[k] for k in ("sweeps", "log_evidence") if k in post.method.info},
    }
    if "hyper" in settings:  # a mixture, whose intervals are those of its draws
        index = (..., *problem.on_support)
        low, high = np.quantile(post.draws("x").values[index], (0.05, 0.95), axis=(0, 1))
        truth = problem.x[problem.on_support]
        info["covers"] = float(np.mean((low <= truth) & (truth <= high)))
    return Estimate(mean, sd, info)


def measure(setup: Setup, engine: str, seed: int, ratio: float) -> dict[str, Any]:
    """Fit, and judge."""
    problem = setup.make(seed, ratio)
    load = os.getloadavg()[0]
    # Several threads only wait for each other in small factorisations.
    threads = 2 if engine in _FORMED and problem.y.size > 1000 else 1
    with threadpool_limits(threads, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if engine in OURS:
            found = ours(engine, problem, seed)
        else:
            begin = time.perf_counter()
            found = OTHERS[engine](problem)
            seconds = time.perf_counter() - begin
            mean = setups.apply(problem.maps, found.mean) if problem.maps else found.mean
            sd = None if problem.maps else found.sd
            found = Estimate(mean, sd, {"seconds": seconds, **found.info})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = {"load": load, "threads": threads, "peak_gb": peak, **found.info}
    row["nmse"] = setups.nmse(found.mean, problem.target)
    if problem.is_complex:
        row["nmse_by_slice"] = setups.nmse_by_slice(found.mean, problem.target)
    if found.sd is not None and "covers" not in row:
        # The modulus of a complex normal is beyond sqrt(ln 10) in a tenth of cases.
        width = np.sqrt(np.log(10)) if problem.is_complex else 1.6449
        inside = np.abs(found.mean - problem.target) <= width * found.sd
        row["covers"] = float(np.mean(inside if problem.maps else inside[problem.on_support]))
    if problem.support is None:
        rms = np.sqrt(np.mean((found.mean - problem.target) ** 2))
        row["psnr"] = float(20 * np.log10(np.ptp(problem.target) / rms))
    elif not problem.maps:
        row["found"], row["wrong"] = setups.slices_found(found.mean, problem.support)
        row["oracle"] = setups.nmse(PEERS["oracle"](problem).mean, problem.x)
    return row


# Measuring --------------------------------------------------------------------------------------


def _apart(*what: str) -> dict[str, Any]:
    """What a process of its own says."""
    call = [sys.executable, __file__, "--child", *what]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def run(name: str, options: argparse.Namespace, record: Record) -> None:
    """Measure what is not measured yet: engines innermost, so that a slow hour hits all alike."""
    setup, seen = SETUPS[name], set()
    engines = options.engines or setup.engines
    need_sklearn(engines)
    for ratio in options.snr or setup.ratios:
        target = f"{ratio:g} dB"
        for seed in range(options.seeds or setup.seeds):
            for engine in engines:
                seldom = setup.seldom.get(engine, np.inf) if not options.engines else np.inf
                if seed >= seldom or record.has(engine, target, seed, name):
                    continue
                compiled = OURS[engine][0] if engine in OURS else engine
                row = {"engine": engine, "target": target, "seed": seed, "pass": name}
                row |= {"first": setup.apart or compiled not in seen, "status": "ok"}
                seen.add(compiled)
                try:
                    if setup.apart:
                        row |= _apart(name, engine, str(seed), str(ratio))
                    else:
                        row |= measure(setup, engine, seed, ratio)
                except Exception as error:
                    row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
                record.add(row)
                print(_said(row), file=sys.stderr, flush=True)


def _said(row: dict[str, Any]) -> str:
    what = f"{row['pass']} {row['target']} seed {row['seed']} {row['engine']}: "
    if row["status"] != "ok":
        return what + row["reason"]
    return what + f"NMSE {number(row['nmse'])}, {number(row['seconds'])} s"


def main() -> None:
    """Measure, and print the tables."""
    if sys.argv[1:2] == ["--child"]:
        name, engine, seed, ratio = sys.argv[2:]
        print(json.dumps(measure(SETUPS[name], engine, int(seed), float(ratio))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setup", nargs="?", choices=[*SETUPS, "all"], help="what to measure")
    parser.add_argument("--rank-one", action="store_true", help="of paper: an outer product")
    parser.add_argument("--seeds", type=int, help="how many seeds")
    parser.add_argument("--snr", type=float, nargs="+", help="signal-to-noise ratios in dB")
    parser.add_argument("--engines", nargs="+", metavar="NAME", choices=ENGINES)
    parser.add_argument("--pines", type=pathlib.Path, help="the cube of Indian Pines, an .npy file")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results/kronecker.jsonl"))
    parser.add_argument("--report", type=pathlib.Path, help="print the tables of a file only")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown")
    options = parser.parse_args()
    columns = {name: setup.columns for name, setup in SETUPS.items()}
    if options.report:
        print(report(read(options.report), columns, ENGINES, markdown=options.markdown))
        return
    if options.setup is None:
        parser.error("which set-up? There are " + ", ".join([*SETUPS, "all"]))
    names = list(SETUPS) if options.setup == "all" else [options.setup]
    if options.rank_one and names == ["paper"]:
        names = ["rank-one"]
    path = options.pines or setups.pines_path()
    if "pines" in names:
        if path is None or not path.exists():
            sys.exit("where is the cube of Indian Pines? --pines FILE, or install tensorly")
        SETUPS["pines"] = dataclasses.replace(
            SETUPS["pines"], make=functools.partial(setups.pines, path=path)
        )
    record = Record(options.out)
    for name in names:
        run(name, options, record)
    rows = (row for row in read(options.out) if row["pass"] in names)
    print(report(rows, columns, ENGINES, markdown=options.markdown))


if __name__ == "__main__":
    main()
