"""`toolwise report` writes the page of what a directory holds, and answers in one line if it holds neither run nor evaluation."""

import json

import pytest

import toolwise
from envs.errors import UsageError


def report(*settings):
    return toolwise.COMMANDS["report"]([*settings])


def test_a_run_without_a_policy_has_its_page_and_the_next_command(tmp_path, capsys):
    (tmp_path / "progress.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("policy: gone\nseed: 5\n")
    assert report(f"run={tmp_path}", f"out={tmp_path}/pages") == 0
    wrote, following = capsys.readouterr().out.splitlines()[-2:]
    assert wrote.startswith(f"wrote {tmp_path}/pages/report.html")
    assert following.startswith("next: .venv/bin/toolwise ")
    assert '<th scope="row">seed</th>' in (tmp_path / "pages/report.html").read_text()
    assert not (tmp_path / "report.html").exists()


def test_an_evaluation_has_the_other_page(tmp_path):
    (tmp_path / "evaluation.json").write_text(json.dumps([]))
    assert report(f"run={tmp_path}") == 0
    assert (tmp_path / "evaluation.html").exists()


def test_a_directory_alone_is_answered_with_its_setting():
    with pytest.raises(UsageError, match=r"cannot read 'runs/demo': write key=value, as in run=runs/demo$"):
        report("runs/demo")


@pytest.mark.parametrize("name", ["", "gone"])
def test_what_is_no_run_is_answered_with_what_to_write(tmp_path, name):
    with pytest.raises(UsageError, match=r"run=.*: write "):
        report(f"run={tmp_path / name}")
