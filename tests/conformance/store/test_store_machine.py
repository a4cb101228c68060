"""The state table, driven: random histories, on each database, against a simple model."""

from __future__ import annotations

from hypothesis import settings

from tests.support.stores.machine.storemachine import StoreMachine

TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)


class PostgresMachine(StoreMachine):
    """The same on PostgreSQL."""

    make = "postgresql"


TestPostgresMachine = PostgresMachine.TestCase
TestPostgresMachine.settings = settings(max_examples=10, stateful_step_count=40, deadline=None)


class ForgetfulMachine(StoreMachine):
    """The same without the memory that only saves queries."""

    make = "sqlite without memory"


TestForgetfulMachine = ForgetfulMachine.TestCase
TestForgetfulMachine.settings = settings(max_examples=10, stateful_step_count=40, deadline=None)
