"""The server's listeners in this process, with certificates; behind it one RPC of each arity that says who came in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from longshore.server.config.settings import TlsFiles
from longshore.server.edge.auth.interceptor import AuthInterceptor
from longshore.server.edge.auth.principal import principal
from longshore.server.edge.auth.tokens import TokenBook
from longshore.server.model.access import LocalToken, Role, roles_text
from longshore.server.process.certificates import Certificates
from tests.support.servers.certificates import Authority, Pair, replace

TOKEN = "the-token-of-the-data-directory"

GET = "/longshore.v1.TaskService/GetTask"
WATCH = "/longshore.v1.TaskService/WatchTask"
UPLOAD = "/longshore.v1.TaskService/Upload"
WORK = "/longshore.v1.WorkerService/Work"
HEALTH = "/grpc.health.v1.Health/Check"
ARITIES = {GET: "unary_unary", WATCH: "unary_stream", UPLOAD: "stream_unary", WORK: "stream_stream"}


def who() -> bytes:
    caller = principal()
    return f"{caller.name}:{roles_text(caller.roles)}".encode()


async def _one(_request: Any, _context: Any) -> bytes:
    return who()


async def _watch(_request: Any, _context: Any) -> AsyncIterator[bytes]:
    yield who()
    yield b"end"


async def _work(_requests: Any, context: Any) -> None:
    await context.write(who())
    while await context.read() is not grpc.aio.EOF:
        await context.write(who())


async def _healthy(_request: Any, _context: Any) -> bytes:
    return b"healthy"


class _Handlers(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return {
            GET: grpc.unary_unary_rpc_method_handler(_one),
            WATCH: grpc.unary_stream_rpc_method_handler(_watch),
            UPLOAD: grpc.stream_unary_rpc_method_handler(_one),
            WORK: grpc.stream_stream_rpc_method_handler(_work),
            HEALTH: grpc.unary_unary_rpc_method_handler(_healthy),
        }.get(handler_call_details.method)


class SecuredServer:
    """`async with SecuredServer(folder)`: a TLS port and a plain unix socket. Clients show certificates if there are
    `client_roles`."""

    def __init__(
        self,
        folder: Path,
        *,
        client_roles: Mapping[str, frozenset[Role]] | None = None,
        tokens: TokenBook | None = None,
    ) -> None:
        self.authority, self.client_authority = Authority("servers"), Authority("clients")
        self._folder = folder
        certificate, key = self.authority.server().write(folder, "server")
        client_ca = None
        if client_roles is not None:
            client_ca = folder / "clients.crt"
            replace(client_ca, self.client_authority.certificate)
        self.files = TlsFiles(certificate=certificate, key=key, client_ca=client_ca)
        self.certificates = Certificates(self.files)
        lock = AuthInterceptor(local=LocalToken(TOKEN), tokens=tokens, client_roles=client_roles)
        self._server = grpc.aio.server(interceptors=[lock], options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((_Handlers(),))
        self.port = self._server.add_secure_port("127.0.0.1:0", self.certificates.credentials())
        self.unix = f"unix:{folder / 's'}"
        self._server.add_insecure_port(self.unix)

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._server.stop(grace=0)

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def channel(self, *, client: Pair | None = None, trusts: Authority | None = None) -> grpc.aio.Channel:
        """A connection of its own."""
        credentials = grpc.ssl_channel_credentials(
            (trusts or self.authority).certificate,
            None if client is None else client.key,
            None if client is None else client.certificate,
        )
        return grpc.aio.secure_channel(self.address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


async def call(opened: grpc.aio.Channel, method: str = GET, *, token: str | None = None) -> str:
    """Call a method, and return the principal that the server let in. Raises grpc.aio.AioRpcError."""
    channel: Any = opened  # without stubs, messages are bytes
    options: dict[str, Any] = {"timeout": 20.0}
    if token is not None:
        options["metadata"] = (("authorization", f"Bearer {token}"),)
    if method == WATCH:
        answers = [answer async for answer in channel.unary_stream(method)(b"", **options)]
        assert answers[1:] == [b"end"]
        return bytes(answers[0]).decode()
    if method == UPLOAD:
        return bytes(await channel.stream_unary(method)(iter([b""]), **options)).decode()
    if method == WORK:
        stream = channel.stream_stream(method)(**options)
        # Read first: a write to what was refused at once fails here, and hides the status.
        assert await stream.read() is not grpc.aio.EOF
        await stream.write(b"")
        answer = await stream.read()
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        return bytes(answer).decode()
    return bytes(await channel.unary_unary(method)(b"", **options)).decode()
