"""``python -m tasks_examples.import_csv``: see `tasks_examples.import_csv.demo`."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    try:
        from tasks_examples.import_csv.demo import run
    except ModuleNotFoundError as error:
        if str(error.name).startswith("tasks_examples"):
            raise
        needs = "the demo needs more than the library's core: pip install 'celery-laravel[sqlalchemy,cli]'"
        print(f"The module {error.name!r} is not installed; {needs}", file=sys.stderr)
        return 1
    return run()


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:  # while the modules are loaded; the demo itself sees to what comes later
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = 130
    sys.exit(code)
