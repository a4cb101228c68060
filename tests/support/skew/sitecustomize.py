"""On PYTHONPATH, this gives a Python process a wall clock that is CLOCK_SKEW seconds ahead of the machine's, or as many
as the file CLOCK_SKEW_FILE says at the moment."""

import os
import time

_SKEW = float(os.environ.get("CLOCK_SKEW", "0"))
_FILE = os.environ.get("CLOCK_SKEW_FILE", "")
_time, _gettime = time.time, time.clock_gettime


def _skew() -> float:
    if not _FILE:
        return _SKEW
    with open(_FILE) as file:  # noqa: PTH123  pathlib reads the clock as it is imported
        return float(file.read())


time.time = lambda: _time() + _skew()
time.clock_gettime = lambda clock: _gettime(clock) + (_skew() if clock == time.CLOCK_REALTIME else 0.0)
