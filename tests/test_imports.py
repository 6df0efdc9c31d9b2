"""What importing bayes costs, and what it imports only where it is needed."""

import subprocess
import sys

HEAVY = ("arviz_base", "arviz_stats", "matplotlib", "pandas", "xarray", "zarr")


def run(*lines):
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_tables_files_and_plots_are_imported_where_they_are_used():
    lines = ("import sys, bayes", "bayes.fit, bayes.NUTS, bayes.Posterior, bayes.Diagnostics")
    assert not set(run(*lines, "print(*sys.modules)")).intersection(HEAVY)
