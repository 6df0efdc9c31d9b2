"""A run that is killed goes on and ends with the same draws, to the bit."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from models_for_tests import SCHOOLS_DATA, schools

import bayes
from bayes.checkpoint import Checkpoint

SETTINGS = {"chains": 2, "warmup": 150, "draws": 60_000, "target_accept": 0.9}

CHILD = """
import sys, warnings
sys.path.insert(0, {tests!r})
import numpy as np, bayes
from models_for_tests import SCHOOLS_DATA, schools
warnings.simplefilter("ignore")
from bayes.inference import pacing
pacing.BLOCK_SECONDS = {block}   # many blocks, so that a kill lands anywhere
method = bayes.NUTS(**{settings!r})
print("ready", flush=True)
post = bayes.fit(schools, SCHOOLS_DATA, method, seed=3, reparam="auto", checkpoint={path!r})
np.savez({out!r}, mu=post.draws("mu").values, theta=post.draws("theta").values,
         energy=post.data["sample_stats"]["energy"].values)
print("done", flush=True)
"""


def child(tmp_path: pathlib.Path, name: str, block: float) -> tuple[subprocess.Popen, pathlib.Path]:
    out = tmp_path / f"{name}.npz"
    code = CHILD.format(
        tests=str(pathlib.Path(__file__).parent),
        settings=SETTINGS,
        path=str(tmp_path / f"{name}-checkpoint"),
        out=str(out),
        block=block,
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process, out


def test_killed_ten_times_gives_the_same_bits(tmp_path: pathlib.Path) -> None:
    whole, whole_out = child(tmp_path, "whole", block=0.5)
    output, errors = whole.communicate(timeout=300)
    assert "done" in output, errors

    rng = random.Random(21)
    folder = tmp_path / "cut-checkpoint"
    kills, blocks, sampling = 0, [], []
    # Ten times, and more where a slow machine has not come to sampling by then.
    while kills < 10 or (not sampling[-1] and kills < 30):
        process, out = child(tmp_path, "cut", block=0.001)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before = _blocks(folder)
        deadline = time.monotonic() + 120
        # Wait until this process has written some blocks of its own, then kill it at any moment.
        own = rng.randint(2, 20) if kills else 1
        while process.poll() is None and _blocks(folder) < before + own:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.03))
        if process.poll() is not None:
            pytest.fail("the run ended before it could be killed ten times: make it longer")
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        blocks.append(_blocks(folder))
        sampling.append(any(folder.glob("chunk*.npz")))
    assert blocks == sorted(blocks)
    assert sampling[-1], "the kills all came before the first draw: choose other moments"
    assert not sampling[0], "the kills all came after the warm-up: choose other moments"
    process, out = child(tmp_path, "cut", block=0.5)
    output, errors = process.communicate(timeout=300)
    assert "done" in output, errors
    a, b = np.load(whole_out), np.load(out)
    for name in ("mu", "theta", "energy"):
        np.testing.assert_array_equal(a[name], b[name])


def _blocks(folder: pathlib.Path) -> int:
    states = [f.name for f in folder.glob("state*.npz")] if folder.exists() else []
    return max((int(name[5:12]) for name in states), default=0)


FAST = bayes.NUTS(chains=2, warmup=100, draws=100, target_accept=0.9)


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
class TestCheckpoint:
    def run(self, path, **changes):
        options = {"method": FAST, "seed": 0, "reparam": "auto", **changes}
        data = options.pop("data", SCHOOLS_DATA)
        model = options.pop("model", schools)
        return bayes.fit(model, data, checkpoint=path, **options)

    def test_a_finished_run_is_returned_as_it_is(self, tmp_path):
        first = self.run(tmp_path / "c")
        again = self.run(tmp_path / "c")
        np.testing.assert_array_equal(first.draws("theta"), again.draws("theta"))

    def test_without_checkpoint_the_draws_are_the_same(self, tmp_path):
        kept = self.run(tmp_path / "c")
        free = self.run(None)
        np.testing.assert_array_equal(kept.draws("theta"), free.draws("theta"))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"seed": 1}, "seed"),
            ({"method": bayes.NUTS(chains=2, warmup=100, draws=101)}, "settings"),
            ({"method": bayes.HMC(chains=2, warmup=100, draws=100)}, "method"),
            ({"data": {**SCHOOLS_DATA, "y": SCHOOLS_DATA["y"] + 1}}, "log density|data"),
            ({"reparam": None}, "reparametrisation"),
        ],
    )
    def test_another_run_is_refused(self, tmp_path, change, words):
        self.run(tmp_path / "c")
        with pytest.raises(bayes.FileError, match=words):
            self.run(tmp_path / "c", **change)

    def test_a_damaged_chunk_is_refused(self, tmp_path):
        self.run(tmp_path / "c")
        chunk = sorted((tmp_path / "c").glob("chunk*.npz"))[0]
        content = bytearray(chunk.read_bytes())
        content[len(content) // 2] ^= 1
        chunk.write_bytes(bytes(content))
        with pytest.raises(bayes.FileError, match="damaged"):
            self.run(tmp_path / "c")

    def test_a_foreign_folder_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(bayes.FileError, match="not a checkpoint"):
            self.run(tmp_path)
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_states_of_older_blocks_are_removed(self, tmp_path):
        self.run(tmp_path / "c")
        assert len(list((tmp_path / "c").glob("state*.npz"))) == 1

    def test_any_pytree_of_arrays_is_kept(self, tmp_path):
        identity = {"model": {"sites": [], "sampled": [], "log_density": []}}
        for key in ("data", "method", "settings", "seed", "versions"):
            identity[key] = ""
        state = {"a": np.arange(3), "b": (np.ones((2, 2)), [np.asarray(1.5)])}
        kept = Checkpoint(tmp_path / "c", identity)
        kept.save(state, {"x": np.zeros((1, 2))})
        loaded = Checkpoint(tmp_path / "c", identity).load(jax.tree.map(np.zeros_like, state))
        assert loaded is not None
        restored, chunks = loaded
        jax.tree.map(np.testing.assert_array_equal, state, restored)
        assert len(chunks) == 1
