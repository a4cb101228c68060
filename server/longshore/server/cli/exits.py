"""The exit codes with which the commands of `longshored` end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from longshore.program import streams
from longshore.server.config.settings import SettingsError
from longshore.server.data.datadir import DataDirError
from longshore.server.model.errors import LongshoreError
from longshore.server.store.errors import SchemaMismatch

EXIT_REFUSED: Final = 2
"""The command did not begin: a setting, the data directory or its schema is wrong."""
EXIT_FAILED: Final = 1
"""The command could not go on, or could not begin now: starting it again may help."""


@contextmanager
def refusals() -> Iterator[None]:
    """Turn the block's errors into one line on stderr, and into an exit code that says whether another try may help."""
    try:
        yield
    except (SettingsError, DataDirError, SchemaMismatch) as error:
        streams.say(f"longshored: {error}", err=True)
        raise typer.Exit(EXIT_REFUSED) from None
    except LongshoreError as error:
        streams.say(f"longshored: {error.message}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
