#!/usr/bin/env python3
"""grpcio: unary, server streaming, 200 messages both ways, trailers, and a status with its message."""

import os
from urllib.parse import urlsplit

import grpc
from client import KEY, Seen, expect, run

SERVICE = "/keyward.test.Echo"


def body(url: str, seen: Seen) -> str:
    parts = urlsplit(url)
    metadata = (("authorization", f"Bearer {KEY}"),)
    roots = grpc.ssl_channel_credentials(open(os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"], "rb").read())
    with grpc.secure_channel(f"{parts.hostname}:{parts.port or 443}", roots) as channel:
        answer, call = channel.unary_unary(f"{SERVICE}/Unary").with_call(b"hello", metadata=metadata, timeout=15)
        trailers = dict(call.trailing_metadata())
        seen.add(answer, call.initial_metadata(), trailers)
        expect(answer == b"hello", f"unary: {answer!r}")
        expect(trailers.get("x-trailer", "here") == "here", f"trailers: {trailers}")
        stream = channel.unary_stream(f"{SERVICE}/ServerStream")(b"part", metadata=metadata, timeout=15)
        expect(list(stream) == [b"part%d" % n for n in range(5)], "server streaming differs")
        sent = [b"message %d " % n * 100 for n in range(200)]
        both = channel.stream_stream(f"{SERVICE}/Bidi")(iter(sent), metadata=metadata, timeout=15)
        expect(list(both) == sent, "the bidirectional stream differs")
        try:
            channel.unary_unary(f"{SERVICE}/Fail")(b"", metadata=metadata, timeout=15)
            raise AssertionError("Fail did not fail")
        except grpc.RpcError as error:
            seen.add(error.details(), error.trailing_metadata())
            expect(error.code() is grpc.StatusCode.FAILED_PRECONDITION, f"{error.code()}: {error.details()}")
            expect(error.details().startswith("not now"), f"message: {error.details()}")
    return "unary, server stream, bidi × 200, status 9"


run("grpcio", grpc.__version__, body)
