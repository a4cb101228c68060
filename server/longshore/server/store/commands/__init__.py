"""Commands: each is one change of the store, as a value.

A command is a re-executable value: run again after a rollback, or after a commit whose answer was lost, it gives the
same result. It checks first and changes afterwards; a `LongshoreError` that it raises fails its own caller and nobody
else in the group. Results are the type parameter of `Command`.
"""

from __future__ import annotations

from longshore.server.store.commands.base import (
    Command,
    Urgency,
)
from longshore.server.store.commands.janitor import (
    DoomPayloads,
    ExtendLeases,
    ForgetPayloads,
    PayDebt,
    PurgeTasks,
    ReapSessions,
    ReleaseFollowers,
    Tick,
    Ticked,
)
from longshore.server.store.commands.servers import (
    AnnounceServer,
    Heard,
    HearUploads,
    IdentifyDatabase,
    MarkRestored,
    MeetDatabase,
    Met,
    NoteClock,
    RecordHome,
    RetireServer,
)
from longshore.server.store.commands.sessions import (
    BeginAnswer,
    BeginAttempts,
    Claims,
    ClaimTasks,
    Disconnect,
    DrainSession,
    FileReports,
    GrantAnswer,
    NoteRemark,
    Offer,
    OpenSession,
    RenewLeases,
    RequestGrants,
    SessionOpened,
)
from longshore.server.store.commands.tasks import (
    Bounds,
    CancelTask,
    PauseQueue,
    RetryTask,
    SettleTask,
    SubmitTasks,
    TaskPlan,
    WakeParked,
    Woken,
)
from longshore.server.store.commands.uploads import (
    AbandonIdleUploads,
    Checkpoint,
    FinishUpload,
    ForgetUploads,
    OpenUpload,
    RejectUpload,
)

__all__ = [
    "AbandonIdleUploads",
    "AnnounceServer",
    "BeginAnswer",
    "BeginAttempts",
    "Bounds",
    "CancelTask",
    "Checkpoint",
    "ClaimTasks",
    "Claims",
    "Command",
    "Disconnect",
    "DoomPayloads",
    "DrainSession",
    "ExtendLeases",
    "FileReports",
    "FinishUpload",
    "ForgetPayloads",
    "ForgetUploads",
    "GrantAnswer",
    "HearUploads",
    "Heard",
    "IdentifyDatabase",
    "MarkRestored",
    "MeetDatabase",
    "Met",
    "NoteClock",
    "NoteRemark",
    "Offer",
    "OpenSession",
    "OpenUpload",
    "PauseQueue",
    "PayDebt",
    "PurgeTasks",
    "ReapSessions",
    "RecordHome",
    "RejectUpload",
    "ReleaseFollowers",
    "RenewLeases",
    "RequestGrants",
    "RetireServer",
    "RetryTask",
    "SessionOpened",
    "SettleTask",
    "SubmitTasks",
    "TaskPlan",
    "Tick",
    "Ticked",
    "Urgency",
    "WakeParked",
    "Woken",
]
