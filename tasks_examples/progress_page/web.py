"""The web app: a page, three things to do, and the routes for the progress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Mount, Route

from celery_laravel import Batch, Bus
from celery_laravel.integrations.starlette import BatchProgress
from tasks_examples.progress_page.pictures import app, resize

if TYPE_CHECKING:
    from starlette.requests import Request

MOST = 10_000
PAGE = Path(__file__).with_name("page.html")


async def page(request: Request) -> FileResponse:
    return FileResponse(PAGE)


# Not async, since they ask the store and the broker: Starlette calls them in a thread.
def start(request: Request) -> JSONResponse:
    try:
        count = int(request.query_params.get("count", 160))
        seconds = float(request.query_params.get("seconds", 0.1))
    except ValueError:
        raise HTTPException(400, "count and seconds are numbers") from None
    if not (0 < count <= MOST and 0 <= seconds <= 10):
        raise HTTPException(400, f"count is at most {MOST}, seconds at most 10")
    jobs = (resize.s(number, seconds) for number in range(count))
    batch = Bus(app).batch(jobs).name("Holiday pictures").allow_failures().dispatch()
    return JSONResponse({"id": batch.id}, status_code=201)


def cancel(request: Request) -> JSONResponse:
    return JSONResponse(_batch(request).cancel().to_dict())


def retry(request: Request) -> JSONResponse:
    return JSONResponse(_batch(request).retry().to_dict())


def _batch(request: Request) -> Batch:
    batch: Batch | None = Bus(app).find_batch(request.path_params["batch_id"])
    if batch is None:
        raise HTTPException(404, "There is no such batch.")
    return batch


progress = BatchProgress(app)
web = Starlette(
    routes=[
        Route("/", page),
        Route("/albums", start, methods=["POST"]),
        Route("/albums/{batch_id}/cancel", cancel, methods=["POST"]),
        Route("/albums/{batch_id}/retry", retry, methods=["POST"]),
        Mount("/batches", routes=progress.routes),
    ]
)
