"""What a step learned is read back as it was written, by however many ranks, and nothing of an earlier attempt is left."""

from dataclasses import astuple

import numpy as np
import pytest

from rollout.learned import Learned, LearnedFiles, read_learned

WHOLE = Learned("a", 0, 0.5, None, np.array([-0.5, -2.0], np.float32))
UNEVEN = Learned("b", 1, 1.0, np.array([0.0, 2.0], np.float32), None)
LEFT_OUT = Learned("c", 0, None)


def plain(sequences):
    return sorted([None if one is None else one if np.isscalar(one) else one.tolist() for one in astuple(row)] for row in sequences)


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_ranks_write_is_read_as_one(tmp_path, ranks):
    files = LearnedFiles.of(tmp_path, "rl_000003", {"g": "rl_000003", "h": "rl_000003_1"}).with_others([("h", LEFT_OUT)])
    for rank, part in enumerate(np.array_split([0, 1], ranks)):
        files.write([(("g", "h")[row], (WHOLE, UNEVEN)[row]) for row in part], rank, ranks)
    assert plain(read_learned(tmp_path, "rl_000003")) == plain([WHOLE])
    assert plain(read_learned(tmp_path, "rl_000003_1")) == plain([UNEVEN, LEFT_OUT])
    assert (tmp_path / "learned/rl_000003.parquet").exists() == (ranks == 1)


def test_columns_have_the_documented_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    LearnedFiles.of(tmp_path, "rl_000000", {"g": "rl_000000"}).write([("g", LEFT_OUT)])
    schema = parquet.read_schema(tmp_path / "learned/rl_000000.parquet")
    types = {name: str(schema.field(name).type).replace("element", "item") for name in schema.names}
    lists = "list<item: float>"
    expected = {"episode_id": "string", "chain": "int32", "advantage": "float", "advantages": lists, "log_probs": lists}
    assert types == expected


def test_clearing_a_step_leaves_the_others(tmp_path):
    files = LearnedFiles.of(tmp_path, "rl_000001", {})
    files.directory.mkdir()
    of_the_step = ["rl_000001.parquet", "rl_000001.w00000003.parquet", "rl_000001_2.parquet", ".rl_000001.parquet.x"]
    of_others = ["rl_0000010.parquet", "rl_000002.parquet"]
    for name in of_the_step + of_others:
        (files.directory / name).touch()
    files.clear()
    assert sorted(path.name for path in files.directory.iterdir()) == of_others


def test_a_name_that_nobody_wrote_has_no_sequences(tmp_path):
    assert list(read_learned(tmp_path, "rl_000000")) == []
