"""This module pushes one file: the steps of an attempt, in an order that keeps the promises.

1. Look at the instance. 2. Write a temp beside the destination, set owner and mode, close it, verify it. 3. Ask for the
commit grant, naming the temp. 4. Rename. Before the grant every way out removes the temp; after it only an answered
rename, or a settlement, says what happened. Nothing here knows gRPC or protobuf.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, TypeVar

import tenacity

from longshore.contract.enums import WhenAbsent, WhenStopped
from longshore.contract.temps import TRIES_PER_ATTEMPT
from longshore.worker.errors import (
    AttemptError,
    AttemptStopped,
    NotReadyError,
    OutcomeUnknown,
    PermanentError,
    Reason,
    TransientError,
)
from longshore.worker.file_push.folders import create_temp, make_parents
from longshore.worker.file_push.model import Push, PushContext, Pushed, already_exists, complete, validated
from longshore.worker.file_push.recovery import IN_PLACE, only_check, remove_temps, settle_push
from longshore.worker.targets.base import (
    Attributes,
    CommitLost,
    Content,
    Delivery,
    FileKind,
    FileStat,
    InPlaceDelivery,
    InstanceState,
    Settlement,
    Target,
    Written,
    no_check,
)
from longshore.worker.targets.paths import temp_path
from longshore.worker.targets.settle import settle

__all__ = [
    "Push",
    "PushContext",
    "Pushed",
    "push_file",
    "remove_temps",
    "settle_push",
]

_T = TypeVar("_T")

_SETTLE_S: Final = 15.0
"""A worker tries for so many seconds to settle its own commit, before it leaves that to the server."""


def push_file(
    push: Push, context: PushContext, target: Target, *, pause: Callable[[float], None] | None = None
) -> Pushed:
    """Run one attempt. Raises `AttemptError` and `AttemptStopped`.

    Cancellation: `context.check` is called between chunks and in every wait before the grant, and never after it.
    `pause` waits between tries, in seconds.
    """
    return _Attempt(validated(push), context, target, pause or _pause(context.check)).run()


@dataclass(slots=True)
class _Staged:
    """A temp that is whole and verified, and the delivery that made it, still open."""

    resources: ExitStack
    delivery: Delivery
    temp: str
    content: Content
    in_place: bool
    """Whether the content is written into the file that is there."""


class _Attempt:
    def __init__(self, push: Push, context: PushContext, target: Target, pause: Callable[[float], None]) -> None:
        self._push = push
        self._context = context
        self._target = target
        self._pause = pause
        self._left_temps = False

    def run(self) -> Pushed:
        self._context.check()
        try:
            self._look_at_instance()
            return self._run_ready()
        except (AttemptError, AttemptStopped) as error:
            error.left_temps = error.left_temps or self._left_temps
            raise

    def _run_ready(self) -> Pushed:
        try:
            staged = self._retrying(self._stage)
        except PermanentError as error:
            if error.reason == Reason.INSTANCE_NOT_FOUND:
                raise self._absent() from error
            if error.reason != Reason.NO_SFTP:
                raise
            in_place = self._target.open_in_place(self._push.project, self._push.instance, check=self._context.check)
            if in_place is None:
                raise
            with in_place as delivery:
                return self._put_in_place(delivery)
        with staged.resources:
            return self._commit(staged)

    # -- before the grant --------------------------------------------------------------------------------------------

    def _look_at_instance(self) -> None:
        push = self._push
        if push.when_stopped is WhenStopped.DELIVER:
            return  # Opening tells whether it is there, and more is not asked: a millisecond saved for each file.
        state = self._retrying(lambda _: self._target.probe(push.project, push.instance))
        if state is InstanceState.ABSENT:
            raise self._absent()
        if state is InstanceState.STOPPED:
            if push.when_stopped is WhenStopped.WAIT:
                raise NotReadyError(
                    Reason.INSTANCE_STOPPED, f"{push.instance} is stopped; the task waits for it", condition="RUNNING"
                )
            raise PermanentError(
                Reason.INSTANCE_STOPPED,
                f"{push.instance} is stopped: start it, or let the task deliver or wait when stopped",
            )

    def _absent(self) -> AttemptError:
        push = self._push
        if push.when_absent is WhenAbsent.WAIT:
            return NotReadyError(
                Reason.INSTANCE_NOT_FOUND,
                f"there is no instance {push.instance} yet; the task waits for it",
                condition="EXISTS",
            )
        project = push.project or self._target.default_project
        where = f" in project {project}" if project not in ("", "default") else ""
        return PermanentError(
            Reason.INSTANCE_NOT_FOUND,
            f"target {self._target.name} has no instance {push.instance}{where}{self._meant()}: check the name, or let "
            "the task wait for it (--when-absent wait)",
        )

    def _meant(self) -> str:
        """Return a hint with the instance names that come nearest to one that does not exist. Empty means that none is
        near."""
        try:
            near = difflib.get_close_matches(self._push.instance, self._target.instances(self._push.project))
        except AttemptError:
            return ""
        return f" (did you mean {' or '.join(near)}?)" if near else ""

    def _retrying(self, step: Callable[[int], _T]) -> _T:
        """Run a step up to four times, as long as what it meets may pass soon."""
        self._context.check()
        try:
            return step(1)
        except TransientError as error:
            first = error
        # Set up only when needed: that takes longer than the push of a small file.
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES_PER_ATTEMPT),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
            retry=tenacity.retry_if_exception(_soon_again),
            sleep=self._pause,
            reraise=True,
        )
        for one in tries:
            with one:
                self._context.check()
                if one.retry_state.attempt_number == 1:
                    raise first
                return step(one.retry_state.attempt_number)
        raise AssertionError("tenacity ends with a result or an error")

    def _stage(self, number: int) -> _Staged:
        push = self._push
        temp = temp_path(push.path, push.task_id, push.attempt, number)
        with ExitStack() as resources:
            delivery = resources.enter_context(
                self._target.open(push.project, push.instance, check=self._context.check)
            )
            attributes, in_place = self._attributes(delivery)
            if push.create_parents:
                make_parents(delivery, push, attributes)
            content = Content(push.size, push.crc32c, attributes)
            try:
                self._verify(delivery, temp, content, self._write(delivery, temp, content))
            except _TempTaken:
                # The file is not ours, so we do not remove it. The next try has another name.
                raise TransientError(Reason.ALREADY_EXISTS, f"somebody has put a file at {temp}: remove it") from None
            except BaseException:
                self._discard(delivery, temp)
                raise
            return _Staged(resources.pop_all(), delivery, temp, content, in_place)

    def _attributes(self, delivery: Delivery) -> tuple[Attributes, bool]:
        """Refuse impossible destinations, and complete mode and owner. The second value says whether to write into the
        file that is there."""
        push = self._push
        found = delivery.stat(push.path, follow=False)
        if found is not None and not push.replace:
            raise already_exists(push.path)
        if found is not None and found.kind is FileKind.SYMLINK:
            if push.in_place:
                raise PermanentError(
                    Reason.NOT_A_FILE, f"{push.path} is a link, and is not written through: name the file it leads to"
                )
            found = delivery.stat(push.path, follow=True)
        return complete(push, found, delivery.default_owner), push.in_place and found is not None

    def _write(self, delivery: Delivery, temp: str, content: Content) -> FileStat:
        context = self._context
        try:
            file = create_temp(delivery, self._push, temp, content.attributes)
        except PermanentError as error:
            if error.reason == Reason.ALREADY_EXISTS:
                raise _TempTaken from error
            raise

        def advance(done: int) -> None:
            context.check()
            context.progress(done, content.size)

        written = file.write(context.open_payload(), advance=advance)
        if written != Written(content.size, content.crc32c):
            raise TransientError(
                Reason.PAYLOAD_UNAVAILABLE,
                f"the payload came as {written.size} bytes with CRC32C {written.crc32c:08x}, "
                f"not as {content.size} with {content.crc32c:08x}: it is damaged in the spool or on the way",
            )
        return file.finish()

    def _verify(self, delivery: Delivery, temp: str, content: Content, found: FileStat) -> None:
        if found.kind is not FileKind.FILE or found.size != content.size:
            raise TransientError(
                Reason.VERIFY_FAILED,
                f"the file for {self._push.path} has {found.size} bytes, and {content.size} were acknowledged",
            )
        have = Attributes(found.mode, found.uid, found.gid)
        if have != content.attributes:
            raise PermanentError(
                Reason.VERIFY_FAILED,
                f"the file for {self._push.path} should have {_spelt(content.attributes)}, and has {_spelt(have)}: its "
                "file system cannot hold them",
            )
        if self._push.read_back:
            back = delivery.read_back(temp, advance=only_check(self._context.check))
            if back != Written(content.size, content.crc32c):
                raise TransientError(
                    Reason.VERIFY_FAILED,
                    f"the file for {self._push.path} reads back with CRC32C {back.crc32c:08x}, "
                    f"not {content.crc32c:08x}",
                )

    def _discard(self, delivery: Delivery, temp: str) -> None:
        """Remove a temp on the way out of an error; what cannot be removed, or is not where it was made, is a debt."""
        try:
            self._left_temps |= not delivery.discard(temp)
        except AttemptError:
            try:
                with self._target.open(self._push.project, self._push.instance, hurry=True) as other:
                    # A temp that is not there proves little: the target may yet carry out the last request, its making.
                    self._left_temps |= not other.remove(temp)
            except AttemptError as error:
                if error.reason != Reason.INSTANCE_NOT_FOUND:
                    self._left_temps = True

    # -- the grant, and after it -------------------------------------------------------------------------------------

    def _commit(self, staged: _Staged) -> Pushed:
        delivery, temp = staged.delivery, staged.temp
        method = IN_PLACE if staged.in_place else delivery.method
        try:
            self._context.check()
            self._context.commit(temp, method=method, content=staged.content)
        except BaseException:
            self._discard(delivery, temp)
            raise
        if staged.in_place:
            return self._overwrite(staged)
        try:
            delivery.commit(temp, self._push.path, replace=self._push.replace)
        except CommitLost as lost:
            self._settle(staged, lost)
        except AttemptError:
            self._discard(delivery, temp)
            raise
        else:
            if not self._push.replace:
                # A link leaves the temp as a second name. (Settling has removed it.)
                self._discard(delivery, temp)
        return Pushed(delivery.method, staged.content, self._left_temps)

    def _overwrite(self, staged: _Staged) -> Pushed:
        """Write the temp's content into the file that is there. From its first byte on, readers see parts of it."""
        push, delivery, content = self._push, staged.delivery, staged.content
        try:
            delivery.overwrite(staged.temp, push.path, push.attributes)
            back = self._read_overwritten(delivery)
            if back != Written(content.size, content.crc32c):
                raise CommitLost(f"{push.path} reads back with CRC32C {back.crc32c:08x}, not {content.crc32c:08x}")
        except CommitLost as lost:
            raise OutcomeUnknown(
                Reason.OUTCOME_UNKNOWN, f"{lost}; {push.path} may hold a part of the content"
            ) from lost
        except PermanentError as error:
            raise PermanentError(
                error.reason, f"{error.message}. {push.path} may hold a part of the content: deliver it again"
            ) from error
        finally:
            self._discard(delivery, staged.temp)
        return Pushed(IN_PLACE, content, self._left_temps)

    def _read_overwritten(self, delivery: Delivery) -> Written:
        try:
            return delivery.read_back(self._push.path, advance=only_check(no_check))
        except TransientError as error:
            # All of it is written: a failure would be taken for an untouched file, and a cancel for one that counts.
            raise CommitLost(error.message) from error

    def _settle(self, staged: _Staged, lost: CommitLost) -> None:
        """Return if the commit happened; raise if it did not, or if that is not known."""
        outcome = self._outcome(staged, lost)
        if outcome is Settlement.NEITHER:
            raise OutcomeUnknown(
                Reason.OUTCOME_UNKNOWN, f"{lost}; the temp is gone, and {self._push.path} does not hold this content"
            )
        if outcome is Settlement.REMOVED:
            raise TransientError(
                Reason.TARGET_UNREACHABLE, f"{lost}; it did not happen, and the temp is removed"
            ) from lost

    def _outcome(self, staged: _Staged, lost: CommitLost) -> Settlement:
        push = self._push
        deadline = time.monotonic() + _SETTLE_S
        while True:
            try:
                with self._target.open(push.project, push.instance, hurry=True) as delivery:
                    return settle(
                        delivery,
                        temp=staged.temp,
                        path=push.path,
                        content=staged.content,
                        replace=push.replace,
                        advance=only_check(no_check),
                    )
            except AttemptError as error:
                if time.monotonic() >= deadline or isinstance(error, PermanentError):
                    raise OutcomeUnknown(
                        Reason.OUTCOME_UNKNOWN, f"{lost}; what became of it cannot be found out now: {error}"
                    ) from error
                threading.Event().wait(0.2)

    def _put_in_place(self, delivery: InPlaceDelivery) -> Pushed:
        """Deliver without SFTP. The grant comes before the first byte, because the first byte is visible."""
        push, context = self._push, self._context
        if not push.replace and delivery.exists(push.path):
            raise already_exists(push.path)
        content = Content(push.size, push.crc32c, complete(push, None, (0, 0)))
        source = context.open_payload()
        context.check()
        context.commit("", method=delivery.method, content=content)
        delivery.put(push.path, source, size=push.size, attributes=content.attributes)
        back = delivery.read_back(push.path, advance=only_check(no_check))
        if back != Written(push.size, push.crc32c):
            raise PermanentError(
                Reason.VERIFY_FAILED,
                f"the daemon said OK, but {push.path} has {back.size} of {push.size} bytes, or others: "
                "its disk is probably full, and the file is now damaged. Free space and retry",
            )
        context.progress(push.size, push.size)
        return Pushed(delivery.method, content)


def _spelt(attributes: Attributes) -> str:
    return f"mode {attributes.mode or 0:04o}, owner {attributes.uid}:{attributes.gid}"


class _TempTaken(Exception):
    """The temp's name is taken."""


def _soon_again(error: BaseException) -> bool:
    # A daemon that hangs would hold this thread for four time-outs; the server's back-off is the better place to wait.
    slow = (Reason.TARGET_TIMEOUT, Reason.INSTANCE_BUSY)
    return isinstance(error, TransientError) and error.reason not in slow


def _pause(check: Callable[[], None]) -> Callable[[float], None]:
    """Make a pause that ends early when the attempt is told to end."""

    def pause(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            check()
            threading.Event().wait(min(left, 0.05))

    return pause
