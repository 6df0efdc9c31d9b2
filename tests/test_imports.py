"""What importing bayes costs, and what it imports only where it is needed."""

import subprocess
import sys
import threading

from bayes import prefetch

HEAVY = ("arviz_base", "arviz_stats", "matplotlib", "pandas", "xarray", "zarr")


def run(*lines):
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_tables_files_and_plots_are_imported_where_they_are_used():
    lines = ("import sys, bayes", "bayes.fit, bayes.NUTS, bayes.Posterior, bayes.Diagnostics")
    assert not set(run(*lines, "print(*sys.modules)")).intersection(HEAVY)


def test_prefetched_modules_are_there_when_they_are_asked_for():
    lines = (
        "from bayes.prefetch import prefetch",
        "prefetch(); prefetch()",
        "import pandas, xarray",
        "print(xarray.DataTree.__name__, pandas.DataFrame.__name__)",
    )
    assert run(*lines) == ["DataTree", "DataFrame"]


def test_program_that_ends_at_once_does_not_wait_for_prefetched_modules():
    lines = ("import sys", "from bayes.prefetch import prefetch", "prefetch()")
    assert run(*lines, "print(hasattr(sys.modules.get('xarray'), 'DataTree'))") == ["False"]


def test_module_that_cannot_be_imported_is_not_reported_before_it_is_used(monkeypatch):
    monkeypatch.setattr(prefetch, "_MODULES", ("no_such_module",))
    monkeypatch.setattr(prefetch, "_started", [])
    failed = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    prefetch.prefetch()
    prefetch._started[0].join()
    assert failed == []
