"""The next viewer removes the temporary indexes of viewers that were killed, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from viewer.index.cache import Pruned, prune_temporary
from viewer.index.database import Database
from viewer.serve import prune_cache

ROOT = Path(__file__).parents[2]
KILLED = """
import os
from pathlib import Path
from viewer.index.database import Database
database = Database(Path("run"), "tests", Path("/dev/null"))
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary directory of this test's own."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


@pytest.fixture
def left(temporary):
    """The directory that a killed viewer left."""
    subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, env=os.environ | {"TMPDIR": str(temporary)}, check=False)
    (place,) = temporary.iterdir()
    return place


def test_what_a_killed_viewer_left_is_removed_and_said(left, temporary, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert (left / "index.sqlite").stat().st_size > 0
    said = []
    prune_cache([], said.append)
    assert not left.exists()
    assert len(said) == 1 and said[0].startswith("removed 1 index (") and said[0].endswith(f"killed from {temporary}")


def test_that_of_a_viewer_that_lives_stays(temporary):
    alive = Database(Path("run"), "tests", Path("/dev/null"))
    assert alive.temporary
    assert prune_temporary(temporary) == Pruned()
    (place,) = temporary.iterdir()
    assert (place / "index.sqlite").exists()
    alive.close()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("whose", ["another user's", "another machine's", "just being made", "without a lock", "a link"])
def test_what_may_be_somebody_elses_stays(left, temporary, tmp_path, monkeypatch, whose):
    if whose == "another user's":
        monkeypatch.setattr(os, "geteuid", lambda: left.stat().st_uid + 1)
    elif whose == "another machine's":
        (left / "index.lock").write_text("elsewhere\nrun")
    elif whose == "just being made":
        (left / "index.lock").write_text("")
    elif whose == "without a lock":
        (left / "index.lock").unlink()
    else:
        left.rename(tmp_path / "elsewhere")
        left.symlink_to(tmp_path / "elsewhere")
    assert prune_temporary(temporary) == Pruned()
    assert (left / "index.sqlite").exists()
