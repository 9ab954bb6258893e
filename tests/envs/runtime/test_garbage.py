"""What large libraries make while they are imported is neither searched for garbage then, nor ever after."""

import gc
import weakref

import pytest

from envs.runtime.garbage import importing


class Node:
    """Garbage once nothing else refers to it: it refers to itself."""

    def __init__(self):
        self.itself = self


@pytest.fixture(autouse=True)
def collecting():
    """The collector as it is in a process of its own."""
    assert gc.isenabled()
    yield
    gc.enable()


def test_nobody_looks_for_garbage_meanwhile():
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_came_with_an_import_is_not_looked_at_afterwards(tmp_path, monkeypatch):
    (tmp_path / "never_imported_before.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with importing():
        import never_imported_before  # noqa: F401

        kept = weakref.ref(Node())
    dropped = weakref.ref(Node())
    gc.collect()
    assert (kept() is None, dropped() is None) == (False, True)


def test_without_an_import_all_is_looked_at():
    with importing():
        dropped = weakref.ref(Node())
    gc.collect()
    assert dropped() is None


def test_inside_another_one_the_outer_ends_it():
    with importing():
        with importing():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_who_has_switched_the_collector_off_finds_it_off():
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled()


def test_an_import_that_fails_switches_it_on_again():
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
