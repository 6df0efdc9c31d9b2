"""The folder of compiled functions stays small."""

import os
import time

import filelock
import pytest

from bayes import compilation


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with six entries, used one after the other."""
    monkeypatch.setattr(compilation, "_CACHE_ENTRIES", 4)
    for age in range(6):
        (tmp_path / f"jit_{age}-cache").write_bytes(b"compiled")
        used = tmp_path / f"jit_{age}-atime"
        used.write_bytes(b"")
        os.utime(used, times=(time.time() - age,) * 2)
    return tmp_path


def entries(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_entries_not_used_for_longest_are_removed(folder):
    compilation._prune(str(folder))
    assert entries(folder) == ["jit_0-atime", "jit_0-cache", "jit_1-atime", "jit_1-cache"]
    compilation._prune(str(folder))
    assert len(entries(folder)) == 4


def test_nothing_is_removed_while_another_process_reads(folder):
    with filelock.FileLock(folder / ".lockfile"):
        compilation._prune(str(folder))
    assert len(entries(folder)) == 12
