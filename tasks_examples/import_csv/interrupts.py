"""Being told to stop, and when."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(BaseException):
    """Ends the demo, and says why.

    Signal handlers raise it in the middle of anything, so it is, like
    KeyboardInterrupt, no Exception: nobody on the way takes it for a failure of
    their own.
    """


class InterruptedByUserError(KeyboardInterrupt):
    """An interrupt that Python takes no note of.

    When a plain KeyboardInterrupt passes through an ``exec`` of text, as
    dataclasses and Celery do it, Python remembers it, and kills itself with
    SIGINT at the end whatever exit code the program has chosen.
    """


class Interrupts:
    """Turns Ctrl-C, SIGTERM and a closed terminal into one KeyboardInterrupt, at a moment that can bear it.

    None is raised while they are `held`, so that a process that has just been
    started is never lost sight of. After the first they only show in
    ``pending``, so that nothing comes between a program and its tidying up.
    One that meets a destructor, where Python lets no exception out, is raised
    again a moment later.
    """

    def __init__(self) -> None:
        self.pending = False
        self._is_held = False
        self._is_raised = False
        self._signum = int(signal.SIGINT)
        for signum in _STOPS:
            if signal.getsignal(signum) is not signal.SIG_IGN:  # as under nohup
                signal.signal(signum, self._on_signal)
        sys.unraisablehook = self._on_unraisable

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put interrupts off until the end of the block, where one that came is raised."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self.pending and not self._is_raised:
            self._raise()

    def ignore(self) -> None:
        """Take no more of them: all is tidied up, and the program is about to end with the code it has chosen."""
        for signum in _STOPS:
            signal.signal(signum, signal.SIG_IGN)

    def _on_signal(self, signum: int, _: Any) -> None:
        self._signum = signum
        if self._is_held or self._is_raised:
            self.pending = True
        else:
            self._raise()

    def _on_unraisable(self, unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, InterruptedByUserError):
            self._is_raised = False
            threading.Timer(0.01, os.kill, (os.getpid(), self._signum)).start()
        else:
            sys.__unraisablehook__(unraisable)

    def _raise(self) -> None:
        self._is_raised, self.pending = True, False
        raise InterruptedByUserError
