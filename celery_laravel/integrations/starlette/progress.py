"""Routes for the progress of batches."""

from __future__ import annotations

import asyncio
import inspect
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from celery_laravel.bus import Bus
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.integrations.starlette.event_stream import COMMENT, EventStream, event, retry
from celery_laravel.integrations.starlette.feeds import Feeds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from celery import Celery
    from starlette.requests import Request

    from celery_laravel.dispatch.batch import Batch

_NOT_FOR_PAGES = ("options", "failed_job_ids")


def progress_of(batch: Batch) -> dict[str, Any]:
    """What a page is told of a batch: `Batch.to_dict` without its options and the ids of its failed jobs."""
    return {key: value for key, value in batch.to_dict().items() if key not in _NOT_FOR_PAGES}


class BatchProgress:
    """The progress of an app's batches, for the pages that show it.

        progress = BatchProgress(celery_app, authorize=may_see)
        web = Starlette(routes=[Mount("/batches", routes=progress.routes)])

    ``GET /batches/ID`` is the batch as JSON, ``GET /batches/ID/events`` a stream
    of server-sent events: ``progress`` now and whenever something has changed,
    ``finished`` with the last state, ``gone`` when the batch was removed; then
    the stream ends. An unknown id is 404. A browser that comes again is told
    only what it has not seen, and nothing (204, upon which it stays away) when
    that is the end.

    A batch is asked for once every ``interval`` seconds by each process, however
    many pages watch it, and only while one does.

    ``authorize(request, batch)``, which may be async, says who may see what:
    False is answered with 403, and an `HTTPException` that it raises as it says.
    Without it, whoever knows the id may. ``present(batch)`` gives what is told,
    as JSON can carry it. After ``heartbeat`` seconds without an event a comment
    is sent; ``retry`` is after how many seconds a browser that has lost the
    connection comes again.

    Raises:
        ValueError: A time is not above 0.
    """

    def __init__(
        self,
        app: Celery,
        *,
        authorize: Callable[[Request, Batch], bool | Awaitable[bool]] | None = None,
        present: Callable[[Batch], Mapping[str, Any]] = progress_of,
        interval: float = 0.5,
        heartbeat: float = 15.0,
        retry: float = 3.0,
    ) -> None:
        for name, seconds in (("interval", interval), ("heartbeat", heartbeat), ("retry", retry)):
            if not seconds > 0:
                raise ValueError(f"BatchProgress({name}={seconds!r}): give a number of seconds above 0")
        self._bus = Bus(app)
        self._authorize = authorize
        self._present = present
        self._heartbeat = heartbeat
        self._retry = retry
        self.feeds = Feeds(interval)

    @property
    def routes(self) -> list[Route]:
        """``/{batch_id}`` and ``/{batch_id}/events``, named ``batch`` and ``batch-events``."""
        return [
            Route("/{batch_id}", self.show, name="batch"),
            Route("/{batch_id}/events", self.events, name="batch-events"),
        ]

    async def show(self, request: Request) -> Response:
        """The endpoint that answers with a batch as JSON; the path has the parameter ``batch_id``."""
        batch = await self._find(request)
        return JSONResponse(self._present(batch), headers={"Cache-Control": "no-store"})

    async def events(self, request: Request) -> Response:
        """The endpoint that streams a batch's progress; the path has the parameter ``batch_id``."""
        batch = await self._find(request)
        seen = request.headers.get("last-event-id")
        if batch.finished and seen == _id_of(self._text(batch)):
            return Response(status_code=204)
        if request.method == "HEAD":  # which Starlette hands over too, and which has no stream to wait for
            return Response(media_type=EventStream.media_type)
        return EventStream(self._pieces(batch, seen))

    async def _find(self, request: Request) -> Batch:
        batch_id = request.path_params["batch_id"]
        try:
            batch: Batch | None = await asyncio.to_thread(self._bus.find_batch, batch_id)
        except StoreUnavailableError as error:
            headers = {"Retry-After": str(max(1, round(self._retry)))}
            raise HTTPException(503, "The batches cannot be looked at just now.", headers) from error
        if batch is None:
            raise HTTPException(404, "There is no such batch.")
        if self._authorize is not None and not await _call(self._authorize, request, batch):
            raise HTTPException(403, "You may not see this batch.")
        return batch

    async def _pieces(self, batch: Batch, seen: str | None) -> AsyncGenerator[str, None]:
        yield retry(self._retry)
        with self.feeds.joined(batch) as feed:
            async for snapshot in feed.snapshots(self._heartbeat):
                if snapshot is None:
                    yield COMMENT
                    continue
                text = self._text(snapshot)
                told, seen = seen, _id_of(text)
                if snapshot.finished:
                    yield event("finished", text, id=seen)
                elif told != seen:
                    yield event("progress", text, id=seen)
            if feed.is_gone:
                yield event("gone", "{}")

    def _text(self, batch: Batch) -> str:
        return json.dumps(self._present(batch), separators=(",", ":"))


async def _call(authorize: Callable[..., Any], request: Request, batch: Batch) -> Any:
    """A function that is not async may ask a database, and is called where it keeps nobody waiting."""
    if inspect.iscoroutinefunction(authorize) or inspect.iscoroutinefunction(getattr(authorize, "__call__", None)):  # noqa: B004  an object may be called, too
        return await authorize(request, batch)
    return await run_in_threadpool(authorize, request, batch)


def _id_of(text: str) -> str:
    """What tells one state of a batch from another."""
    return sha256(text.encode()).hexdigest()[:16]
