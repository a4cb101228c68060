"""The identity of a spool and of its database is one small file, which is made once and never changed.

A server removes files that its database does not know. So a spool that another database filled is not opened, and never
swept.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass
from typing import Final, Self

from longshore.server.spool.errors import SpoolRefused

NAME: Final = "identity"
_RANDOM: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Identity:
    """`spool`: 32 random hexadecimal digits; `database`: the identity of the database."""

    spool: str
    database: str

    @classmethod
    def new(cls, database: str) -> Self:
        return cls(secrets.token_hex(16), database)

    @classmethod
    def read(cls, content: bytes, *, where: str, database: str) -> Self:
        """Read the identity that is kept in a spool. Raises SpoolRefused if it belongs to another database."""
        try:
            raw = json.loads(content)
            found = cls(str(raw["spool"]), str(raw["database"]))
        except (ValueError, KeyError, TypeError):
            found = None
        if found is None or not _RANDOM.fullmatch(found.spool):
            raise SpoolRefused(
                f"{where}/{NAME} does not name the spool's database. Put it back from a backup; if no payload of this "
                "database is there, delete it to have a new one made."
            )
        if found.database != database:
            raise SpoolRefused(
                f"{where} belongs to another database, whose payloads this server would take for leftovers and remove. "
                f"Give this one a spool of its own. If the other database is gone for good, or is this one before it "
                f'was restored from a backup: write "database": "{database}" into {where}/{NAME}, and leave "spool" '
                "there as it is, by which payloads are found."
            )
        return found

    def content(self) -> bytes:
        return json.dumps(asdict(self)).encode("ascii") + b"\n"
