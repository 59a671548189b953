"""``python -m tasks_examples.progress_page [PORT]``: a worker, a web server, and a page with a progress bar."""

from __future__ import annotations

import signal
import sys

import uvicorn

from tasks_examples.local_worker import local_worker
from tasks_examples.progress_page.pictures import app
from tasks_examples.progress_page.web import web


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # uvicorn hands it on, and the worker is to end, too
    with local_worker(app):
        print(f"=> open http://127.0.0.1:{port}/ in a browser; Ctrl-C ends it", flush=True)
        uvicorn.run(web, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
