"""The commands that look at runs without touching them."""

from __future__ import annotations

from collections.abc import Sequence

from console import done, progress, say


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
