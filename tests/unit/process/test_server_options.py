"""Every option of longshored, from each of its three sources, and which of them wins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

from longshore.program import environment
from longshore.server import main
from longshore.server.config.settings import Settings, SettingsError, TlsFiles, check_listen
from longshore.server.model.access import Role
from longshore.worker import main as worker_main

# Option: three values as text, what they are in a TOML file, and what they must be in the settings.
OPTIONS: dict[str, tuple[tuple[str, str, str], Callable[[Settings], Any], Callable[[str], Any]]] = {
    "data-dir": (("/a", "/b", "/c"), lambda s: s.data_dir, Path),
    "listen": (("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"), lambda s: s.listen, lambda text: (text,)),
    "database": (("sqlite:////a", "sqlite:////b", "sqlite:////c"), lambda s: s.database.text, str),
    "spool": (("file:///a", "file:///b", "file:///c"), lambda s: s.spool, str),
    "worker-concurrency": (("1", "2", "3"), lambda s: s.worker_concurrency, int),
    "queue-limit": (("1", "2", "3"), lambda s: s.limits.queue_tasks, int),
    "advertise": (("a:1", "b:2", "c:3"), lambda s: s.advertise, str),
    "caller-limit": (("1", "2", "3"), lambda s: s.limits.caller_tasks, int),
    "upload-limit": (("1", "2", "3"), lambda s: s.limits.uploads, int),
    "caller-upload-limit": (("1", "2", "3"), lambda s: s.limits.caller_uploads, int),
    "spool-limit": (("1", "2", "3"), lambda s: s.limits.spool_bytes, int),
    "disk-reserve": (("1", "2", "3"), lambda s: s.limits.disk_reserve, int),
    "instance-limit": (("1", "2", "3"), lambda s: s.limits.instance_tasks, int),
    "target-limit": (("1", "2", "3"), lambda s: s.limits.target_tasks, int),
    "attempt-limit": (("1", "2", "3"), lambda s: s.attempt_limit, int),
    "lease": (("1", "2", "3"), lambda s: s.times.lease, float),
    "cancel-grace": (("1", "2", "3"), lambda s: s.times.cancel_grace, float),
    "drain-grace": (("1", "2", "3"), lambda s: s.times.drain_grace, float),
    "upload-idle": (("1", "2", "3"), lambda s: s.times.upload_idle, float),
    "retention": (("1", "2", "3"), lambda s: s.times.retention, float),
    "history": (("1", "2", "3"), lambda s: s.times.history, float),
    "run-timeout": (("1", "2", "3"), lambda s: s.times.run_timeout, float),
    "expire-after": (("1", "2", "3"), lambda s: s.times.expire_after, float),
    "log-format": (("text", "json", "auto"), lambda s: s.log_format, str),
    "log-level": (("debug", "error", "warning"), lambda s: s.log_level, str),
}
FLAGS: dict[str, Callable[[Settings], bool]] = {
    "worker": lambda s: s.worker,
    "share-spool": lambda s: s.share_spool,
    "malloc-tuning": lambda s: s.tune_malloc,
}
TLS = ("--tls-cert", "/c", "--tls-key", "/k", "--tls-client-ca", "/a")
OF_THEIR_OWN = {"target", "config", "version", "quiet", "tls-cert", "tls-key", "tls-client-ca", "client-role"}
"""Tested below, each by itself."""


class Command:
    """`longshored`, up to where it would begin to serve."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = folder / "longshored.toml"
        self._seen: list[Settings] = []
        monkeypatch.setattr(main, "_run", self._run)

    def _run(self, settings: Settings) -> bool:
        self._seen.append(settings)
        return True

    def result(self, *arguments: str, file: str = "", environment: dict[str, str] | None = None) -> Result:
        self._file.write_text(file)
        config = ["--config", str(self._file)] if file else []
        return CliRunner().invoke(main._app, [*config, *arguments], env={"COLUMNS": "200"} | (environment or {}))

    def settings(self, *arguments: str, file: str = "", environment: dict[str, str] | None = None) -> Settings:
        done = self.result(*arguments, file=file, environment=environment)
        assert done.exit_code == 0, done.output
        return self._seen[-1]

    def refused(self, *arguments: str, file: str = "", environment: dict[str, str] | None = None) -> str:
        done = self.result(*arguments, file=file, environment=environment)
        assert done.exit_code == 2, done.output
        assert not self._seen
        assert not isinstance(done.exception, (TypeError, AttributeError))
        return done.output


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    for name in ("LONGSHORE_DATA_DIR", "LONGSHORE_LISTEN", "LONGSHORE_WORKER", "LONGSHORE_TARGET"):
        monkeypatch.delenv(name, raising=False)
    return Command(tmp_path, monkeypatch)


def variable(option: str) -> str:
    return "LONGSHORE_" + option.upper().replace("-", "_")


def test_every_option_is_tried_here() -> None:
    known = {max(parameter.opts, key=len) for parameter in typer.main.get_command(main._app).params}
    known -= {"--install-completion", "--show-completion"}  # typer's own
    assert known == {f"--{name}" for name in {*OPTIONS, *FLAGS, *OF_THEIR_OWN}}


@pytest.mark.parametrize("option", OPTIONS)
def test_the_command_line_wins_over_the_environment_and_that_over_the_file(command: Command, option: str) -> None:
    (first, second, third), read, made = OPTIONS[option]
    file = f'{option} = "{third}"\n'
    environment = {variable(option): second}
    assert read(command.settings(file=file)) == made(third)
    assert read(command.settings(file=file.replace("-", "_", option.count("-")))) == made(third)
    assert read(command.settings(file=file, environment=environment)) == made(second)
    assert read(command.settings(f"--{option}", first, file=file, environment=environment)) == made(first)


@pytest.mark.parametrize("option", [name for name in OPTIONS if OPTIONS[name][2] in (int, float)])
def test_a_number_may_be_one_in_the_file(command: Command, option: str) -> None:
    _, read, _ = OPTIONS[option]
    assert read(command.settings(file=f"{option} = 7\n")) == 7


@pytest.mark.parametrize("option", FLAGS)
def test_flags_have_the_three_sources_too(command: Command, option: str) -> None:
    read = FLAGS[option]
    for mine, other in ((True, False), (False, True)):
        file, environment = f"{option} = {str(other).lower()}\n", {variable(option): str(other).lower()}
        assert read(command.settings(file=f"{option} = {str(mine).lower()}\n")) is mine
        assert read(command.settings(file=file, environment={variable(option): str(mine).lower()})) is mine
        given = f"--{option}" if mine else f"--no-{option}"
        assert read(command.settings(given, file=file, environment=environment)) is mine


def test_targets_are_a_list_and_ask_for_a_worker(command: Command) -> None:
    one, two = "a=directory:/a", "b=directory:/b"
    for settings in (
        command.settings("--target", one, "--target", two, file='target = ["c=directory:/c"]'),
        command.settings(environment={"LONGSHORE_TARGET": f"{one} {two}"}, file='target = ["c=directory:/c"]'),
        command.settings(file=f'target = ["{one}", "{two}"]'),
    ):
        assert (settings.worker, settings.worker_targets) == (True, (one, two))
    assert command.settings(file=f'target = "{one}"').worker_targets == (one,)


def test_a_server_may_listen_at_several_places(command: Command) -> None:
    one, two = "unix:/run/l.sock", "0.0.0.0:1"
    for settings in (
        command.settings("--listen", one, "--listen", two, file='listen = "127.0.0.1:3"'),
        command.settings(environment={"LONGSHORE_LISTEN": f"{one} {two}"}),
        command.settings(file=f'listen = ["{one}", "{two}"]'),
    ):
        assert settings.listen == (one, two)
    assert command.settings().listen == ("127.0.0.1:7465",)


def test_certificates_and_roles_have_the_three_sources(command: Command) -> None:
    file = 'tls-cert = "/c"\ntls-key = "/k"\ntls-client-ca = "/a"\n'
    file += 'client-role = ["w.example.org=work", "s=submit,operate"]\n'
    variables = {
        variable(name): value for name, value in zip(("tls-cert", "tls-key", "tls-client-ca"), "xyz", strict=True)
    }
    roles = ("--client-role", "w.example.org=work", "--client-role", "s=submit,operate")
    for settings in (
        command.settings(file=file),
        command.settings(*TLS, *roles, environment=variables),
        command.settings(*TLS, environment={"LONGSHORE_CLIENT_ROLE": " ".join(roles[1::2])}),
    ):
        assert settings.tls == TlsFiles(certificate=Path("/c"), key=Path("/k"), client_ca=Path("/a"))
        assert settings.client_roles == {"w.example.org": {Role.WORK}, "s": {Role.SUBMIT, Role.OPERATE}}
    settings = command.settings(file='tls-cert = "/c"\ntls-key = "/k"')
    assert settings.tls == TlsFiles(certificate=Path("/c"), key=Path("/k"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--tls-cert", "/c"), "--tls-key"),
        (("--tls-key", "/k"), "--tls-cert"),
        (("--tls-client-ca", "/a"), "--tls-cert and --tls-key"),
        (("--client-role", "a=work"), "--tls-client-ca"),
        ((*TLS, "--client-role", "work"), "NAME=ROLE"),
        ((*TLS, "--client-role", "a=rule"), "submit, work, operate"),
        ((*TLS, "--client-role", "a="), "--client-role"),
        ((*TLS, "--client-role", "=work"), "--client-role"),
        ((*TLS, "--client-role", "local=work"), "local"),
        ((*TLS, "--client-role", "a b=work"), "no name"),
        ((*TLS, "--client-role", "a=work", "--client-role", "a=submit"), "twice"),
    ],
)
def test_wrong_access_settings_are_named(command: Command, arguments: tuple[str, ...], named: str) -> None:
    assert named in command.refused(*arguments)


def test_the_file_may_be_named_in_the_environment(command: Command, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("queue-limit = 9\n")
    environment = {"LONGSHORE_CONFIG": str(tmp_path / "other.toml")}
    assert command.settings(environment=environment).limits.queue_tasks == 9


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("queue-limit = true", "queue-limit"),
        ("queue-limit = 1.5", "queue-limit"),
        ('queue-limit = "many"', "queue-limit"),
        ("queue-limit = 0", "queue-limit"),
        ("queue-limit = [1]", "queue-limit"),
        ("attempt-limit = 101", "attempt-limit"),
        ("lease = [1]", "lease"),
        ('lease = "soon"', "lease"),
        ('spool-limit = "lots"', "spool-limit"),
        ("worker = 1", "worker"),
        ('worker = "yes"', "worker"),
        ("target = [3]", "target"),
        ("target = 3", "target"),
        ('log-format = "xml"', "log-format"),
        ("[queue-limit]\na = 1", "queue-limit"),
        ("queue-limits = 1", "queue-limits"),
        ('config = "x"', "config"),
        ("version = true", "version"),
        ("show-version = true", "show-version"),
        ("queue-limit = ", "longshored.toml"),
    ],
)
def test_wrong_settings_in_the_file_are_named(command: Command, file: str, named: str) -> None:
    assert named in command.refused(file=file)


@pytest.mark.parametrize(
    ("name", "value"),
    [("queue-limit", "many"), ("lease", "soon"), ("disk-reserve", "-1"), ("worker", "perhaps"), ("log-level", "loud")],
)
def test_wrong_settings_elsewhere_are_named(command: Command, name: str, value: str) -> None:
    assert name in command.refused(environment={variable(name): value})
    if name not in FLAGS:
        assert name in command.refused(f"--{name}", value)


def test_a_file_that_is_not_there_is_an_error(command: Command, tmp_path: Path) -> None:
    said = command.refused("--config", str(tmp_path / "missing.toml"))
    assert "missing.toml cannot be used: No such file or directory" in said
    assert "Errno" not in said


def test_the_version_is_asked_for_on_the_command_line_only(command: Command) -> None:
    assert command.result("--version").output.startswith("longshored ")
    assert command.settings(environment={"LONGSHORE_SHOW_VERSION": "1", "LONGSHORE_VERSION": "1"})


def test_quiet_logs_warnings_and_yields_to_a_level_that_is_given(command: Command) -> None:
    assert command.settings("--quiet").log_level == "warning"
    assert command.settings("-q", "--log-level", "error").log_level == "error"
    assert command.settings().log_level == "info"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--lease", "1" + "0" * 400 + "h"),
        ("--retention", "99999999999999999999d"),
        ("--spool-limit", "9" * 400 + "GiB"),
        ("--disk-reserve", "9e9"),
        ("--queue-limit", "1" + "0" * 30),
        ("--target-limit", "1" + "0" * 30),
        ("--listen", "127.0.0.1:99999"),
        ("--listen", "unix:/" + "x" * 200),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_option(command: Command, option: str, value: str) -> None:
    if option == "--listen":
        with pytest.raises(SettingsError, match="--listen"):
            check_listen(value)
    else:
        assert option in command.refused(option, value)


def test_the_environment_of_the_three_programs_is_known_to_each() -> None:
    ours = {variable(max(one.opts, key=len)[2:]) for one in typer.main.get_command(main._app).params}
    # No setting has the variables that --help and --version would have.
    ours -= {f"LONGSHORE_{name}" for name in ("HELP", "VERSION", "INSTALL_COMPLETION", "SHOW_COMPLETION")}
    theirs: set[str] = set()
    for parameter in typer.main.get_command(worker_main.app).params:
        theirs |= set(parameter.envvar or ())
    clients = {
        f"LONGSHORE_{name}" for name in ("SERVER", "TLS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_SERVER_NAME", "TOKEN")
    } | {"LONGSHORE_TOKEN_FILE", "LONGSHORE_DATA_DIR"}
    assert ours | theirs | clients == environment.KNOWN


def test_an_unknown_environment_name_is_reported_with_the_nearest_known_one() -> None:
    [one, other] = environment.unknown(
        {
            "LONGSHORE_QUEU_LIMIT": "5",
            "LONGSHORE_LEASE": "6s",
            "LONGSHORE_WORKER_NAME": "w",
            "LONGSHORE_": "",
            "HOME": "/",
        }
    )
    assert (one.name, one.nearest) == ("LONGSHORE_", "")
    assert (other.name, other.nearest) == ("LONGSHORE_QUEU_LIMIT", "LONGSHORE_QUEUE_LIMIT")
