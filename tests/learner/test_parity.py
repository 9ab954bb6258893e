"""`toolwise doctor policy=DIR`: sampler and learner agree for every family and see alike; a learner that drops its images is named.

One family in the default suite, since a vLLM start takes its time; the others are slow. `docs/models.md` has the figures.
"""

from dataclasses import replace

import pytest
from families import FAMILIES, policy

import toolwise
from learner.experiment import Experiment
from learner.parity import Parity, Sight, compare, measure, picture, sample, short_rollout
from learner.run import start_trainer
from rollout.cluster.connect import server_gpus
from rollout.config import EngineConfig, RolloutConfig

GOOD = Parity(8, 400, 1e-6, 1e-5, "float32", Sight(1.0, 1.0, 1e-5, True))


def experiment(directory):
    return Experiment(policy=str(directory), rollout=RolloutConfig(engine=EngineConfig(max_sequences=16, cpu_cache_gib=0.125)))


@pytest.fixture(scope="module")
def deepstack(cluster, tmp_path_factory):
    """A Qwen3-VL, and what its sampler said."""
    config = experiment(policy("qwen3_vl", tmp_path_factory.mktemp("policy")))
    return config, sample(config)


def test_servers_of_the_learners_gpus_are_compared_before_the_learner_has_them():
    shared = RolloutConfig(engine=EngineConfig(kind="verl", tensor_parallel_size=2), servers=0, workers=4)
    short = short_rollout(shared, "policy")
    assert (short.servers, short.workers, server_gpus(short)) == (1, 1, 2)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (GOOD, []),
        (replace(GOOD, sight=None), []),
        (replace(GOOD, mean=0.01), ["disagree"]),
        (replace(GOOD, mean=float("nan")), ["disagree"]),
        (replace(GOOD, mean=0.01, largest=2.0, arithmetic="16 bits"), []),
        (replace(GOOD, mean=0.2, arithmetic="16 bits"), ["disagree"]),
        (replace(GOOD, sight=Sight(0.0, 1.0, 0.0, False)), ["the sampler is blind"]),
        (replace(GOOD, sight=Sight(0.0, 1.0, 0.0, True)), []),
        (replace(GOOD, sight=Sight(1.0, 0.0, 0.0, True)), ["the learner is blind"]),
        (replace(GOOD, mean=1.0, sight=Sight(1.0, 1e-6, 1.0, True)), ["disagree", "the learner is blind"]),
        (replace(GOOD, sight=Sight(1.0, 1.0, 0.5, True)), ["see differently"]),
    ],
    ids=["good", "text", "far", "nan", "16 bits", "16 bits far", "blind sampler", "other tokens", "blind learner", "both", "apart"],
)
def test_what_is_wrong_is_named(found, words):
    assert len(found.problems) == len(words)
    assert all(word in problem for word, problem in zip(words, found.problems, strict=True))
    assert all(problem in str(found) for problem in found.problems)


def test_pictures_of_two_sets_have_one_size_and_differ():
    for seed in range(8):
        one, two = picture(seed, 0), picture(seed, 1)
        assert one.shape == two.shape
        assert (one != two).mean() > 0.5


def test_sampler_and_learner_agree_and_a_learner_that_drops_its_images_is_named(deepstack):
    config, samples = deepstack
    trainer = start_trainer(replace(config, learner=replace(config.learner, kind="blind:Blind")), config.policy)
    try:
        blind = compare(samples, trainer)
        trainer.drops_images = False
        seeing = compare(samples, trainer)
    finally:
        trainer.shutdown()
    disagree, names_it = blind.problems
    assert "disagree" in disagree
    assert "the learner is blind" in names_it
    assert not seeing.problems
    assert seeing.largest < 1e-4
    assert seeing.sight is not None
    assert min(seeing.sight.sampler, seeing.sight.learner) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("qwen3_vl", "qwen3_5")])
def test_sampler_and_learner_agree(cluster, tmp_path, name):
    found = measure(experiment(policy(name, tmp_path)))
    print(f"\n{name}: {found}")
    assert not found.problems
    assert found.largest < 1e-4
    assert (found.sight is not None) == FAMILIES[name].sees


@pytest.mark.slow
def test_layers_with_a_state_are_sampled_in_16_bits_on_a_cpu_whatever_its_memory_held_before(cluster, tmp_path):
    config = experiment(policy("qwen3_5", tmp_path))
    config.rollout.engine.dtype = "bfloat16"
    found = measure(config)
    print(f"\n{found}")
    assert (found.arithmetic, found.problems) == ("16 bits", [])
    assert found.sight is not None


@pytest.mark.slow
def test_the_command_names_a_blind_learner(cluster, tmp_path, capsys):
    settings = [f"policy={policy('qwen2_5_vl', tmp_path)}", "learner.kind=blind:Blind"]
    assert toolwise.doctor(settings) == 1
    shown = capsys.readouterr().out
    assert "parity" in shown
    assert "problem: the learner is blind" in shown
