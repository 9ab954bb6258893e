"""The commands that look at runs without touching them."""

from __future__ import annotations

from collections.abc import Sequence

from console import done, say


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
