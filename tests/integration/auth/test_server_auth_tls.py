"""TLS and client certificates, over real connections: who is let in as whom, and what a change does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from longshore.server.model.access import Role
from tests.support.servers.certificates import Authority, Pair, replace
from tests.support.servers.secured import ARITIES, GET, HEALTH, TOKEN, UPLOAD, WATCH, WORK, SecuredServer, call
from tests.support.workers.fakeworker import reason_of

SPIFFE = "spiffe://example.org/worker"
ROLES = {
    SPIFFE: frozenset({Role.WORK, Role.SUBMIT}),
    "ci.example.org": frozenset({Role.SUBMIT}),
    "someone@example.org": frozenset({Role.OPERATE}),
    "by-common-name": frozenset({Role.OPERATE}),
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SecuredServer]:
    async with SecuredServer(tmp_path, client_roles=ROLES) as running:
        yield running


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[SecuredServer]:
    """TLS, and no certificates of clients."""
    async with SecuredServer(tmp_path) as running:
        yield running


async def refusal(channel: grpc.aio.Channel, method: str = GET, *, token: str | None = None) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(channel, method, token=token)
    return refused.value


async def no_connection(channel: grpc.aio.Channel) -> None:
    """The handshake fails, whatever the token."""
    async with channel:
        assert (await refusal(channel, HEALTH, token=TOKEN)).code() is grpc.StatusCode.UNAVAILABLE


# Tokens over TLS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ARITIES)
async def test_a_token_opens_a_tls_listener(plain: SecuredServer, method: str) -> None:
    async with plain.channel() as channel:
        assert await call(channel, method, token=TOKEN) == "local:submit,work,operate"
        assert (await refusal(channel, method)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_needs_no_token_but_tls(plain: SecuredServer) -> None:
    async with plain.channel() as channel:
        assert await call(channel, HEALTH) == "healthy"


async def test_a_unix_socket_beside_a_tls_listener_stays_plain(server: SecuredServer) -> None:
    async with grpc.aio.insecure_channel(server.unix) as channel:
        assert await call(channel, token=TOKEN) == "local:submit,work,operate"
        error = await refusal(channel)
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert "certificate" not in (error.details() or "")


async def test_a_client_without_tls_gets_nowhere(plain: SecuredServer) -> None:
    await no_connection(grpc.aio.insecure_channel(plain.address))


async def test_a_client_that_does_not_trust_the_server_goes_no_further(plain: SecuredServer) -> None:
    await no_connection(plain.channel(trusts=Authority("somebody else")))


# Client certificates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ARITIES)
async def test_a_certificates_name_is_the_caller(server: SecuredServer, method: str) -> None:
    async with server.channel(client=server.client_authority.client(uri=SPIFFE)) as channel:
        assert await call(channel, method) == f"{SPIFFE}:submit,work"


async def test_a_dns_name_counts_after_a_uri(server: SecuredServer) -> None:
    authority = server.client_authority
    async with server.channel(client=authority.client(dns="ci.example.org")) as channel:
        assert await call(channel) == "ci.example.org:submit"
    async with server.channel(client=authority.client(dns="ci.example.org", uri=SPIFFE)) as channel:
        assert await call(channel) == f"{SPIFFE}:submit,work"
    async with server.channel(client=authority.client(dns="ci.example.org", uri="spiffe://no/role")) as channel:
        assert await call(channel) == "ci.example.org:submit"


@pytest.mark.parametrize("method", ARITIES)
async def test_a_certificate_without_a_role_gets_the_reason(server: SecuredServer, method: str) -> None:
    async with server.channel(client=server.client_authority.client(dns="other.example.org")) as channel:
        error = await refusal(channel, method)
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert "other.example.org" in (error.details() or "")
        assert "--client-role" in (error.details() or "")


@pytest.mark.parametrize("names", [{"email": "someone@example.org"}, {"name": "by-common-name"}])
async def test_other_name_types_of_a_certificate_are_ignored(server: SecuredServer, names: dict[str, str]) -> None:
    async with server.channel(client=server.client_authority.client(**names)) as channel:  # type: ignore[arg-type]
        assert (await refusal(channel)).code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "names",
    [
        {"dns": "ci.example.org\0.customer.example.net"},
        {"uri": f"{SPIFFE}\0/customer"},
        {"dns": SPIFFE},
        {"dns": "CI.example.org"},
        {"dns": "*.example.org"},
        {"dns": "ci.example.org."},
    ],
)
async def test_a_certificate_name_matches_as_a_whole_and_by_its_type(
    server: SecuredServer, names: dict[str, Any]
) -> None:
    """Its authority may have looked at the rest of it only."""
    async with server.channel(client=server.client_authority.client(**names)) as channel:
        assert (await refusal(channel)).code() is grpc.StatusCode.UNAUTHENTICATED


SPIFFE_NAME = bytes([0x86, len(SPIFFE)]) + SPIFFE.encode()


@pytest.mark.parametrize(
    ("names", "status"),
    [
        pytest.param(b"\x30\x00", grpc.StatusCode.UNAUTHENTICATED, id="no names"),
        pytest.param(b"\x82\x02\xff\xfe" + SPIFFE_NAME, grpc.StatusCode.UNAUTHENTICATED, id="a name that is no text"),
        # gRPC itself refuses these in the handshake.
        pytest.param(b"\x87\x03abc" + SPIFFE_NAME, grpc.StatusCode.UNAVAILABLE, id="an IP address of three bytes"),
        pytest.param(SPIFFE_NAME + b"\x86", grpc.StatusCode.UNAVAILABLE, id="names that are cut"),
    ],
)
async def test_a_certificate_with_odd_names_is_refused_and_harms_no_other_call(
    server: SecuredServer, names: bytes, status: grpc.StatusCode
) -> None:
    whole = names if names[0] == 0x30 else bytes([0x30, len(names)]) + names
    odd = server.client_authority.odd_client(names=whole, common_names=("by-common-name", "ci.example.org"))
    async with server.channel(client=odd) as channel:
        assert (await refusal(channel)).code() is status
    async with server.channel(client=server.client_authority.client(uri=SPIFFE)) as channel:
        assert await call(channel) == f"{SPIFFE}:submit,work"


async def test_a_very_long_name_is_shortened(server: SecuredServer) -> None:
    async with server.channel(client=server.client_authority.client(uri="u" * 70_000)) as channel:
        error = await refusal(channel)
        assert (error.code(), len(error.details() or "") < 2000) == (grpc.StatusCode.UNAUTHENTICATED, True)


async def test_an_unknown_method_is_unimplemented_for_a_certificate_too(server: SecuredServer) -> None:
    method = f"{GET}OfTomorrow"
    async with server.channel(client=server.client_authority.client(dns="ci.example.org")) as channel:
        assert (await refusal(channel, method)).code() is grpc.StatusCode.UNIMPLEMENTED
    async with server.channel(client=server.client_authority.client(dns="nobody.example.org")) as channel:
        assert (await refusal(channel, method)).code() is grpc.StatusCode.UNAUTHENTICATED
    async with grpc.aio.insecure_channel(server.unix) as channel:
        assert (await refusal(channel, method)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_certificates_roles_are_checked(server: SecuredServer) -> None:
    async with server.channel(client=server.client_authority.client(dns="ci.example.org")) as channel:
        assert await call(channel, UPLOAD) == "ci.example.org:submit"
        error = await refusal(channel, WORK)
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN")
        assert "work" in (error.details() or "")


@pytest.mark.parametrize("method", ARITIES)
async def test_of_a_token_and_a_certificate_the_token_decides(server: SecuredServer, method: str) -> None:
    async with server.channel(client=server.client_authority.client(uri=SPIFFE)) as channel:
        assert await call(channel, method, token=TOKEN) == "local:submit,work,operate"
        for wrong in ("wrong", ""):
            assert (await refusal(channel, method, token=wrong)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_without_a_certificate_of_the_right_authority_there_is_no_connection(server: SecuredServer) -> None:
    for client in (
        None,
        Authority("somebody else").client(uri=SPIFFE),
        server.authority.client(uri=SPIFFE),
        server.client_authority.client(uri=SPIFFE, expired=True),
    ):
        await no_connection(server.channel(client=client))


# Changes ------------------------------------------------------------------------------------------------------------


async def test_a_new_server_certificate_is_taken_under_running_connections(plain: SecuredServer) -> None:
    new = Authority("new")
    async with plain.channel() as old, plain.channel(trusts=new) as fresh:
        stream: Any = old.stream_stream(WORK)(metadata=(("authorization", f"Bearer {TOKEN}"),))
        assert await stream.read()
        new.server().write(plain.files.certificate.parent, "server")
        plain.certificates.check_files()
        assert await call(fresh, token=TOKEN)
        # Open calls go on, and so do their connections; only new connections meet the new certificate.
        await stream.write(b"")
        assert await stream.read()
        assert await call(old, WATCH, token=TOKEN)
        await no_connection(plain.channel())
        stream.cancel()


async def test_a_new_authority_of_clients_is_taken_under_running_connections(server: SecuredServer) -> None:
    new = Authority("new clients")
    client: Pair = server.client_authority.client(uri=SPIFFE)
    async with server.channel(client=client) as old:
        stream: Any = old.stream_stream(WORK)()
        assert await stream.read()
        assert server.files.client_ca is not None
        replace(server.files.client_ca, new.certificate)
        server.certificates.check_files()
        async with server.channel(client=new.client(uri=SPIFFE)) as fresh:
            assert await call(fresh) == f"{SPIFFE}:submit,work"
        await stream.write(b"")
        assert await stream.read()
        await no_connection(server.channel(client=client))
        # Two authorities at once, as during a change-over.
        replace(server.files.client_ca, new.certificate + server.client_authority.certificate)
        server.certificates.check_files()
        for one in (client, new.client(uri=SPIFFE)):
            async with server.channel(client=one) as fresh:
                assert await call(fresh) == f"{SPIFFE}:submit,work"
        stream.cancel()


async def test_a_broken_file_changes_nothing(plain: SecuredServer) -> None:
    replace(plain.files.key, b"nothing")
    plain.certificates.check_files()
    async with plain.channel() as channel:
        assert await call(channel, token=TOKEN)


async def test_an_expired_server_certificate_is_the_clients_to_refuse(plain: SecuredServer) -> None:
    plain.authority.server(expired=True).write(plain.files.certificate.parent, "server")
    plain.certificates.check_files()
    await no_connection(plain.channel())
    plain.authority.server().write(plain.files.certificate.parent, "server")
    plain.certificates.check_files()
    async with plain.channel() as channel:
        assert await call(channel, token=TOKEN)
