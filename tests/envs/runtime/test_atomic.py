"""Files and directories appear whole or not at all, whatever happens while they are written."""

import resource

import pytest

from envs.errors import UsageError
from envs.runtime import atomic


class Interrupted(BaseException):
    """What ends a program from outside, as KeyboardInterrupt does."""


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_written_in_place_of_the_old_one(tmp_path):
    path = tmp_path / "new" / "file.txt"
    atomic.write_file(path, "old")
    atomic.write_file(path, "ünew")
    assert path.read_text(encoding="utf-8") == "ünew"
    assert names(path.parent) == ["file.txt"]


def test_bytes_are_written_as_they_are(tmp_path):
    atomic.write_file(tmp_path / "file", b"\x00\xff")
    assert (tmp_path / "file").read_bytes() == b"\x00\xff"


def test_others_may_read_the_file(tmp_path):
    atomic.write_file(tmp_path / "file", "text")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_a_file_is_as_it_was_after_an_error(tmp_path, error):
    atomic.write_file(tmp_path / "file", "old")
    with pytest.raises(error), atomic.replaced_file(tmp_path / "file") as unfinished:
        unfinished.write_text("half")
        raise error
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_file_in_place_of_a_directory_leaves_it_alone(tmp_path):
    (tmp_path / "place").mkdir()
    with pytest.raises(OSError):
        atomic.write_file(tmp_path / "place", "text")
    assert names(tmp_path) == ["place"]


@pytest.mark.parametrize("writing", [atomic.naming, atomic.replaced_file])
def test_the_error_of_a_full_disk_names_the_file(tmp_path, writing):
    with pytest.raises(OSError) as full, writing(tmp_path / "file"), open("/dev/full", "wb", 0) as file:
        file.write(b"line")
    assert full.value.filename == str(tmp_path / "file")


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    atomic.write_file(tmp_path / "file", "old")
    with atomic.replaced_file(tmp_path / "file") as unfinished:
        unfinished.write_text("new")
        assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / "file").read_text() == "new"


def test_a_directory_appears_when_it_is_whole(tmp_path):
    with atomic.new_directory(tmp_path / "deep" / "out") as unfinished:
        (unfinished / "a").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"]
    assert names(tmp_path / "deep" / "out") == ["a"]


@pytest.mark.parametrize("error", [ValueError, Interrupted])
def test_nothing_is_left_of_a_directory_after_an_error(tmp_path, error):
    with pytest.raises(error), atomic.new_directory(tmp_path / "out") as unfinished:
        (unfinished / "a").write_text("half")
        raise error
    assert names(tmp_path) == []


def test_a_new_directory_may_stand_there_empty(tmp_path):
    (tmp_path / "out").mkdir()
    with atomic.new_directory(tmp_path / "out") as unfinished:
        (unfinished / "a").write_text("a")
    assert names(tmp_path / "out") == ["a"]


@pytest.mark.parametrize("full", [True, False], ids=["full", "a file"])
def test_a_new_directory_takes_no_place_that_is_taken(tmp_path, full):
    atomic.write_file(tmp_path / "out" / "old" if full else tmp_path / "out", "old")
    with pytest.raises(UsageError, match="another out="), atomic.new_directory(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("written", "left"),
    [(b"", b""), (b"a\n", b"a\n"), (b"a\nb", b"a\n"), (b"a", b""), (b"a\n" + b"b" * 200_000, b"a\n"), (b"b" * 200_000, b"")],
)
def test_a_last_line_that_was_cut_is_removed(tmp_path, written, left):
    path = tmp_path / "lines"
    path.write_bytes(written)
    atomic.cut_last_line(path)
    assert path.read_bytes() == left
    atomic.cut_last_line(tmp_path / "none")


def test_what_a_full_disk_did_not_take_whole_is_not_there_at_all(tmp_path):
    path = tmp_path / "lines"
    atomic.append(path, b"one\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            atomic.append(path, b"two and three\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"one\n"
    atomic.append(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
