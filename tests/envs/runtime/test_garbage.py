"""What large libraries make while they are imported is neither searched for garbage then, nor ever after."""

import gc
import weakref

import pytest

from envs.runtime.garbage import permanent


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
    with permanent():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_was_made_inside_is_not_looked_at_afterwards():
    with permanent():
        kept = weakref.ref(Node())
    dropped = weakref.ref(Node())
    gc.collect()
    assert (kept() is None, dropped() is None) == (False, True)


def test_inside_another_one_the_outer_ends_it():
    with permanent():
        with permanent():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_who_has_switched_the_collector_off_finds_it_off():
    gc.disable()
    with permanent():
        pass
    assert not gc.isenabled()


def test_an_import_that_fails_switches_it_on_again():
    with pytest.raises(ImportError), permanent():
        raise ImportError
    assert gc.isenabled()
