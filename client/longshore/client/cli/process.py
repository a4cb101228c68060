"""The command sets up its own process before it starts. Importing the client as a library sets nothing."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

from longshore.program import streams

# From malloc.h of glibc.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

_MIB: Final = 1 << 20


def prepare() -> None:
    """Set up the process. Call it before the first channel is opened, and before anything is printed."""
    streams.prepare()
    _keep_buffers_on_the_heap()
    if "GRPC_VERBOSITY" not in os.environ:
        _keep_standard_error_ours()


def _keep_standard_error_ours() -> None:
    """gRPC tells of connections that are closed and of certificates that do not fit on standard error, in its own
    words, and programs read ours there. GRPC_VERBOSITY would have to be set before the import that brings us here."""
    try:
        ours = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = streams.OutputStream(ours, encoding=sys.stderr.encoding, lossy=True)


def _keep_buffers_on_the_heap() -> None:
    """Let glibc reuse the memory of chunks. By default each 1 MiB chunk is a mapping whose pages the kernel zeroes.

    Sending 1.4 GiB took 1.7 s of system time with the defaults and 0.8 s with these.
    """
    if sys.platform.startswith("linux"):
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (OSError, AttributeError):
            return  # Another C library, another allocator.
        mallopt(_M_MMAP_THRESHOLD, 32 * _MIB)
        mallopt(_M_TRIM_THRESHOLD, 64 * _MIB)
