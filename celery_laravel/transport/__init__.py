"""Brokers of this library's own, and kombu's names for them."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False  # typing takes as long to import as Celery does
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_TABLE = "kombu.transport"
_DATABASE = "celery_laravel.transport.database.transport:Transport"
_DIALECTS = (
    *("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"),
    *("mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"),
)
_ALIASES = ("database", *(f"database+{dialect}" for dialect in _DIALECTS))


def register() -> None:
    """Teach kombu the broker URLs that begin with ``database+``.

    kombu finds transports in a table of aliases and knows no entry points, so
    this is called when `celery_laravel` is imported. Importing the table costs
    several times what importing Celery does, so where nobody has needed it yet
    the entry is made at the moment somebody does. Nothing else is loaded until
    such a URL is used. The second call changes nothing.

    ``database+sqlite`` and others stand beside ``database`` because kombu takes the whole
    scheme for the alias when it fails over to the next of several URLs.
    """
    if _TABLE in sys.modules:
        _add_to(sys.modules[_TABLE])
    elif not any(isinstance(finder, _TableFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TableFinder())


def _add_to(table: ModuleType) -> None:
    table.TRANSPORT_ALIASES.update(dict.fromkeys(_ALIASES, _DATABASE))


class _TableFinder:
    """Notices the import of kombu's table, and is gone with it.

    It and the loader have no base class, because importing `importlib.abc`
    takes as long as importing Celery.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _TableLoader(spec.loader)  # type: ignore[assignment]  # a loader by its methods
        return spec


class _TableLoader:
    """Loads kombu's table as its own loader would, then makes our entry."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        module.__loader__ = self._loader
        _add_to(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
