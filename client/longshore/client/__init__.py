"""The client of Longshore: hand in files and jobs, follow them, cancel them.

::

    with Client() as client:
        [task] = client.upload("motd", spec=push_spec("web/etc/motd", mode=0o644))
        client.wait(task.id)

Tasks and everything else the server answers with are the protobuf messages of `longshore.v1`, so that what is written
for this client holds for the plain stubs too.
"""

from longshore.client import enums as enums
from longshore.client.aio import AsyncClient
from longshore.client.blocking import Client
from longshore.client.enums import state_of, wait_reason_of
from longshore.client.errors import (
    Aborted,
    AlreadyExists,
    ConfigurationError,
    DataLoss,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    LongshoreError,
    NotFound,
    OutOfRange,
    PermissionDenied,
    QuotaViolation,
    ResourceExhausted,
    SourceError,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    TLSError,
    Unauthenticated,
    Unavailable,
    WaitTimedOut,
)
from longshore.client.servers.endpoint import Endpoint, default_data_dir, find_token
from longshore.client.servers.tls import TLS
from longshore.client.transfer.content import Changing
from longshore.client.transfer.submitting import Submission, Submitted
from longshore.client.transfer.upload import UploadProgress
from longshore.client.transfer.watch import Watch
from longshore.client.values.job_values import arguments_of, result_of
from longshore.client.values.plans import PlanStep
from longshore.client.values.specs import job_spec, parse_destination, push_spec
from longshore.contract.request_ids import new_request_id
from longshore.v1.admin_service_pb2 import GetStatsResponse, Settlement, Worker
from longshore.v1.task_pb2 import (
    Attempt,
    DeliveryMethod,
    Destination,
    FilePush,
    IfExists,
    JobSpec,
    Payload,
    Progress,
    Task,
    TaskSpec,
    TaskState,
    WaitReason,
    WhenAbsent,
    WhenStopped,
)
from longshore.v1.task_service_pb2 import Batch, BatchVerdict, TaskFilter, Upload

__all__ = [
    "TLS",
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "Attempt",
    "Batch",
    "BatchVerdict",
    "Changing",
    "Client",
    "ConfigurationError",
    "DataLoss",
    "DeliveryMethod",
    "Destination",
    "Endpoint",
    "FailedPrecondition",
    "FieldViolation",
    "FilePush",
    "GetStatsResponse",
    "IfExists",
    "Internal",
    "InvalidArgument",
    "JobSpec",
    "LongshoreError",
    "NotFound",
    "OutOfRange",
    "Payload",
    "PermissionDenied",
    "PlanStep",
    "Progress",
    "QuotaViolation",
    "ResourceExhausted",
    "Settlement",
    "SourceError",
    "Submission",
    "Submitted",
    "TLSError",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "TaskFilter",
    "TaskSpec",
    "TaskState",
    "Unauthenticated",
    "Unavailable",
    "Upload",
    "UploadProgress",
    "WaitReason",
    "WaitTimedOut",
    "Watch",
    "WhenAbsent",
    "WhenStopped",
    "Worker",
    "arguments_of",
    "default_data_dir",
    "find_token",
    "job_spec",
    "new_request_id",
    "parse_destination",
    "push_spec",
    "result_of",
    "state_of",
    "wait_reason_of",
]
