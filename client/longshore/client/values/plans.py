"""Steps of a plan, as a client gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import google_crc32c

from longshore.client.errors import ConfigurationError
from longshore.client.values import arguments
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStep:
    """A step of `submit_plan`, which makes one task. `after` has the indexes of earlier steps that must have succeeded
    before (with `after_any_end` in the spec: ended). `payload_id` is that of `upload_payload` or of another task, and
    `content` a small file, at most 64 KiB. `name` stands in errors."""

    spec: task_pb2.TaskSpec
    after: Sequence[int] = ()
    payload_id: str = ""
    content: bytes | None = None
    name: str = ""

    def message(self, number: int) -> pb.PlanStep:
        """Make the message of the contract. Raises ConfigurationError that names the step by its number."""
        where = f"steps[{number}]"
        for index in self.after:
            arguments.whole(f"{where}.after", index, 0, max(number - 1, 0))
        if number == 0 and self.after:
            raise ConfigurationError(f"{where}.after: the first step comes after no other", reason="INVALID_ARGUMENT")
        step = pb.PlanStep(
            spec=self.spec,
            after_steps=self.after,
            payload_id=arguments.text(f"{where}.payload_id", self.payload_id),
            name=arguments.text(f"{where}.name", self.name),
        )
        if self.content is not None:
            step.content = bytes(self.content)
            step.content_crc32c = google_crc32c.value(step.content)
        return step
