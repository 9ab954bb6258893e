"""A model that the learner cannot compute, or in which one sequence reaches the next, is refused before anything is sampled."""

import numpy as np
import pytest

from envs.errors import UsageError
from learner.verl import probe


def infer(batch, of=lambda tokens: np.zeros(len(tokens))):
    return of(np.concatenate([example.sequences.tokens_S for example in batch.examples_E]))


def running(tokens):
    return tokens.cumsum() / 1000


def failing(tokens):
    raise RuntimeError("Sizes of tensors must match\nexcept in dimension 0")


@pytest.mark.parametrize(
    ("of", "line"),
    [
        (running, r"computes a sequence otherwise behind another one \(by 0\.\d+ nats a token\)"),
        (failing, "cannot compute policy=DIR: Sizes of tensors must match except in dimension 0: train another policy"),
        (lambda tokens: tokens * np.nan, "computes no numbers with policy=DIR and learner.precision=float32"),
    ],
    ids=["a state", "an exception", "nan"],
)
def test_it_is_one_line(of, line):
    with pytest.raises(UsageError, match=line) as error:
        probe.check(lambda batch: infer(batch, of), "DIR", "float32", range(8), None)
    assert "\n" not in str(error.value)


def test_the_sequence_that_is_compared_is_the_same_and_the_one_before_it_is_not():
    batches = []
    probe.check(lambda batch: batches.append(batch) or infer(batch), "DIR", "bfloat16", range(8), None)
    (one, before), (two, behind) = ([example.sequences.tokens_S.tolist() for example in batch.examples_E] for batch in batches)
    assert one != two
    assert before == behind
