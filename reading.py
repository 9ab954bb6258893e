"""The commands that look at runs without touching them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from console import can_draw, console, done, live, program, progress, say

if TYPE_CHECKING:
    from viewer.status.reading import Standing


def status(overrides: Sequence[str]) -> int:
    """Say where a run stands; exit status 1 if it failed, was interrupted, or has died."""
    import json

    from configs import compose
    from envs.errors import UsageError
    from viewer.status.reading import read_standing
    from viewer.status.report import told
    from viewer.status.settings import Format, StatusConfig

    config = compose("status", StatusConfig, overrides)
    standing = read_standing(config.run, time.time())
    if config.follow:
        if config.format is Format.json or not can_draw():
            raise UsageError("follow=true draws on a terminal: leave it out, and repeat the command")
        standing = _followed(standing)
    if config.format is Format.json:
        print(json.dumps(standing.to_json(), indent=2))
    else:
        try:
            lines = told(standing, time.time())
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            written = (
                f"status.json or evaluation.json in {config.run} is not as toolwise writes it ({type(error).__name__}: {error})"
            )
            raise UsageError(f"{written}: format=json shows what they hold") from error
        for line in lines:
            console.print(line, soft_wrap=True)
        say(f"next: {program()} {standing.following}")
    return 0 if standing.state.is_well else 1


def _followed(standing: Standing) -> Standing:
    """Show where a run stands until it ends; how it ended."""
    from viewer.status.reading import State, read_standing

    with live(lambda: read_standing(standing.run, time.time()).status, stays=False):
        while standing.state in (State.starting, State.running):
            time.sleep(1)
            standing = read_standing(standing.run, time.time())
    return standing


def report(overrides: Sequence[str]) -> int:
    """Write the page of a run or of an evaluation."""
    from pathlib import Path

    from configs import compose
    from configs.values import check_out
    from envs.errors import UsageError
    from evaluation.settings import ReportConfig

    config = compose("report", ReportConfig, overrides)
    run = Path(config.run)
    if not run.is_dir():
        raise UsageError(f"run={config.run}: there is no such directory: write that of a run, as in run=runs/demo")
    check_out(config.out or config.run)
    from learner.run_files.report import write_report

    page = write_report(run, Path(config.out) if config.out else None)
    say(f"report: {run}, as it is now; the page asks for nothing from outside: open it in a browser, print it, or send it on")
    judge, compare = f"evaluate run={run} referee=true med=true out={run}/referee", f"evaluate compare=[{run},runs/other]"
    done(f"{page} ({page.stat().st_size / 1e6:.2f} MB)", judge if page.name == "report.html" else compare)
    return 0


def export(overrides: Sequence[str]) -> int:
    """Write a run's episodes in a format that others read; exit status 1 if there was nothing to write."""
    from configs import compose
    from configs.values import check_out
    from interop.exporting.export import Source, followed_by
    from interop.exporting.export import export as run
    from interop.settings import ExportConfig

    config = compose("export", ExportConfig, overrides)
    check_out(config.out)
    source = Source(config)
    say(f"export: {len(source.names)} files of {config.run} as {config.format}, into {config.out}")
    with progress("export", len(source.names)) as advance:
        exported = run(source, config, advance)
    for note in exported.notes:
        say(note)
    say(f"episodes: {exported.episodes}")
    say(f"wrote {config.out}/: {', '.join(exported.wrote)}")
    say(f"next: {followed_by(config)}")
    return 0 if exported.episodes else 1


def import_(overrides: Sequence[str]) -> int:
    """Make a run of others' logs; exit status 1 if no row could be read."""
    from configs import compose
    from configs.values import check_out
    from interop.importing.run import import_logs, open_log
    from interop.settings import ImportConfig

    config = compose("import", ImportConfig, overrides)
    check_out(config.out)
    log = open_log(config)
    say(f"import: {config.file} as {log.format}{log.reason}, in the protocol {log.protocol.name}, into {config.out}")
    with progress("import", log.rows) as advance:
        imported = import_logs(log, config, advance)
    for note in imported.notes:
        say(note)
    say(f"episodes: {imported.episodes}")
    done(f"{config.out}/: config.yaml, trajectories/imported.jsonl", f"lint {config.out}")
    return 0 if imported.episodes else 1


def view(overrides: Sequence[str]) -> int:
    """Serve a page that shows runs, until Ctrl-C."""
    from pathlib import Path

    from configs import compose
    from envs.errors import UsageError
    from viewer.settings import ViewConfig

    # The name of a directory may hold a `=`, as in runs/lr=1e-5.
    paths = [
        argument for argument in overrides if "=" not in argument or "/" in argument.partition("=")[0] or Path(argument).is_dir()
    ]
    for argument in overrides:
        if argument.startswith("run="):
            raise UsageError(f"view takes directories as they are: write `view {argument.removeprefix('run=')}`")
    config = compose("view", ViewConfig, [argument for argument in overrides if argument not in paths])
    if not paths:
        raise UsageError("view takes run directories, or a directory of runs: write `view runs/demo` or `view runs`")
    from viewer.serve import serve

    serve(paths, config, say)
    return 0
