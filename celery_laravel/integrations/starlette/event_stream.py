"""Server-sent events: their text, and the response that carries them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive, Scope, Send

COMMENT = ":\n\n"
"""What keeps a connection open through proxies that close idle ones; pages do not see it."""


def event(name: str, data: str, *, id: str | None = None) -> str:  # noqa: A002  the field's name
    """One event. The data is a line: JSON is."""
    lines = [f"event: {name}", f"data: {data}"]
    if id is not None:
        lines.insert(0, f"id: {id}")
    return "\n".join(lines) + "\n\n"


def retry(seconds: float) -> str:
    """After how long a browser that has lost the connection comes again."""
    return f"retry: {round(seconds * 1000)}\n\n"


class EventStream(Response):
    """Sends what a generator yields, each piece at once, until it ends or the client has gone.

    The generator is closed then at once, and not when something is next sent.
    """

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[str, None]) -> None:
        # Proxies are not to keep events back until there are more (nginx), nor anybody to keep them for later.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, and listen for the client's leaving beside it; whichever ends first ends the other."""
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            has_sent = sending.done()
            sending.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        if has_sent:
            await sending

    async def _send_all(self, send: Send) -> None:
        async with contextlib.aclosing(self._pieces) as pieces:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
