#!/usr/bin/env python3
"""A gRPC server over TLS with messages of plain bytes: Unary, ServerStream, Bidi, and Fail, which ends in a status.

Every call must bring `authorization: Bearer KEY` in its metadata, else it ends UNAUTHENTICATED. Unary sends the key
back in its trailing metadata, Fail in its status message.
"""

import sys
from concurrent import futures

import grpc
from peer import Peer, ready

peer = Peer("grpc_echo")


def key(context: grpc.ServicerContext, method: str) -> str:
    authorization = dict(context.invocation_metadata()).get("authorization")
    peer.saw(path=method, authorization=authorization)
    if not peer.bearer(authorization):
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong key")
    return authorization


def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    echo = key(context, "Unary")
    context.set_trailing_metadata((("x-trailer", "here"), ("x-echo", echo)))
    return request


def server_stream(request: bytes, context: grpc.ServicerContext):
    key(context, "ServerStream")
    for number in range(5):
        yield request + str(number).encode()


def bidi(requests, context: grpc.ServicerContext):
    key(context, "Bidi")
    yield from requests


def fail(_request: bytes, context: grpc.ServicerContext) -> bytes:
    echo = key(context, "Fail")
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"not now, {echo}")


server = grpc.server(futures.ThreadPoolExecutor(16))
handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("keyward.test.Echo", handlers),))
pair = ((peer.dir / "server.key").read_bytes(), (peer.dir / "server.pem").read_bytes())
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
server.start()
ready(port)
sys.stdin.buffer.read()
server.stop(0)
