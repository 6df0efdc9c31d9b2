"""Tutorials run as they are, in their small versions, and what they print and draw is right."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np

FOLDER = pathlib.Path(__file__).parent.parent / "tutorials"
PICTURES = {
    "amortized": ("priors", "stream"),
    "hyperspectral": ("bands", "spectra", "relevance"),
    "sparse_recovery": ("climbs", "channel", "rank_one"),
}


def run(tmp_path, *arguments, small=True):
    """A tutorial in a process of its own, whose pictures go below `tmp_path`."""
    env = {k: v for k, v in os.environ.items() if k != "BAYES_TUTORIAL"}
    env |= {"MPLBACKEND": "Agg"} | ({"BAYES_TUTORIAL": "small"} if small else {})
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def small_run(tmp_path, name):
    """What its small version prints; every picture is there, and not blank."""
    from matplotlib.image import imread

    done = run(tmp_path, FOLDER / f"{name}.py")
    assert done.returncode == 0, done.stderr
    drawn = tmp_path / "results" / "tutorials"
    wanted = {f"{name}_{picture}.png" for picture in PICTURES[name]}
    assert {p.name for p in drawn.iterdir()} == wanted
    for path in drawn.iterdir():
        assert np.std(imread(path)) > 0.05, path.name
    return done.stdout


def numbers(text, pattern):
    """The groups of the only match."""
    (found,) = re.findall(pattern, text)
    return [float(v) for v in (found if isinstance(found, tuple) else (found,))]


def test_there_are_as_many_tutorials_as_the_readme_lists():
    names = sorted(p.stem for p in FOLDER.glob("*.py"))
    listed = re.findall(r"^\| `(\w+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert names == sorted(listed) == sorted(PICTURES)
    for name in names:
        text = (FOLDER / f"{name}.py").read_text()
        assert "format_name: percent" in text
        assert text.count("\n# %% [markdown]\n") >= 5


def test_hyperspectral(tmp_path):
    """Deterministic but for rounding: 0.151 and 89.3 %, 0.751 and 31 % with fewer bands."""
    text = small_run(tmp_path, "hyperspectral")
    (error,) = numbers(text, r"Kronecker SBL: relative error ([\d.]+)")
    (ridge,) = numbers(text, r"ridge: relative error ([\d.]+)")
    (spectrum,) = numbers(text, r"mean spectrum: relative error ([\d.]+)")
    assert error < 0.17 < spectrum < ridge
    (inside,) = numbers(text, r"intervals hold ([\d.]+)% of all values\n(?=log)")
    assert 85 < inside < 97
    assert "15 x 15 x 10 instead" in text
    bands = [float(v) for v in re.findall(r"(\d+)% of other bands", text)]
    assert len(bands) == 2
    assert bands[1] < bands[0] - 20


def test_hyperspectral_says_what_to_install(tmp_path):
    without = (
        "import runpy, sys; sys.modules['tensorly'] = None; "
        f"runpy.run_path({str(FOLDER / 'hyperspectral.py')!r}, run_name='__main__')"
    )
    done = run(tmp_path, "-c", without, small=False)
    assert done.returncode == 1
    assert "pip install tensorly" in done.stderr
    assert "BAYES_TUTORIAL=small" in done.stderr


def test_sparse_recovery(tmp_path):
    """Deterministic but for rounding; bounds leave a factor of about 1.5 to what is printed."""
    text = small_run(tmp_path, "sparse_recovery")
    (against_best,) = numbers(text, r"mm, sparse priors: ([\d.]+) times")
    assert against_best < 2.5
    (kept, told, right) = numbers(
        text, r"27 true, (\d+) kept, (\d+) told from zero,\s+of which (\d+)"
    )
    assert kept == 27
    assert told == right >= 15
    (missing,) = numbers(text, r"missing: NMSE ([\d.]+)")
    assert missing < 0.006
    each, together = numbers(text, r"snapshots: NMSE ([\d.]+) one at a time, ([\d.]+) together")
    assert together < 0.8 * each
    blocks, plain = numbers(text, r"blocks: median NMSE ([\d.]+); sparse: median NMSE ([\d.]+)")
    assert blocks < 0.9 * plain
    (sampled,) = numbers(text, r"hyper=nuts: 90 % intervals hold (\d+)%")
    assert sampled >= 85
    assert "covariates told from zero: [3, 11, 24, 25, 40, 57]" in text
    sparse, ordinary = numbers(text, r"regression: NMSE ([\d.]+), least squares ([\d.]+)")
    assert sparse < 0.1 * ordinary
    (channel,) = numbers(text, r"channel at 12 dB: median NMSE ([\d.]+)")
    assert channel < 0.004
    whole, split = numbers(text, r"arbitrary .*NMSE ([\d.]+) together, ([\d.]+) split first")
    assert whole < 0.003
    assert split > 0.3


def test_amortized(tmp_path):
    """Priors and chains as with exact methods.

    Both sides of a mean have 400 effective draws at least, so that it is off by 0.07 sd; over six
    means 0.28 sd is a false alarm of 1 in 2000. Weighted draws of the chain, against quadrature,
    have one such error: 4.5 of them are 0.225 sd, and 1 in 70 000 for both means.
    """
    text = small_run(tmp_path, "amortized")
    apart = [float(v) for v in re.findall(r"at most ([\d.]+) sd apart", text)]
    assert len(apart) == 3
    assert max(apart) < 0.28
    shifted, written = numbers(text, r"mu ~ .* mean of mu ([\d.]+), with NUTS ([\d.]+);")
    assert min(shifted, written) > 8  # as written it is 4.4
    (psis, adapted, ok) = numbers(text, r"8 data sets: (\d+) psis, (\d+) adapted, .*; (\d+) ok")
    assert psis + adapted >= 6
    assert ok >= 7
    assert re.search(r"points: (adapted|nuts), \d+ ms, ok: True", text)
    assert text.count("note: the data are") == 2
    inside = [float(v) for v in re.findall(r"intervals hold the truth in ([\d.]+)%; median", text)]
    assert len(inside) == 2
    assert all(80 < v < 97 for v in inside)
    assert "the same draws: True" in text
    assert re.search(r"refused: .* was trained for another program", text)
    assert "The chain is near the posterior of 4 batches" in text
    for site in ("mean", "sd"):
        (row,) = re.findall(rf"^{site} +([-\d. ]+)$", text, re.MULTILINE)
        centre, spread = numbers(text, rf"by quadrature: {site} ([\d.]+) ± ([\d.]+)")
        assert abs(float(row.split()[1]) - centre) < 0.225 * spread
