"""The server: what each URL answers. Everything is read-only JSON but images and the page's own files."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from envs.errors import UsageError
from viewer.episode.advantage import advantage_of
from viewer.episode.learned import learned
from viewer.episode.record import Changed, EpisodeRecord, read_chains
from viewer.index import across, queries
from viewer.index.names import FULL
from viewer.index.queries import BadFilter
from viewer.index.run_index import Indexer
from viewer.metrics import with_derived
from viewer.runs import Run
from viewer.security import Guard

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png"}
WAIT_S = 0.25
"""How long an answer about a name waits until it is indexed."""
_SHA = re.compile(r"[0-9a-f]{64}")
_PNG = b"\x89PNG\r\n\x1a\n"
_THREADS = 8
_LARGEST_IMAGE = 256 << 20
_SMALL = 1024


class Viewer:
    """The runs that are served, and an answer for each URL. Methods run in threads."""

    def __init__(self, look: Callable[[], Sequence[Path]], cache: Path | None = None) -> None:
        """`look` finds the runs: those that begin later are shown as well. Indexes are kept in `cache`."""
        self._look, self._cache, self._lock = look, cache, threading.Lock()
        self.runs: dict[str, Run] = {}
        self.indexer = Indexer()
        self._refresh()

    def all_runs(self, request: Request) -> Any:
        """`/api/runs`."""
        self._refresh()
        return {"runs": [run.describe() for run in self.runs.values()]}

    def metrics(self, request: Request) -> Any:
        """`/api/runs/R/metrics`."""
        run = self._run(request)
        names = [name for name in request.query_params.get("names", "").split(",") if name]
        return with_derived(run.metrics.answer(names), run.by_need_of_steps(), names)

    def evaluation(self, request: Request) -> Any:
        """`/api/runs/R/evaluation`."""
        run = self._run(request)
        records = run.evaluation()
        unreadable = not records and (run.path / "evaluation.json").exists()
        return {
            "records": records,
            "unreadable": unreadable,
            "ablation": run.json("ablation.json"),
            "med": run.json("med.json"),
            "referee": next((record["referee"] for record in records if record.get("referee")), None),
        }

    def names(self, request: Request) -> Any:
        """`/api/runs/R/names`."""
        run = self._run(request)
        known = run.index.names()
        of_key = {key: run.index.averages(key) for _, key, _, _ in known}
        return {
            "names": [
                {
                    **asdict(name),
                    "episodes": of_key[key].episodes,
                    "groups": of_key[key].groups,
                    "accuracy": of_key[key].accuracy,
                    "calls": of_key[key].calls,
                    "unfinished": unfinished,
                    "indexed": indexed,
                }
                for name, key, unfinished, indexed in known
            ],
            "indexed": run.index.describe(),
        }

    def tasks(self, request: Request) -> Any:
        """`/api/runs/R/tasks`."""
        return self._listed(request, queries.tasks)

    def episodes(self, request: Request) -> Any:
        """`/api/runs/R/episodes`."""
        return self._listed(request, queries.episodes)

    def facets(self, request: Request) -> Any:
        """`/api/runs/R/facets`."""
        run, keys = self._wanted(request)
        with run.index.reader() as connection:
            found = queries.facets(connection, queries.where(request.query_params, keys))
            asked = request.query_params.get("name", "")
            lacking = run.lacking() if not asked or asked == FULL or asked in run.lacking() else []
            effects = {name: across.effects(connection, keys[FULL], keys[name]) for name in lacking}
            return found | {"effects": {name: counts for name, counts in effects.items() if counts}}

    def group(self, request: Request) -> Any:
        """`/api/runs/R/groups/G`."""
        run, keys = self._wanted(request)
        filters = {"group": request.path_params["group"], "name": request.query_params.get("name", "")}
        with run.index.reader() as connection:
            found = queries.places(connection, queries.where(filters, keys))
            shown = [self._episode(run, connection, place, keys, request) for place in found[: queries.MOST_ROWS]]
        if not shown:
            raise HTTPException(404, f"there is no group {filters['group'][:200]}")
        first = shown[0]
        shared = ("name", "group_id", "task_id", "abilities", "needed_tools", "needs_tool", "question")
        return {name: first[name] for name in shared} | {"total": len(found), "episodes": shown}

    def episode(self, request: Request) -> Any:
        """`/api/runs/R/episodes/E`."""
        run, keys = self._wanted(request)
        wanted = request.path_params["episode"]
        with run.index.reader() as connection:
            found = queries.places(connection, queries.where({"name": request.query_params.get("name", "")}, keys), wanted)
            if not found:
                raise HTTPException(404, f"there is no episode {wanted[:200]}")
            return self._episode(run, connection, found[-1], keys, request)

    def item(self, request: Request) -> Any:
        """`/api/runs/R/items/T`."""
        run, keys = self._wanted(request)
        task = request.path_params["task"]
        names = {key: name for name, key in keys.items()}
        with run.index.reader() as connection:
            chosen = queries.where({"task": task, "name": request.query_params.get("name", "")}, keys)
            found = queries.places(connection, chosen)
            if not found:
                raise HTTPException(404, f"there is no task {task[:200]}")
            rows = queries.rows(connection, found[: queries.MOST_ITEM_ROWS], names)
            question = queries.question(connection, found[0])
            images = self._images(run, connection, found[0])
            effects = {name: across.effect_on(connection, keys[FULL], keys[name], task) for name in run.lacking()}
        steps = {name.name: name for name, _, _, _ in run.index.names()}
        for row in rows:
            named = steps.get(row["name"])
            row["stage"], row["step"], row["variant"] = (named.stage, named.step, named.variant) if named else (None,) * 3
        effects = {name: effect for name, effect in effects.items() if effect is not None}
        shown = {"text": question, "images": images}
        return {"task_id": task, "question": shown, "effects": effects, "total": len(found), "episodes": rows}

    def compare(self, request: Request) -> Any:
        """`/api/compare`."""
        parameters = request.query_params
        offset, limit = queries.page(parameters)
        if (order := across.COMPARE_SORTS.get(parameters.get("sort", ""))) is None:
            raise BadFilter("sort is difference, -difference or nothing")
        runs = {side: self._find(parameters.get(side, "")) for side in "ab"}
        known = {side: [(name, key) for name, key, _, _ in run.index.names()] for side, run in runs.items()}
        met = {}
        for side, run in runs.items():
            wanted = parameters.get(f"name_{side}")
            chosen = {key: name.name for name, key in known[side] if (name.name == wanted if wanted else name.variant is None)}
            with run.index.reader() as connection:
                met[side] = across.met(connection, chosen)
        shared = sorted(across.shared_tasks(met["a"], met["b"]), key=order)
        shown = shared[offset : offset + limit]
        with runs["a"].index.reader() as connection:
            questions = [queries.question(connection, one.place) for one in shown]
        of = {side: {name.name for name, _ in known[side]} for side in "ab"}
        return {
            "names": sorted(of["a"] & of["b"]),
            "total": len(shared),
            **across.summary(shared),
            "tasks": [
                across.shared_json(one, question and question[: queries.QUESTION])
                for one, question in zip(shown, questions, strict=True)
            ],
        }

    def image(self, request: Request) -> Response:
        """`/api/runs/R/images/SHA`."""
        sha = request.path_params["sha"]
        if not _SHA.fullmatch(sha):
            raise HTTPException(404, "an image is named by 64 hexadecimal digits")
        path = self._run(request).path / "trajectories" / "images" / f"{sha}.png"
        try:
            # No link is followed: what it points at is nobody's image.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                content = file.read(_LARGEST_IMAGE)
        except OSError:
            raise HTTPException(404, "the image is missing") from None
        if not content.startswith(_PNG):
            raise HTTPException(404, "the image is no PNG")
        return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=31536000, immutable"})

    def changes(self, request: Request) -> Any:
        """`/api/runs/R/changes`."""
        marks = self._run(request).version()
        since = dict(part.split("-", 1) for part in request.query_params.get("since", "").split(".") if "-" in part)
        version = ".".join(f"{name}-{mark}" for name, mark in marks.items())
        return {"version": version, "changed": [name for name, mark in marks.items() if since.get(name) != mark]}

    def _listed(self, request: Request, listed: Callable[..., Any]) -> Any:
        run, keys = self._wanted(request)
        offset, limit = queries.page(request.query_params)
        sort = request.query_params.get("sort", "")
        with run.index.reader() as connection:
            chosen = queries.where(request.query_params, keys)
            return listed(connection, chosen, sort, offset, limit, {key: name for name, key in keys.items()})

    @staticmethod
    def _images(run: Run, connection: sqlite3.Connection, place: int) -> list[str]:
        """Names of the images of an episode's question; none while its file is written anew."""
        try:
            lines = read_chains(run.path / "trajectories", *queries.lines_of(connection, place))
        except LookupError:
            return []
        return EpisodeRecord(lines).question_images()

    def _episode(
        self, run: Run, connection: sqlite3.Connection, place: int, keys: dict[str, int], request: Request
    ) -> dict[str, Any]:
        names = {key: name for name, key in keys.items()}
        (row,) = queries.rows(connection, [place], names)
        record = EpisodeRecord(read_chains(run.path / "trajectories", *queries.lines_of(connection, place)))
        known = learned(run.path, row["name"], row["episode_id"], record.problems) if row["name"] in keys else {}
        advantage, source = advantage_of(row, known, queries.group_of(connection, place), run.reward())
        question = queries.question(connection, place)
        parameters = request.query_params
        return row | {
            "question": {"text": question, "images": record.question_images()},
            "turn_count": row["turns"],
            "token_count": row["tokens"],
            "turns": record.turns(whole=parameters.get("whole") == "1"),
            "chains": len(record.chains),
            "problems": record.problems,
            "tokens": record.tokens(run.text, known) if parameters.get("tokens") == "1" else None,
            "advantage": advantage,
            "advantage_source": source,
        }

    def wait(self, request: Request) -> None:
        """Have the names that a request is about indexed first, and wait a moment for that."""
        if (run := self.runs.get(request.path_params.get("run", ""))) is not None:
            run.index.want([name for name in request.query_params.get("name", "").split(",") if name], WAIT_S)

    def _refresh(self) -> None:
        """Leave out the runs that are gone, and add those that are new.

        Each has an id of its own: its directory's name, with a number if there are several.
        """
        with self._lock, suppress(UsageError):  # a directory that is gone adds nothing
            if gone := [run for run in self.runs.values() if not run.path.is_dir()]:
                self.runs = {run_id: run for run_id, run in self.runs.items() if run not in gone}
                for run in gone:
                    self.indexer.drop(run.index)
            known = {run.path for run in self.runs.values()}
            for path in self._look():
                if path not in known:
                    others = (path.name, *(f"{path.name}-{number}" for number in range(2, len(self.runs) + 3)))
                    run_id = next(other for other in others if other not in self.runs)
                    run = Run(run_id, path, self._cache)
                    self.runs = {**self.runs, run_id: run}
                    self.indexer.add(run.index)

    def _wanted(self, request: Request) -> tuple[Run, dict[str, int]]:
        """The run, and the keys of its names."""
        run = self._run(request)
        return run, {name.name: key for name, key, _, _ in run.index.names()}

    def _run(self, request: Request) -> Run:
        return self._find(request.path_params["run"])

    def _find(self, run_id: str) -> Run:
        if run_id not in self.runs:
            raise HTTPException(404, f"there is no run {run_id[:200]}")
        return self.runs[run_id]


def application(viewer: Viewer, host: str = "127.0.0.1", token: str | None = None) -> ASGIApp:
    """The ASGI application, with its guard around it."""

    def route(path: str, answer: Callable[[Request], Any]) -> Route:
        def endpoint(request: Request) -> Response:
            viewer.wait(request)
            with viewer.indexer.request():
                return _response(request, answer)

        return Route(path, endpoint, methods=["GET", "HEAD"])

    @asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        yield

    routes = [
        route("/api/runs", viewer.all_runs),
        route("/api/compare", viewer.compare),
        *(
            route(f"/api/runs/{{run}}/{name}", getattr(viewer, name))
            for name in ("metrics", "evaluation", "names", "tasks", "episodes", "facets", "changes")
        ),
        route("/api/runs/{run}/groups/{group:path}", viewer.group),
        route("/api/runs/{run}/episodes/{episode:path}", viewer.episode),
        route("/api/runs/{run}/items/{task:path}", viewer.item),
        route("/api/runs/{run}/images/{sha}", viewer.image),
        route("/", page_file),
        route("/page/{file:path}", page_file),
        route("/{rest:path}", nothing),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), host, token)


def page_file(request: Request) -> Response:
    """A file of the page: one of those that are there, so that no path leads elsewhere."""
    files = {path.relative_to(PAGE).as_posix(): path for path in PAGE.rglob("*") if path.suffix in TYPES and path.is_file()}
    path = files.get(request.path_params.get("file", "index.html"))
    if path is None:
        raise HTTPException(404, "there is no such file")
    return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers={"Cache-Control": "no-cache"})


def nothing(request: Request) -> Response:
    """Answers any other path."""
    raise HTTPException(404, "there is nothing here")


def _response(request: Request, answer: Callable[[Request], Any]) -> Response:
    """The answer as JSON, or its error as one line."""
    try:
        content, status = answer(request), 200
        body = content if isinstance(content, Response) else _json(content)
    except HTTPException as error:
        body, status = _json({"error": error.detail}), error.status_code
    except BadFilter as error:
        body, status = _json({"error": str(error)}), 400
    except Changed as error:
        body, status = _json({"error": str(error)}), 409
    except (LookupError, sqlite3.Error) as error:
        body, status = _json({"error": f"the index cannot answer: {error}"[:500]}), 503
    except Exception as error:
        log.exception("%s", request.url.path)
        body, status = _json({"error": f"{type(error).__name__}: {error}"[:500]}), 500
    if isinstance(body, bytes):
        body = Response(body, status, {"Cache-Control": "no-store"}, "application/json")
    return _compressed(request, body)


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def _compressed(request: Request, response: Response) -> Response:
    accepted = request.headers.get("accept-encoding", "")
    body = bytes(response.body)
    if "gzip" in accepted and len(body) > _SMALL and response.media_type != "image/png":
        response.body = gzip.compress(body, 1)
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Content-Length"] = str(len(response.body))
        response.headers["Vary"] = "Accept-Encoding"
    return response
