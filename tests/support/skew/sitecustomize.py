"""On PYTHONPATH, this gives a Python process a wall clock that is CLOCK_SKEW seconds ahead of the machine's."""

import os
import time

_SKEW = float(os.environ.get("CLOCK_SKEW", "0"))
_time, _gettime = time.time, time.clock_gettime

time.time = lambda: _time() + _SKEW
time.clock_gettime = lambda clock: _gettime(clock) + (_SKEW if clock == time.CLOCK_REALTIME else 0.0)
