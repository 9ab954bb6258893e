"""Checkpoints are whole or not there, on a local disk and in a store without renames; the newest and the chosen are kept."""

import pytest
from fsspec.core import url_to_fs

from envs.errors import UsageError
from learner.run_files.checkpoints import Checkpoints

PLACES = ("path", "file", "memory")


@pytest.fixture(params=PLACES)
def url(request, tmp_path):
    return {"path": str(tmp_path / "run"), "file": f"file://{tmp_path}/run", "memory": f"memory://{tmp_path.name}/run"}[
        request.param
    ]


@pytest.fixture
def checkpoints(url):
    checkpoints = Checkpoints(url, keep=2)
    checkpoints.open()
    return checkpoints


def put(url, content):
    """Write a file at a URL, and the folders above it."""
    fs, path = url_to_fs(url)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, content)


def write(checkpoints, name, content=b"weights", **options):
    put(f"{checkpoints.begin(name)}/policy/model", content)
    checkpoints.commit(name, {"content": content.decode()}, **options)


def everything(checkpoints):
    """All files in the folder."""
    fs, root = url_to_fs(checkpoints.url)
    return sorted(path.removeprefix(root).lstrip("/") for path in fs.find(root))


def test_a_checkpoint_is_there_once_it_is_whole(checkpoints):
    put(f"{checkpoints.begin('step_1')}/policy/model", b"weights")
    assert (checkpoints.names(), checkpoints.newest("step"), checkpoints.exists("step_1")) == ([], None, False)
    checkpoints.commit("step_1", {"step": 1})
    assert (checkpoints.names(), checkpoints.newest("step"), checkpoints.state("step_1")) == (["step_1"], "step_1", {"step": 1})
    assert everything(checkpoints) == ["step_1/policy/model", "step_1/state.json"]


def test_the_newest_is_found_by_number(checkpoints):
    for step in (5, 10, 9):
        write(checkpoints, f"step_{step}")
    write(checkpoints, "step_by_step")
    assert checkpoints.newest("step") == "step_10"
    assert checkpoints.newest("cold_start") is None


def test_a_checkpoint_replaces_an_older_one_of_its_name(checkpoints):
    for content in (b"first", b"second"):
        write(checkpoints, "cold_start", content)
    assert checkpoints.state("cold_start") == {"content": "second"}
    assert everything(checkpoints) == ["cold_start/policy/model", "cold_start/state.json"]


def test_the_newest_and_the_chosen_are_kept(checkpoints):
    for step in range(1, 6):
        write(checkpoints, f"step_{step}", prefix="step", keep={1})
    write(checkpoints, "cold_start_3", prefix="cold_start")
    assert checkpoints.names() == ["cold_start_3", "step_1", "step_4", "step_5"]
    assert {path.partition("/")[0] for path in everything(checkpoints)} == set(checkpoints.names())


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_else(checkpoints):
    for own in (".ssh/key", "notes"):
        put(f"{checkpoints.url}/{own}", b"the user's own")
    write(checkpoints, "step_1")
    put(f"{checkpoints.begin('step_2')}/policy/model", b"half")
    checkpoints.open()
    assert everything(checkpoints) == [".ssh/key", "notes", "step_1/policy/model", "step_1/state.json"]


@pytest.mark.parametrize("url", ["s3://bucket/run", "no_such_protocol://run"])
def test_a_url_that_cannot_be_opened_is_answered_with_what_to_write(url):
    with pytest.raises(UsageError, match=f"^checkpoint.dir={url}: write .*(Install s3fs|not known)") as error:
        Checkpoints(url, keep=1)
    assert "\n" not in str(error.value)
