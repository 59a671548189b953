"""A TCP proxy between workers and a server, which cuts connections and delays bytes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator


class Proxy:
    """Hands bytes on between a port of its own and a server, from a thread; `close` ends it.

    While it is `refusing`, new connections are closed at once. ``delay`` is how
    many seconds each piece of an answer is held back.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = host, port
        self.delay = 0.0
        self._refuses = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[Any] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> int:
        """Cut all connections in the middle of whatever they carry; return how many there were."""
        return int(self._run(self._cut()))

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Cut all connections, and take no new ones meanwhile."""
        self._refuses = True
        self.cut()
        try:
            yield
        finally:
            self._refuses = False

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._serving.add(asyncio.current_task())
        self._writers.add(writer)
        try:
            if self._refuses:
                return
            with contextlib.suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(*self._target)
                ends.append(far_writer)
                self._writers.add(far_writer)
                asked = asyncio.ensure_future(self._hand_on(reader, far_writer, is_answer=False))
                answered = asyncio.ensure_future(self._hand_on(far_reader, writer, is_answer=True))
                await asyncio.wait([asked, answered], return_when=asyncio.FIRST_COMPLETED)
                for task in (asked, answered):
                    task.cancel()
                await asyncio.gather(asked, answered, return_exceptions=True)
        finally:
            self._serving.discard(asyncio.current_task())
            for end in ends:
                self._writers.discard(end)
                end.transport.abort()

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if is_answer and self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()

    async def _cut(self) -> int:
        writers = list(self._writers)
        for writer in writers:
            writer.transport.abort()
        return len(writers) // 2

    async def _stop(self) -> None:
        self._server.close()
        await self._cut()
        await asyncio.gather(*self._serving, return_exceptions=True)
