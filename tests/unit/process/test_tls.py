"""Certificates: what is wrong with them is said at the start, and at a change the last good ones stay."""

from __future__ import annotations

import hashlib
import re
import ssl
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from structlog.testing import capture_logs

from longshore.server.config.settings import SettingsError, TlsFiles
from longshore.server.process.certificates import Certificates
from tests.support.servers.certificates import Authority, encrypted, replace


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> TlsFiles:
    certificate, key = authority.server().write(tmp_path, "server")
    replace(tmp_path / "ca.crt", authority.certificate)
    return TlsFiles(certificate=certificate, key=key, client_ca=tmp_path / "ca.crt")


def test_good_ones_are_taken(files: TlsFiles) -> None:
    assert Certificates(files).credentials() is not None


def broken(files: TlsFiles, authority: Authority) -> dict[str, tuple[Path, bytes | None, str]]:
    assert files.client_ca is not None
    other = Authority().server()
    return {
        "no certificate": (files.certificate, None, "--tls-cert"),
        "no key": (files.key, None, "--tls-key"),
        "no ca": (files.client_ca, None, "--tls-client-ca"),
        "an empty certificate": (files.certificate, b"", "--tls-cert"),
        "DER": (files.certificate, b"\x30\x82", "--tls-cert"),
        "a damaged certificate": (files.certificate, authority.server().certificate[:-90] + b"\n", "--tls-cert"),
        "a key for a certificate": (files.certificate, files.key.read_bytes(), "--tls-cert"),
        "a certificate for a key": (files.key, files.certificate.read_bytes(), "--tls-key"),
        "another's key": (files.key, other.key, "--tls-key"),
        "an encrypted key": (files.key, encrypted(other).key, "encrypted"),
        "a ca without certificates": (files.client_ca, b"nothing", "--tls-client-ca"),
        "an empty ca": (files.client_ca, b"", "--tls-client-ca"),
    }


CASES = [
    "no certificate", "no key", "no ca", "an empty certificate", "DER", "a damaged certificate",
    "a key for a certificate", "a certificate for a key", "another's key", "an encrypted key",
    "a ca without certificates", "an empty ca",
]  # fmt: skip


def spoil(files: TlsFiles, authority: Authority, case: str) -> str:
    path, content, named = broken(files, authority)[case]
    if content is None:
        path.unlink()
    else:
        replace(path, content)
    return named


@pytest.mark.parametrize("case", CASES)
def test_at_the_start_the_option_and_the_file_are_named(files: TlsFiles, authority: Authority, case: str) -> None:
    named = spoil(files, authority, case)
    with pytest.raises(SettingsError, match=named) as refused:
        Certificates(files)
    assert "PRIVATE" not in str(refused.value)


@pytest.mark.parametrize("case", CASES)
def test_a_broken_change_keeps_the_last_good_certificates_and_is_logged_once(
    files: TlsFiles, authority: Authority, case: str
) -> None:
    certificates = Certificates(files)
    before = certificates._current
    named = spoil(files, authority, case)
    with capture_logs() as logs:
        certificates.check_files()
        certificates.check_files()
    assert certificates._current is before
    assert [(log["event"], named in log["problem"]) for log in logs] == [("certificates_not_reloaded", True)]
    # And when it is mended, it is taken.
    authority.server().write(files.certificate.parent, "server")
    assert files.client_ca is not None
    replace(files.client_ca, authority.certificate)
    with capture_logs() as logs:
        certificates.check_files()
    assert certificates._current is not before
    assert [log["event"] for log in logs] == ["certificates_reloaded"]


def test_unchanged_certificates_make_no_new_context(files: TlsFiles, authority: Authority) -> None:
    certificates = Certificates(files)
    before = certificates._current
    replace(files.certificate, files.certificate.read_bytes())
    with capture_logs() as logs:
        certificates.check_files()
    assert (certificates._current is before, logs) == (True, [])


def test_between_the_two_files_of_a_pair_the_old_pair_stays(files: TlsFiles, authority: Authority) -> None:
    certificates = Certificates(files)
    new = authority.server()
    before = certificates._current
    replace(files.certificate, new.certificate)
    certificates.check_files()
    assert certificates._current is before
    replace(files.key, new.key)
    certificates.check_files()
    assert certificates._current is not before


def test_each_listener_is_told_of_a_change(
    files: TlsFiles, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetchers: list[Callable[[], object]] = []
    monkeypatch.setattr("grpc.dynamic_ssl_server_credentials", lambda _first, fetch, **_options: fetchers.append(fetch))
    certificates = Certificates(files)
    certificates.credentials()
    certificates.credentials()
    assert [fetch() for fetch in fetchers] == [None, None]
    authority.server().write(files.certificate.parent, "server")
    certificates.check_files()
    for fetch in fetchers:
        assert fetch() is certificates._current
        assert fetch() is None


def test_text_beside_the_certificates_may_be_in_any_alphabet(files: TlsFiles, authority: Authority) -> None:
    assert files.client_ca is not None
    certificates = Certificates(files)
    for path in (files.client_ca, files.certificate):
        replace(path, "# Főtanúsítvány: für Läufer\n".encode() + path.read_bytes())
    with capture_logs() as said:
        certificates.check_files()
    assert [one["event"] for one in said] == ["certificates_reloaded"]
    assert Certificates(files).credentials() is not None
    # Nor does binary rubbish end the server.
    replace(files.client_ca, b"\xff\x00" * 100)
    with capture_logs() as said:
        certificates.check_files()
    assert [one["event"] for one in said] == ["certificates_not_reloaded"]


DAY = 86400.0


def test_the_certificate_and_its_end_are_logged_when_it_is_read(files: TlsFiles, authority: Authority) -> None:
    read = [x509.load_pem_x509_certificate(files.certificate.read_bytes())]
    with capture_logs() as logs:
        certificates = Certificates(files)
        authority.server().write(files.certificate.parent, "server")
        certificates.check_files()
    read.append(x509.load_pem_x509_certificate(files.certificate.read_bytes()))
    assert [log["event"] for log in logs] == ["certificates_loaded", "certificates_reloaded"]
    for log, certificate in zip(logs, read, strict=True):
        assert log["log_level"] == "info"
        assert log["certificate"] == certificate.fingerprint(hashes.SHA256()).hex()
        assert log["subject"] == certificate.subject.rfc4514_string()
        assert "CN=server" in log["subject"]
        assert datetime.fromisoformat(log["not_after"]) == certificate.not_valid_after_utc
        assert log["days_left"] == (certificate.not_valid_after_utc - datetime.now(UTC)).days


ODD = {
    # The first byte of the serial number, behind the version.
    "a serial number below zero": (rb"(\xa0\x03\x02\x01\x02\x02.).", b"\x81"),
    # The common name as a bit string.
    "a name that is no text": (rb"(\x55\x04\x03)\x0c\x06server", b"\x03\x06\0erver"),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_certificate_is_served_and_its_end_is_logged(files: TlsFiles, case: str) -> None:
    pattern, instead = ODD[case]
    der = ssl.PEM_cert_to_DER_cert(files.certificate.read_text())
    odd = re.sub(pattern, lambda match: match[1] + instead, der, count=1, flags=re.DOTALL)
    assert odd != der
    replace(files.certificate, ssl.DER_cert_to_PEM_cert(odd).encode())
    with capture_logs() as logs, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Certificates(files).credentials() is not None
    (log,) = logs
    assert log["certificate"] == hashlib.sha256(odd).hexdigest()
    assert log["days_left"] > 0


def test_a_certificate_that_ends_soon_is_warned_of_at_the_start_and_once_a_day(files: TlsFiles) -> None:
    end = x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc.timestamp()
    now = end - 15 * DAY
    with capture_logs() as early:
        certificates = Certificates(files, wall=lambda: now)
        certificates.check_files()
    assert [(log["event"], log["days_left"]) for log in early] == [("certificates_loaded", 15)]
    with capture_logs() as logs:
        for hours in range(16 * 24 + 1):
            now = end - 15 * DAY + hours * 3600
            certificates.check_files()
    assert {log["event"] for log in logs} == {"certificate_ends_soon"}
    assert [log["days_left"] for log in logs] == [*range(14, -2, -1)]
    with capture_logs() as late:
        Certificates(files, wall=lambda: now)
    assert [(log["event"], log["log_level"]) for log in late] == [
        ("certificates_loaded", "info"),
        ("certificate_ends_soon", "warning"),
    ]
