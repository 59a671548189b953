"""The app: no server, everything in SQLite files in one folder."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from celery_laravel import embedded, install

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("IMPORT_CSV_FOLDER") or ROOT / "var" / "demo").resolve()

app = Celery("import_csv", include=["tasks_examples.import_csv.tasks"])
install(app)
embedded(app, FOLDER)
