"""The progress of batches over HTTP, from a real server, with a real store."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from celery import Celery
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount

from celery_laravel import Batch, Bus, install
from celery_laravel.errors import StoreUnavailableError
from celery_laravel.integrations.starlette import BatchProgress
from celery_laravel.stores.contracts import Store
from celery_laravel.stores.factory import store_of
from celery_laravel.stores.records import MemberEnd, MemberState, NewBatch
from celery_laravel.testing.processes import wait_until


class Lab:
    """A server whose pages watch the batches of one app."""

    def __init__(self, app: Celery, progress: BatchProgress, url: str) -> None:
        self.app = app
        self.progress = progress
        self.url = url
        self.batches = store_of(app).batches
        self.looks: list[str] = []
        find = self.batches.find

        def counted(batch_id: str) -> Any:
            self.looks.append(batch_id)
            return find(batch_id)

        self.batches.find = counted  # type: ignore[method-assign]

    def make(self, batch_id: str = "b", jobs: int = 3) -> None:
        self.batches.create(NewBatch(batch_id, "Import", options={"secret": 1}, allows_failures=True))
        self.batches.add(batch_id, jobs)
        self.batches.close(batch_id)

    def end(self, index: int, state: MemberState = MemberState.SUCCEEDED, batch_id: str = "b") -> None:
        self.batches.end_member(MemberEnd(batch_id, index, f"job-{index}", state))

    @asynccontextmanager
    async def stream(self, batch_id: str = "b", **headers: str) -> AsyncIterator[Events]:
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=20) as client,
            client.stream("GET", f"/batches/{batch_id}/events", headers=headers) as response,
        ):
            yield Events(response)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers=headers, timeout=20)


class Events:
    """The events of a stream, one by one."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, str] | None:
        """The fields of the next block, a comment under ``""``; None at the end of the stream."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if not line:
                return fields
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        return None

    async def event(self) -> dict[str, Any]:
        """The next event, past what only keeps the connection alive."""
        while block := await self.next():
            if "event" in block:
                return block | {"data": json.loads(block["data"])}
        pytest.fail("The stream has ended.")


def may_see(request: Request, batch: Batch) -> bool:
    if batch.id == "teapot":
        raise HTTPException(418)
    return request.headers.get("x-user") != "mallory"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    app = install(Celery("shop", broker="memory://", set_as_current=False))
    app.conf.update(laravel_store=f"sqlite:///{tmp_path}/store.db")
    progress = BatchProgress(app, authorize=may_see, interval=0.05, heartbeat=0.3, retry=2.5)
    web = Starlette(routes=[Mount("/batches", routes=progress.routes)])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(web, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_until(lambda: server.started)
        yield Lab(app, progress, f"http://127.0.0.1:{listening.getsockname()[1]}")
        server.should_exit = True
        thread.join(20)
    store_of(app).close()


def test_a_batch_as_json(lab: Lab):
    lab.make()
    lab.end(0)
    answer = lab.get("/batches/b")
    assert answer.json()["progress"] == 33
    assert (answer.json()["name"], answer.json()["pending_jobs"]) == ("Import", 2)
    assert not {"options", "failed_job_ids"} & answer.json().keys()
    assert answer.headers["cache-control"] == "no-store"
    assert httpx.head(f"{lab.url}/batches/b/events", timeout=5).headers["content-type"].startswith("text/event-stream")


def test_progress_is_streamed_until_the_end(lab: Lab):
    lab.make()

    async def watch() -> None:
        async with lab.stream() as events:
            assert events.response.headers["content-type"].startswith("text/event-stream")
            assert events.response.headers["x-accel-buffering"] == "no"
            assert await events.next() == {"retry": "2500"}
            first = await events.event()
            assert (first["event"], first["data"]["processed_jobs"]) == ("progress", 0)
            lab.end(0, MemberState.FAILED)
            second = await events.event()
            assert (second["event"], second["data"]["failed_jobs"]) == ("progress", 1)
            assert second["id"] != first["id"]
            lab.end(1)
            lab.end(2)
            while (last := await events.event())["event"] == "progress":
                assert not last["data"]["finished"]
            assert (last["event"], last["data"]["progress"], last["data"]["finished"]) == ("finished", 100, True)
            assert await events.next() is None

        # Who comes again after the end is told nothing, and need not come again.
        assert lab.get("/batches/b/events", **{"Last-Event-ID": last["id"]}).status_code == 204
        async with lab.stream() as events:
            assert (await events.event())["event"] == "finished"

    asyncio.run(watch())


def test_who_comes_again_is_told_what_is_new_alone(lab: Lab):
    lab.make()

    async def watch() -> None:
        async with lab.stream() as events:
            seen = await events.event()
        async with lab.stream(**{"Last-Event-ID": seen["id"]}) as events:
            assert await events.next() == {"retry": "2500"}
            assert await events.next() == {"": ""}  # a comment, after the heartbeat's time without an event
            lab.end(0)
            assert (await events.event())["data"]["processed_jobs"] == 1
        async with lab.stream(**{"Last-Event-ID": seen["id"]}) as events:
            assert (await events.event())["data"]["processed_jobs"] == 1

    asyncio.run(watch())


def test_a_batch_is_asked_for_once_however_many_watch_it_and_no_longer_than_somebody_does(lab: Lab):
    lab.make()

    async def watch() -> None:
        async with AsyncExitStack() as streams:
            for _ in range(8):
                watcher = await streams.enter_async_context(lab.stream())
                await watcher.event()
            assert len(lab.progress.feeds) == 1
            lab.looks.clear()
            since = time.monotonic()
            while len(lab.looks) < 5:  # noqa: ASYNC110  a list tells nobody
                await asyncio.sleep(0.01)
            assert time.monotonic() - since > 4 * 0.05, "one looks every 0.05 s, not eight"

    asyncio.run(watch())
    wait_until(lambda: not len(lab.progress.feeds))
    lab.looks.clear()
    lab.make("another")
    assert lab.get("/batches/another").status_code == 200
    assert lab.looks == ["another"]


def test_a_removed_batch_ends_the_stream(lab: Lab):
    lab.make()

    async def watch() -> None:
        async with lab.stream() as events:
            await events.event()
            lab.batches.delete("b")
            assert (await events.event())["event"] == "gone"
            assert await events.next() is None

    asyncio.run(watch())
    assert lab.get("/batches/b/events").status_code == 404
    assert lab.get("/batches/b").status_code == 404


def test_the_app_says_who_may_see_what(lab: Lab):
    lab.make()
    lab.make("teapot")
    assert lab.get("/batches/b/events", **{"x-user": "mallory"}).status_code == 403
    assert lab.get("/batches/b", **{"x-user": "mallory"}).status_code == 403
    assert lab.get("/batches/teapot").status_code == 418


def test_a_retried_batch_is_watched_anew(lab: Lab):
    lab.make(jobs=1)
    lab.end(0, MemberState.FAILED)

    async def watch() -> None:
        async with lab.stream() as events:
            last = await events.event()
            assert last["event"] == "finished"
        lab.batches.revive("b", 0, job_id="job-0")
        async with lab.stream(**{"Last-Event-ID": last["id"]}) as events:
            assert (await events.event())["data"]["pending_jobs"] == 1
            lab.end(0)
            assert (await events.event())["event"] == "finished"

    asyncio.run(watch())


def test_a_store_that_does_not_answer_ends_no_stream(lab: Lab, caplog: pytest.LogCaptureFixture):
    lab.make(jobs=1)
    batches: Any = lab.batches
    find, is_away = batches.find, threading.Event()

    def look(batch_id: str) -> Any:
        if is_away.is_set():
            raise StoreUnavailableError("sqlite://", "it is away")
        return find(batch_id)

    batches.find = look

    async def watch() -> None:
        async with lab.stream() as events:
            await events.event()
            is_away.set()
            refused = await asyncio.to_thread(lab.get, "/batches/b/events")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert await events.next() == {"": ""}
            is_away.clear()
            lab.end(0)
            assert (await events.event())["event"] == "finished"

    asyncio.run(watch())
    assert caplog.text.count("cannot be looked at") <= 1


@pytest.mark.parametrize("name", ["interval", "heartbeat", "retry"])
def test_a_time_that_is_none_is_refused(name: str):
    app = Celery("shop", set_as_current=False)
    given: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name}=0"):
        BatchProgress(app, **given)


def test_the_bus_and_the_store_are_those_of_the_app(lab: Lab):
    """What the pages show is what the app's own code sees."""
    lab.make()
    store: Store = store_of(lab.app)
    assert store.batches is lab.batches
    batch = Bus(lab.app).find_batch("b")
    assert batch is not None
    assert lab.get("/batches/b").json().items() <= batch.to_dict().items()
