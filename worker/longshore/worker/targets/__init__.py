"""A worker delivers to targets: LXD and Incus daemons, and directories of instance roots."""

from __future__ import annotations

from longshore.worker.targets.base import (
    Attributes,
    Content,
    Delivery,
    FileKind,
    FileStat,
    InPlaceDelivery,
    InstanceChange,
    InstanceState,
    Settlement,
    Target,
    TempFile,
    Watch,
    Written,
)
from longshore.worker.targets.settle import settle
from longshore.worker.targets.spec import DirectorySpec, LxdSpec, SpecError, TargetSpec, open_target, parse_target

__all__ = [
    "Attributes",
    "Content",
    "Delivery",
    "DirectorySpec",
    "FileKind",
    "FileStat",
    "InPlaceDelivery",
    "InstanceChange",
    "InstanceState",
    "LxdSpec",
    "Settlement",
    "SpecError",
    "Target",
    "TargetSpec",
    "TempFile",
    "Watch",
    "Written",
    "open_target",
    "parse_target",
    "settle",
]
