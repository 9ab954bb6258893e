"""Checkpoints of a rank whose weights or moments wait on the host, where a GPU brings them in the background."""

from types import SimpleNamespace

import pytest

from learner.verl import worker


@pytest.fixture
def told(monkeypatch):
    """What is done, in order."""
    told = []
    monkeypatch.setattr(worker, "get_torch_device", lambda: SimpleNamespace(synchronize=lambda: told.append("waited")))
    monkeypatch.setattr(worker, "get_device_name", lambda: "cuda")
    return told


def rank(told, params=False, optimizer=False):
    made = worker.LearnerWorker.__new__(worker.LearnerWorker)
    made.checkpointer = SimpleNamespace(save=lambda *_: told.append("saved"), load=lambda _: told.append("loaded"))
    made.engine = SimpleNamespace(
        is_param_offload_enabled=params,
        is_optimizer_offload_enabled=optimizer,
        to=lambda device, model, grad: told.append((device, model, grad)),
    )
    return made


def test_what_is_offloaded_has_arrived_before_it_is_saved(told, tmp_path):
    rank(told).save(str(tmp_path), print)
    assert told == ["waited", "saved"]


@pytest.mark.parametrize(
    ("params", "optimizer", "moved"),
    [(False, False, []), (True, True, []), (True, False, [("cuda", False, False)]), (False, True, [("cpu", False, False)])],
)
def test_moments_are_put_where_the_optimizer_keeps_them(told, tmp_path, params, optimizer, moved):
    rank(told, params, optimizer).load(str(tmp_path))
    assert told == ["waited", "loaded", *moved]
