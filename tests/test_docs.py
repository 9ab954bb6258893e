"""The documents: every command composes, every Python snippet runs, links and images exist, the README stays short."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from benchmarks import BENCHMARKS
from configs import compose
from toolwise import COMMANDS
from usage import SETTINGS, help_of, schema

ROOT = Path(__file__).parents[1]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[!.]*/README.md")})
NAMED = {"bench": tuple(BENCHMARKS), "model": ("starter", "smollm2")}
"""Commands whose first argument is a name."""


def blocks(page, language):
    """The fenced blocks of a language in a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def command_lines(page):
    """What follows `toolwise` in bash blocks, and in inline code that has settings."""
    joined = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if not line.startswith("#")]
    inline = [text for text in re.findall(r"`([^`\n]+)`", page.read_text()) if "=" in text or text.count(" ") == 1]
    found = (re.search(r"(?:^|[ /])toolwise ([a-z][a-z-]*(?: .*)?)$", text) for text in (*lines, *inline))
    said = [match[1] for match in found if match and "…" not in match[1] and "$(" not in match[1]]
    # One that stood inside another program's quotes has their end.
    return [text.removesuffix("'") if text.count("'") % 2 else text for text in said]


@cache
def documented_commands():
    """(page, arguments) of every documented command, its words as bash would hand them over."""
    lines = [(page.name, line) for page in PAGES for line in command_lines(page)]
    script = "".join(f"printf '%s\\0' {line}\nprintf '\\n\\0'\n" for _, line in lines)
    words = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=20).stdout.split("\0")
    groups, current = [], []
    for word in words[:-1]:
        if word == "\n":
            groups.append(current)
            current = []
        else:
            current.append(word)
    return [(name, group) for (name, _), group in zip(lines, groups, strict=True)]


def test_every_documented_command_composes():
    documented = documented_commands()
    assert {"README.md", "evaluation.md", "extending.md", "training.md"} <= {page for page, _ in documented}
    pages = {tuple(words): page for page, words in documented}  # each once, wherever it is repeated
    for (command, *arguments), page in pages.items():
        where = f"{page}: toolwise {command} {' '.join(arguments)}"
        assert command in (*COMMANDS, "help", "version"), where
        if command == "view":  # takes paths as well
            arguments = [argument for argument in arguments if "=" in argument]
        if "--help" in arguments:
            assert help_of(command, arguments, 132), where
            continue
        named = arguments.pop(0) if command in NAMED and arguments else None
        assert named in (None, *NAMED.get(command, ()), "NAME"), where
        file, path = SETTINGS.get(command) or SETTINGS.get(f"{command} {named}") or ("", "")
        if file and command != "doctor":  # which takes those of two
            compose(file, schema(path), arguments)


def test_each_command_is_documented():
    assert {command for _, (command, *_) in documented_commands()} >= COMMANDS.keys()


def snippets(page):
    """The Python of a page, but for what says that it is not to be run."""
    return [source for source in blocks(page, "python") if not source.startswith("# not run")]


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=lambda page: page.name)
def test_its_python_runs(page, tmp_path):
    """All snippets of a page run in one interpreter, each with its own names."""
    (tmp_path / "run.py").write_text(
        f"for number, source in enumerate({snippets(page)!r}, start=1):\n"
        '    exec(compile(source, f"snippet {number}", "exec"), {"__name__": "__main__"})\n'
    )
    result = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_its_links_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


def anchors(page):
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pictures_are_small():
    for picture in (ROOT / "docs/images").glob("*"):
        assert picture.stat().st_size < 150_000, picture


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140
