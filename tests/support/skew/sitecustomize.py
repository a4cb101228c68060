"""On PYTHONPATH, this gives a Python process another machine's clocks: CLOCK_SKEW seconds ahead."""

import os
import time

_SKEW = float(os.environ.get("CLOCK_SKEW", "0"))
_time, _gettime = time.time, time.clock_gettime

time.time = lambda: _time() + _SKEW
time.clock_gettime = lambda clock: _gettime(clock) + (0.0 if clock == time.CLOCK_MONOTONIC else _SKEW)
