"""The commit log lets servers that share a database hear of each other. Each commit writes its changes into it.

Each commit that changed something takes the next position and leaves a row: which revisions of which tasks, and who
held them. Positions have no gaps and are in the order of the commits, because a writer holds the turn (see
`postgres`). A notification has the position, and the row as well where that is short, so that a reader who missed none
need not ask for it. A lost notification costs nothing: a reader reads on from the last position it has seen.

The statuses themselves come from the events, and a server reads those that its listeners want. What concerns every
server, whatever it wants, is in the row.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import sqlalchemy as sa

from longshore.server.model.agenda import Agenda, agenda_of
from longshore.server.model.task import Task
from longshore.server.store.protocol import Changes, Moved, TaskChange, Wants
from longshore.server.store.sql.link import Link, Reply
from longshore.server.store.sql.statement import statement
from longshore.server.store.tables import codec
from longshore.server.store.tables.rows import SUBMISSION_COLUMNS, Row, submission_of, task_columns, task_of
from longshore.server.store.tables.schema import events, sessions, submissions, tasks

CHANNEL: Final = "longshore_commits"

KEPT: Final = 900.0
"""Seconds for which a commit can be read by other servers. One that was cut off for longer reads the tasks instead."""

TIDY_EVERY: Final = 256
"""Own commits after which the oldest rows are dropped."""

_LONGEST: Final = 2_000
"""The most characters of a notification, all of them ASCII. PostgreSQL takes less than 8,000 bytes of one, and keeps 8
GB until the slowest listener has read them: a server that stands still must not fill that for the others."""

_AT_ONCE: Final = 200
"""Commits read in one statement."""

_CLOCKS_APART: Final = 60.0
"""Seconds by which the time of a commit may differ from what its tasks say."""

metadata: Final = sa.MetaData(naming_convention={"pk": "pk_%(table_name)s"})

commits: Final = sa.Table(
    "commits",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("server", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # JSON
)

_last = sa.select(sa.func.coalesce(sa.func.max(commits.c.position), sa.literal_column("0"))).scalar_subquery()
_ANNOUNCE: Final = statement(
    commits.insert()
    .values(
        position=_last + sa.literal_column("1"),
        server=sa.bindparam("by"),
        at=sa.bindparam("now"),
        body=sa.bindparam("said"),
    )
    .returning(
        commits.c.position,
        sa.func.pg_notify(
            sa.literal_column(f"'{CHANNEL}'"),
            sa.cast(commits.c.position, sa.Text) + sa.bindparam("news"),
        ),
    )
)
_SKIP: Final = statement(
    commits.insert().values(
        position=sa.bindparam("position"),
        server=sa.literal_column("''"),
        at=sa.bindparam("now"),
        body=sa.bindparam("said"),
    )
)
_COMMITTED: Final = statement(
    sa.select(commits.c.position).where(
        commits.c.server == sa.bindparam("by"),
        commits.c.at == sa.bindparam("now"),
        commits.c.body == sa.bindparam("said"),
    )
)
_NEWEST: Final = statement(
    sa.select(commits.c.position, commits.c.at).order_by(commits.c.position.desc()).limit(sa.literal_column("1"))
)
_SINCE: Final = statement(
    sa.select(commits.c.position, commits.c.at, commits.c.body, commits.c.server)
    .where(commits.c.position >= sa.bindparam("seen"))
    .order_by(commits.c.position)
    .limit(sa.literal_column(str(_AT_ONCE)))
)
# The newest row stays: positions are counted from it.
_TIDY: Final = statement(commits.delete().where(commits.c.at < sa.bindparam("before"), commits.c.position < _last))
_wanted_rows = sa.func.unnest(
    sa.bindparam("seqs", type_=sa.ARRAY(sa.BigInteger)), sa.bindparam("revisions", type_=sa.ARRAY(sa.BigInteger))
).table_valued(sa.column("seq", sa.BigInteger), sa.column("revision", sa.BigInteger))
_wanted = _wanted_rows.render_derived(name="wanted")
_REVISIONS: Final = statement(
    sa.select(events.c.revision, events.c.status, *SUBMISSION_COLUMNS)
    .select_from(_wanted)
    .join(events, sa.and_(events.c.seq == _wanted.c.seq, events.c.revision == _wanted.c.revision))
    .join(tasks, tasks.c.seq == events.c.seq)
    .join(submissions, submissions.c.seq == events.c.seq)
)
_CHANGED_SINCE: Final = statement(
    sa.select(*task_columns())
    .join_from(tasks, submissions, tasks.c.seq == submissions.c.seq)
    .where(tasks.c.updated_at >= sa.bindparam("since"))
    .order_by(tasks.c.seq)
)
_ENDED_SINCE: Final = statement(
    sa.select(sessions.c.id).where(sessions.c.ended_at >= sa.bindparam("since")).order_by(sessions.c.id)
)


def _everything(_: Moved) -> bool:
    return True


class CommitLog:
    """The log as one server sees it: `tell` is called with each commit's Changes, its own included, in their order.
    `wants` says which tasks of other servers' commits are read: see `protocol.Moved`.

    Belongs to the writer's thread and the listener's: the one that finds something new reads it, the other one waits.
    """

    def __init__(self, *, server: str, tell: Callable[[Changes], None], wants: Wants = _everything) -> None:
        self._server = server
        self._tell = tell
        self._wants = wants
        self._lock = threading.Lock()
        self._seen: int | None = None
        self._seen_at = 0.0
        self._announced = 0

    @property
    def seen(self) -> int | None:
        """The newest position that subscribers know of. None means that `begin` was not called yet."""
        return self._seen

    def begin(self, link: Link) -> None:
        """Follow the commits from now on."""
        with self._lock:
            self._seen, self._seen_at = newest(link)

    # In the writer's transaction ----------------------------------------------------------------------------------

    def announce(self, link: Link, changes: Changes, now: float) -> Reply | None:
        """Write down what is about to be committed, and notify. The position is answered along with the COMMIT. None
        means that nothing changed."""
        if not (changes.tasks or changes.claimable or changes.debts or changes.sessions_ended):
            return None
        said = _encode(changes)
        news = f" {self._server} {now!r} {said}"
        if len(news) > _LONGEST:
            news = f" {self._server}"
        position = link.ask(_ANNOUNCE, by=self._server, now=now, said=said, news=news)
        link.prove(_COMMITTED, by=self._server, now=now, said=said)
        self._announced += 1
        if self._announced % TIDY_EVERY == 0:
            link.tell(_TIDY, before=now - KEPT)
        return position

    # After a commit -----------------------------------------------------------------------------------------------

    def committed(self, link: Link, announced: Reply | None, changes: Changes, now: float) -> None:
        """Tell of this server's commit, and of others' before it. Raises the errors of reading; then the next
        `catch_up` tells of the commit."""
        if announced is None:
            return
        position: int = announced.rows()[0][0]
        with self._lock:
            if self._seen is not None and self._seen < position - 1:
                self._read(link, position - 1)
            if self._seen is None or self._seen == position - 1:
                self._seen, self._seen_at = position, now
                self._tell(changes)

    def hear(self, link: Link, notifications: Iterable[str]) -> None:
        """Tell of the commits of other servers that these notifications announce. The writer tells of its own, faster.
        Raises the errors of reading."""
        with self._lock:
            following: list[Row] = []
            for position, server, *rest in (each.split(" ", 3) for each in notifications):
                last = following[-1][0] if following else self._seen or 0
                if server == self._server or int(position) <= last:
                    continue
                if not rest or int(position) != last + 1:
                    self._read(link, None)
                    return
                following.append((int(position), float(rest[0]), rest[1], server))
            self._tell_of(link, following)

    def catch_up(self, link: Link) -> None:
        """Tell of every commit that was not told of."""
        with self._lock:
            self._read(link, None)

    def _read(self, link: Link, until: int | None) -> None:
        while until is None or (self._seen or 0) < until:
            found = link.rows(_SINCE, seen=self._seen or 0)
            # The rows begin with the newest that is known. Without it, the log ends before that position.
            rows = found[1:] if found and found[0][0] == self._seen else found
            if not rows:
                if not found and self._seen and self._seen > newest(link)[0]:
                    # The database was restored from a backup, or lost what it had confirmed.
                    self._resynchronise(link)
                return
            if rows[0][0] != (self._seen or 0) + 1:
                self._resynchronise(link)
                continue
            self._tell_of(link, rows)
            if len(found) < _AT_ONCE:
                return

    def _tell_of(self, link: Link, rows: Sequence[Row]) -> None:
        """Tell of commits in the order of their positions."""
        # The listener may read a commit of this server's writer before the writer tells of it.
        found = [_Commit(body, own=by == self._server) for _, _, body, by in rows]
        known = _revisions(link, (key for commit in found for key in commit.wanted(self._wants)))
        for (position, at, _, _), commit in zip(rows, found, strict=True):
            self._seen, self._seen_at = position, at
            self._tell(commit.changes(known))

    def _resynchronise(self, link: Link) -> None:
        """Tell of every task that moved since, as it is now, because too much was missed."""
        since = self._seen_at - _CLOCKS_APART
        last, at = newest(link)
        found = [task_of(row) for row in link.rows(_CHANGED_SINCE, since=since)]
        ended = tuple(row[0] for row in link.rows(_ENDED_SINCE, since=since))
        self._seen, self._seen_at = last, at
        moved = tuple(TaskChange(task, _holder(task)) for task in found)
        self._tell(Changes(moved, claimable=True, debts=True, sessions_ended=ended, own=False))


def skip_to(link: Link, position: int, now: float) -> None:
    """Let the next commit come after `position`, so that positions a restore has lost are not used again. Servers that
    read the log find a gap, and look at the tasks themselves."""
    link.tell(_SKIP, position=position, now=now, said=_encode(Changes((), claimable=False)))


def newest(link: Link) -> tuple[int, float]:
    """Position and time of the newest commit."""
    row = link.row(_NEWEST)
    return (0, 0.0) if row is None else (row[0], row[1])


def _holder(task: Task) -> tuple[str, int] | None:
    status = task.status
    return (status.session_id, status.attempt) if status.session_id else None


_NO_TASK: Final = [0, 0]
"""The number and revision in front of what a commit says of all its tasks. A server of the version before finds no such
revision and leaves it out."""


def _encode(changes: Changes) -> str:
    moved: list[list[object]] = [
        [each.task.submission.seq, each.task.status.revision, *(each.holder or ())] for each in changes.tasks
    ]
    if moved:
        agenda = agenda_of(each.task for each in changes.tasks)
        of_target = [each.task.submission.seq for each in changes.tasks if _concerns_target(each)]
        moved.insert(0, [*_NO_TASK, agenda.at, agenda.ticks, agenda.payloads, of_target])
    return json.dumps([moved, changes.claimable, changes.debts, changes.sessions_ended], separators=(",", ":"))


def _concerns_target(change: TaskChange) -> bool:
    """Tell whether all who look after the task's target hear of this: see `protocol.Moved`."""
    if not change.task.submission.target:
        return False
    holder = _holder(change.task)
    if change.holder is None:
        # Nobody had it before: it was claimed, or it is new, or it began or ended to wait for something.
        return holder is None and change.task.status.revision > 1
    return change.holder != holder


class _Commit:
    """A commit as its row has it."""

    def __init__(self, body: str, *, own: bool) -> None:
        self._moved, self._claimable, self._debts, self._ended = json.loads(body)
        self._own = own
        self._agenda: Agenda | None = None
        self._of_target: frozenset[int] = frozenset()
        # A server of the version before says nothing of all tasks; then all are read.
        if self._moved and self._moved[0][:2] == _NO_TASK:
            _, _, at, ticks, payloads, of_target = self._moved.pop(0)
            if not own:
                self._agenda, self._of_target = Agenda(at, ticks, payloads), frozenset(of_target)

    def wanted(self, wants: Wants) -> list[tuple[int, int]]:
        """List the revisions to be read, by number and revision; the others are left out of `changes`."""
        if self._agenda is not None:
            of_target = self._of_target
            self._moved = [
                each
                for each in self._moved
                if wants(Moved(each[0], each[2] if len(each) > 2 else "", each[0] in of_target))
            ]
        return [(each[0], each[1]) for each in self._moved]

    def changes(self, known: Mapping[tuple[int, int], Task]) -> Changes:
        """Return the changes, with tasks as the events have them. Tasks that are purged are left out."""
        moved = tuple(
            TaskChange(known[seq, revision], (holder[0], holder[1]) if holder else None)
            for seq, revision, *holder in self._moved
            if (seq, revision) in known
        )
        return Changes(moved, self._claimable, self._debts, tuple(self._ended), own=self._own, agenda=self._agenda)


def _revisions(link: Link, keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Task]:
    wanted = list(keys)
    if not wanted:
        return {}
    rows = link.rows(_REVISIONS, seqs=[seq for seq, _ in wanted], revisions=[revision for _, revision in wanted])
    found = {}
    for revision, status, *submission in rows:
        task = Task(submission_of(tuple(submission)), codec.decode_status(status))
        found[task.submission.seq, revision] = task
    return found
