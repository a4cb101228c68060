"""`--target` takes some values, and explains why it refuses the others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from longshore.worker.targets.spec import DirectorySpec, LxdSpec, SpecError, TargetSpec, open_target, parse_target
from longshore.worker.targets.transport import DaemonEndpoint

SOCKET = DaemonEndpoint(socket_path="/var/lib/lxd/unix.socket")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("local=lxd:/var/lib/lxd/unix.socket", LxdSpec("local", SOCKET)),
        ("i=incus:/var/lib/lxd/unix.socket", LxdSpec("i", SOCKET)),
        ("i=lxd:/var/lib/lxd/unix.socket?project=web&files_api=allow", LxdSpec("i", SOCKET, "web", True)),
        (
            "far=https://lxd.example:9443?cert=/c+d.crt&key=/k%20.key&server_cert=/s",
            LxdSpec(
                "far", DaemonEndpoint(host="lxd.example", port=9443, cert="/c+d.crt", key="/k .key", server_cert="/s")
            ),
        ),
        ("far=https://[::1]/?cert=c&key=k", LxdSpec("far", DaemonEndpoint(host="::1", port=8443, cert="c", key="k"))),
        ("m=directory:/var/lib/machines", DirectorySpec("m", "/var/lib/machines")),
        ("m=directory:/a=b?c", DirectorySpec("m", "/a=b?c")),
    ],
)
def test_targets(text: str, spec: TargetSpec) -> None:
    assert parse_target(text) == spec
    target = open_target(parse_target(text))
    assert target.name == text.partition("=")[0]
    target.close()


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "NAME=WHERE"),
        ("local", "NAME=WHERE"),
        ("local=", "NAME=WHERE"),
        ("Local=lxd:/s", "the name 'Local'"),
        ("=lxd:/s", "the name ''"),
        ("a=ftp://x", "'ftp' is no kind of target"),
        ("a=lxd:relative", "absolute path"),
        ("a=lxd:/" + "x" * 107, "longer than 107"),
        ("a=lxd:/s?cert=c", "unknown option 'cert'"),
        ("a=lxd:/s?project=a&project=b", "given twice"),
        ("a=lxd:/s?files_api=yes", "'allow' or 'refuse'"),
        ("a=https://host:8443", "add ?cert=FILE&key=FILE"),
        ("a=https://host:port?cert=c&key=k", "https://HOST:PORT"),
        ("a=https://user@host?cert=c&key=k", "without a path or a user"),
        ("a=https://?cert=c&key=k", "https://HOST:PORT"),
        ("a=directory:here", "absolute path"),
    ],
)
def test_mistakes_are_named_with_their_remedy(text: str, remedy: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_target(text)
    assert "--target" in str(caught.value)
    assert remedy in str(caught.value)


def test_address_of_ipv6_is_bracketed() -> None:
    assert DaemonEndpoint(host="::1", port=1).url == "https://[::1]:1"


def test_a_worker_without_lxd_imports_nothing_that_only_lxd_needs() -> None:
    code = "import longshore.worker.main, sys; print(*{'pylxd', 'requests', 'urllib3', 'ws4py'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
