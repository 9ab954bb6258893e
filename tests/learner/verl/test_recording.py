"""What is recorded of a policy step is what it computed: per row, on sampled tokens, before the first optimizer step."""

import numpy as np
import pytest
import torch

from envs.errors import InfrastructureError
from learner.verl.recording import ROW, Recording, Watch, learned
from learner.verl.rows import Rows
from rollout.learned import LearnedFiles, read_learned


@pytest.fixture
def rows():
    """Chain 1 of one episode, filler, and chain 0 of another; of each row the last two tokens were sampled."""
    mask = np.array([0, 0, 1, 1, 0, 0, 0, 1, 1], dtype=bool)
    return Rows(
        episodes_R=np.array([0, -1, 1]),
        chains_R=np.array([1, 0, 0]),
        names_R=["a", "filler", "b"],
        lengths_R=np.array([4, 2, 3]),
        temperatures_R=np.ones(3),
        images_R=[[], [], []],
        tokens_S=np.arange(9),
        loss_mask_S=mask,
        logprobs_S=np.zeros(9, np.float32),
        images={},
    )


def output_of(*rows):
    """A micro-batch of (number, values) as verl has it, each value under the token before the one that it is about."""
    numbers = torch.tensor([number for number, _ in rows])
    values = torch.cat([torch.tensor(values) for _, values in rows])
    offsets = torch.tensor([0, *np.cumsum([len(values) for _, values in rows])])
    jagged = torch.nested.nested_tensor_from_jagged(values.requires_grad_(), offsets)
    return {"model_output": {"log_probs": jagged}, "data": {ROW: numbers}, "dp_group": None}


def test_log_probabilities_are_those_before_the_first_optimizer_step(rows):
    """Micro-batches in any order; a second epoch and a second mini-batch come too late."""
    watch = Watch(lambda model_output, data, dp_group: (0.0, {}), rows=2)
    watch(**output_of((2, [0.0, -1.0, -2.0, 0.0][1:]), (1, [0.0, 0.0])))
    watch(**output_of((0, [0.0, -5.0, -6.0, 0.0])))
    watch(**output_of((2, [-9.0, -9.0, 0.0])))
    found_S, known_R = watch.log_probs_S(rows, rows.loss_mask_S)
    assert known_R.tolist() == [False, True, True]
    assert found_S.tolist() == [0, 0, 0, 0, 0, 0, 0, -1, -2]


def test_of_a_row_with_rejected_tokens_the_log_probabilities_are_unknown(rows):
    watch = Watch(lambda model_output, data, dp_group: (0.0, {}), rows=3)
    watch(**output_of((0, [0.0, -5.0, 0.0, 0.0]), (1, [0.0, 0.0]), (2, [-1.0, -2.0, 0.0])))
    left_S = rows.loss_mask_S & (np.arange(9) != 3)
    assert watch.log_probs_S(rows, left_S)[1].tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("advantages", "left", "expected", "each"),
    [([2, 2], [1, 1], 2, None), ([1, 3], [1, 1], 2, [1, 3]), ([2, 2], [1, 0], 2, [2, 0]), ([2, 2], [0, 0], None, None)],
)
def test_advantages_are_one_number_if_they_are_alike(rows, advantages, left, expected, each):
    advantages_S, left_S = np.zeros(9, np.float32), rows.loss_mask_S.copy()
    advantages_S[2:4], left_S[2:4] = advantages, np.array(left, dtype=bool)
    first, second = learned(rows, advantages_S, left_S, (np.arange(9, dtype=np.float32), np.array([True, True, False])))
    assert (first.episode_id, first.chain, first.advantage) == ("a", 1, expected)
    assert (None if first.advantages is None else first.advantages.tolist()) == each
    assert first.log_probs.tolist() == [2, 3]
    assert (second.episode_id, second.chain, second.advantage, second.log_probs) == ("b", 0, 0, None)


def test_it_is_written_in_the_background_and_a_failure_is_one_line(rows, tmp_path):
    written = (["g", "g", "g"], rows, np.ones(9, np.float32), rows.loss_mask_S, (np.zeros(9, np.float32), np.ones(3, dtype=bool)))
    recording = Recording(0, 1)
    recording.write(LearnedFiles.of(tmp_path, "rl_000000", {"g": "rl_000000"}), *written)
    recording.finish()
    assert [one.episode_id for one in read_learned(tmp_path, "rl_000000")] == ["a", "b"]
    (tmp_path / "file").touch()
    recording.write(LearnedFiles.of(tmp_path / "file", "rl_000000", {"g": "rl_000000"}), *written)
    with pytest.raises(InfrastructureError, match=r"what a step learned could not be written: .*Not a directory"):
        recording.finish()
    recording.finish()
