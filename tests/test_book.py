"""The book: every page is in the table of contents, the site builds without warnings, shell blocks name what exists, and quoted
error lines are the code's."""

import ast
import re
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from sandbox.doctor import POD_SECURITY_CONTEXT

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs/index.md"
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[!.]*/README.md")})
BUILDERS = (ROOT / ".tools/docs/bin/sphinx-build", Path(shutil.which("sphinx-build") or ""))
FOREIGN = {"vllm": "v1/core/kv_cache_utils.py"}
"""Files of other packages whose lines reach users behind ours."""
QUOTED_PACKAGES = (
    "benchmarks",
    "configs",
    "curation",
    "envs",
    "evaluation",
    "interop",
    "learner",
    "rollout",
    "sandbox",
    "starter",
    "viewer",
)


def listed():
    """The pages of the table of contents, in order."""
    return [
        (INDEX.parent / path).resolve()
        for path in re.findall(r"^(?:\d+\.|-) \[[^\]]+\]\(([^)]+\.md)\)", INDEX.read_text(), re.MULTILINE)
    ]


def test_every_page_is_in_the_table_of_contents_once():
    pages = listed()
    assert len(pages) == len(set(pages))
    assert set(pages) | {INDEX} == set(PAGES)


def test_the_site_builds_without_warnings_and_asks_for_nothing_from_elsewhere(tmp_path):
    builder = next((path for path in BUILDERS if path.is_file()), None)
    if builder is None:
        pytest.skip("Sphinx is not installed: `make docs` installs it into .tools/docs")
    site = tmp_path / "site"
    command = [builder, "-q", "-W", "--keep-going", "-c", "docs", "-d", tmp_path / "doctrees", ".", site]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    loaded = re.compile(
        r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//|@import|url\([\"']?(?:https?:)?//"
    )
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert {site / "docs/index.html", site / "search.html"} <= set(files)
    assert [str(path) for path in files if loaded.search(path.read_text())] == []


# --- Shell blocks. What follows `toolwise` is composed in test_docs.py.

PROGRAMS = {
    "cd",
    "curl",
    "docker",
    "echo",
    "exec",
    "export",
    "git",
    "kill",
    "kubectl",
    "mkdir",
    "ray",
    "sed",
    "sleep",
    "srun",
    "toolwise",
    "until",
    "vllm",
    "wandb",
}
"""Programs whose arguments are not looked at."""


def shell_blocks(page):
    return re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def test_shell_blocks_are_read_by_bash():
    script = "\n".join(block for page in PAGES for block in shell_blocks(page))
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_shell_blocks_name_programs_targets_and_files_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) [?:]?=|\$\(([A-Z]+)\)", makefile, re.MULTILINE))
    variables = {name for pair in variables for name in pair if name}
    for page in PAGES:
        for line in "\n".join(shell_blocks(page)).replace("\\\n", " ").splitlines():
            # An environment variable before the command is the command's own.
            words = re.sub(r"^(?:[A-Za-z_]\w*=\S* +)+", "", line.partition(" #")[0].strip()).split()
            if not words or words[0].startswith("#"):
                continue
            program, *arguments = words
            where = f"{page.name}: {line}"
            program = program.removeprefix(".venv/bin/")
            if program == "make":
                for word in arguments:
                    assert word in targets or word.partition("=")[0] in variables, where
            elif program in ("python", "pytest"):
                if arguments[0] == "-m" and program == "python":
                    path = ROOT / arguments[1].replace(".", "/")
                    installed = find_spec(arguments[1].split(".")[0])
                    assert path.is_dir() or path.with_suffix(".py").is_file() or installed, where
                assert all((ROOT / word).exists() for word in arguments if word.endswith(".py") and "/" in word), where
            else:
                assert program in PROGRAMS or (ROOT / program).is_file(), where


# --- Error lines. A template is a text of the source with a hole at each value.

HOLE = "(.*)"
LEAST_LETTERS = 12
"""Literal letters of a template that is worth comparing."""
LONG = 60
"""Letters of a value above which it must be a text of the source as well."""


@cache
def templates():
    """Every text of the source, and of the lines that the Makefile prints, as its literal parts with None for each value."""
    found = set()
    sources = [path for package in QUOTED_PACKAGES for path in (ROOT / package).rglob("*.py")] + [*ROOT.glob("*.py")]
    sources += [Path(find_spec(package).origin).parent / file for package, file in FOREIGN.items()]
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add(tuple(part.value if isinstance(part, ast.Constant) else None for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add((node.value,))
    for text in re.findall(r'echo "([^"]+)"', (ROOT / "Makefile").read_text()):
        found.add(tuple(part if number % 2 == 0 else None for number, part in enumerate(re.split(r"(\$\(\w+\))", text))))
    return [parts for parts in found if sum(len(part) for part in parts if part) >= LEAST_LETTERS]


def matches(text, whole):
    """The values of each template that stands in the text; of those that take all of it if `whole`."""
    for parts in templates():
        literal = [part for part in parts if part]
        if all(part in text for part in literal):
            pattern = re.compile("".join(re.escape(part) if part else HOLE for part in parts), re.DOTALL)
            if match := pattern.fullmatch(text) if whole else pattern.search(text):
                yield match.groups()


def is_said(line):
    """Whether the source can say the line, or what stands behind its first colon: a template takes all of it, and its long values
    hold texts of the source in turn."""
    starts = [0, *(match.end() for match in re.finditer(": ", line))]
    return any(
        all(any(True for _ in matches(value, whole=False)) for value in values if len(value) > LONG)
        for start in starts[:2]
        for values in matches(line[start:], whole=True)
    )


def quoted_lines():
    """The error lines of the page, each a block in which it is broken into several."""
    text = (ROOT / "docs/troubleshooting.md").read_text()
    lines = [" ".join(block.splitlines()) for block in re.findall(r"^```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)]
    return [re.sub(r"^toolwise [a-z-]+: (infrastructure failed: )?|^problem: ", "", line) for line in lines]


def test_quoted_error_lines_are_said_by_the_code():
    lines = quoted_lines()
    assert len(lines) > 30
    assert [line for line in lines if not is_said(line)] == []


def test_a_line_that_nobody_says_is_found():
    assert not is_said("unknown settings 'rl.step', did you mean rl.steps=…")


def test_the_pod_of_the_sandbox_page_is_the_doctors():
    assert f"```yaml\n{POD_SECURITY_CONTEXT}```" in (ROOT / "docs/sandbox.md").read_text()
