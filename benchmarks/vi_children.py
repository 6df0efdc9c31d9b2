"""Processes that measure approximations; rows are kept and heard as in ``children.py``."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from children import _LEAKING, Record, Setup, _end, _line, _listen
from vi_roster import engine_class

PASS = "fits"


def measure(setup: Setup, record: Record, engine: str, target: str, seed: int) -> None:
    """Measure an engine on a target with one seed, unless that is done.

    Parameters
    ----------
    setup : Setup
    record : Record
    engine, target : str
    seed : int
    """
    if record.has(engine, target, seed, PASS):
        return
    cache = record.cache(engine, target, seed)
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    row = _run(setup, engine, target, seed, cache)
    record.add(row)
    print(_line(row), flush=True)
    shutil.rmtree(cache, ignore_errors=True)
    with contextlib.suppress(OSError):  # others' folders may be in it
        cache.parent.rmdir()


def _run(setup: Setup, engine: str, target: str, seed: int, cache: pathlib.Path) -> dict[str, Any]:
    """Start a process, listen until it ends or is out of time; its row."""
    row: dict[str, Any] = {"engine": engine, "target": target, "seed": seed, "pass": PASS}
    row.update(status="ok", when=time.strftime("%Y-%m-%dT%H:%M:%S"), timeout=setup.timeout)
    row["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    row["load"] = os.getloadavg()[0]
    command = [sys.executable, str(pathlib.Path(__file__).with_name("vi_child.py"))]
    command += ["--engine", engine, "--target", target, "--seed", str(seed)]
    if setup.data is not None:
        command += ["--data", str(setup.data)]
    environment = {k: v for k, v in os.environ.items() if k not in _LEAKING}
    environment.update(engine_class(engine).environment(cache))
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
            for _, said in _listen(process, begin, setup.timeout):
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
