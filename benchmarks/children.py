"""Processes that measure, and the file of what they said: one JSON object a line, resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from roster import engine_class

# An engine sets its own variables; the shell's are not to leak in.
_LEAKING = (
    "BAYES_CACHE",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_ENABLE_X64",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTENSOR_FLAGS",
    "XLA_FLAGS",
)


@dataclasses.dataclass(frozen=True)
class Setup:
    """How children are run.

    Parameters
    ----------
    timeout : float
        Seconds from the start of a process to its last fit; judging gets as long again.
    data : pathlib.Path, optional
        Folder of reference posteriors.
    nutpie_python : str, optional
        Interpreter of the environment with PyMC and nutpie.
    child : str
        The file beside this one that a process runs.
    engines : callable
        The class of an engine, from its name.
    only : str, optional
        The pass, where children know but one and are not told of it.
    """

    timeout: float = 300.0
    data: pathlib.Path | None = None
    nutpie_python: str | None = None
    child: str = "child.py"
    engines: Callable[[str], Any] = engine_class
    only: str | None = None


class Record:
    """The file of rows.

    Parameters
    ----------
    path : pathlib.Path
        Rows are appended; those of a repeated measurement replace the earlier ones when read.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._status = {key(row): row["status"] for row in read(path)}

    def has(self, *wanted: Any) -> bool:
        """Whether (engine, target, seed, pass) is measured, or known to take too long."""
        return self._status.get(wanted) in ("ok", "timeout")

    def timed_out(self, *wanted: Any) -> bool:
        """Whether it is known to take too long."""
        return self._status.get(wanted) == "timeout"

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._status[key(row)] = row["status"]

    def cache(self, engine: str, target: str, seed: int) -> pathlib.Path:
        """The folder in which a pair of processes keeps what it compiled."""
        name = f"{engine}-{target}-{seed}".replace(":", "_").replace("/", "_")
        return self.path.with_suffix(".caches").absolute() / name


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a file, each measurement once, the latest."""
    if not path.exists():
        return []
    rows: dict[tuple, dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut off when the run was killed
            continue
        rows[key(row)] = row
    return list(rows.values())


def key(row: dict[str, Any]) -> tuple:
    """What makes a measurement the same."""
    return row["engine"], row["target"], row["seed"], row["pass"]


def measure(
    setup: Setup, record: Record, engine: str, target: str, seed: int, *, pair: bool = True
) -> None:
    """Measure an engine on a target with one seed, unless that is done.

    Parameters
    ----------
    setup : Setup
    record : Record
    engine, target : str
    seed : int
    pair : bool
        A first and a second process; otherwise one that only tells of its warm fit.
    """
    passes = ("first", "second") if pair else ("warm",)
    if setup.only is not None:
        passes = (setup.only,)
    wanted = [which for which in passes if not record.has(engine, target, seed, which)]
    if not wanted or record.timed_out(engine, target, seed, "first"):
        return  # a second process would fare no better than a first one that took too long
    cache = record.cache(engine, target, seed)
    if wanted == ["second"] and not cache.exists():
        wanted = ["first", "second"]  # the cache that it was to find is gone
    for which in wanted:
        if which != "second":
            shutil.rmtree(cache, ignore_errors=True)
            cache.mkdir(parents=True)
        row = _run(setup, engine, target, seed, which, cache)
        record.add(row)
        print(_line(row), flush=True)
        if row["status"] != "ok":
            break
    shutil.rmtree(cache, ignore_errors=True)
    with contextlib.suppress(OSError):  # others' folders may be in it
        cache.parent.rmdir()


def _line(row: dict[str, Any]) -> str:
    times = [f"{k[:-2]} {v:.2f}" for k, v in row.items() if k.endswith("_s")]
    label = f"{row['target']:<42}{row['engine']:<15}{row['seed']:>3} {row['pass']:<7}"
    return f"{label}{row['status']:<8} {'  '.join(times)} {row.get('reason', '')}".rstrip()


def _run(
    setup: Setup, engine: str, target: str, seed: int, which: str, cache: pathlib.Path
) -> dict[str, Any]:
    """Start a process, listen until it ends or is out of time; its row."""
    row: dict[str, Any] = {"engine": engine, "target": target, "seed": seed, "pass": which}
    row.update(status="ok", when=time.strftime("%Y-%m-%dT%H:%M:%S"), timeout=setup.timeout)
    row["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    row["load"] = os.getloadavg()[0]
    python = setup.nutpie_python if engine == "nutpie" else sys.executable
    if python is None:
        return {**row, "status": "skipped", "reason": "nutpie needs --nutpie-python"}
    command = [python, str(pathlib.Path(__file__).with_name(setup.child)), "--engine", engine]
    command += ["--target", target, "--seed", str(seed)]
    if setup.only is None:
        command += ["--pass", which]
    if setup.data is not None:
        command += ["--data", str(setup.data)]
    environment = {k: v for k, v in os.environ.items() if k not in _LEAKING}
    environment.update(setup.engines(engine).environment(cache))
    with tempfile.TemporaryFile() as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            for seconds, said in _listen(process, begin, setup.timeout):
                if said.pop("shown", False):
                    row["process_s"] = seconds
                row.update(said)
        except TimeoutError:
            row["status"] = "timeout"
            os.killpg(process.pid, signal.SIGKILL)
        finally:
            _end(process)
        errors.seek(0)
        complaint = errors.read().decode(errors="replace").strip().splitlines()
    if "skipped" in row:
        row.update(status="skipped", reason=row.pop("skipped"))
    elif row["status"] == "ok" and process.returncode != 0:
        reason = complaint[-1][:300] if complaint else f"exit code {process.returncode}"
        row.update(status="failed", reason=reason)
    return row


def _listen(
    process: subprocess.Popen, begin: float, timeout: float
) -> Iterator[tuple[float, dict[str, Any]]]:
    """What the process says, each with the seconds since it was started."""
    lines: queue.Queue[tuple[float, str | None]] = queue.Queue()

    def hear() -> None:
        for line in process.stdout or ():
            lines.put((time.perf_counter() - begin, line))
        lines.put((time.perf_counter() - begin, None))

    threading.Thread(target=hear, daemon=True).start()
    limit = timeout
    while True:
        left = limit - (time.perf_counter() - begin)
        try:
            seconds, line = lines.get(timeout=max(left, 0.01))
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            return
        if line.startswith("@@ "):
            said = json.loads(line[3:])
            if "warm_s" in said:
                limit += timeout
            yield seconds, said


def _end(process: subprocess.Popen) -> None:
    """See the process out, by force where it is still running a little later."""
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
