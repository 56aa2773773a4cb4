#!/usr/bin/env python3
"""boto3 against an S3 at a name of its own, with placeholder keys; one JSON line for each step."""

import http.client
import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
import zlib
from base64 import b64encode
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

KEYS = ["plain", "with space", "with+plus", "ü/€ 漢.txt", "a=b&c;d:e@f,g", "(x)!*'y$", "~tilde",
        "deep//er", "down//er///still", "a..b", "...", "..hidden", "dir/.../x..y", "q?x#y", "[b]{c}|^`\"<>"]
SLICE = 1 << 20


def s3(style: str = "path", **settings):
    config = Config(s3={"addressing_style": style, **settings.pop("s3", {})}, retries={"total_max_attempts": 1},
                    signature_version="s3v4", **settings)
    return boto3.client("s3", region_name="us-east-1", endpoint_url="https://s3.test", config=config)


def expect(condition: bool, what: object) -> None:
    if not condition:
        raise AssertionError(what)


def objects(style: str, **settings) -> str:
    client = s3(style, **settings)
    for key in KEYS:
        body = f"body of {key}".encode()
        client.put_object(Bucket="bucket", Key=key, Body=body, ContentType="text/plain", Metadata={"two": "a  b"})
        got = client.get_object(Bucket="bucket", Key=key)
        expect((got["Body"].read(), got["Metadata"]) == (body, {"two": "a  b"}), (key, got["Metadata"]))
        expect(client.head_object(Bucket="bucket", Key=key)["ContentLength"] == len(body), key)
    for prefix in ("with ", "with+", "ü/", "(x)!*'"):
        # By count: boto3 takes the plus of a key for a blank, since this server does not encode what it lists.
        count = client.list_objects_v2(Bucket="bucket", Prefix=prefix)["KeyCount"]
        expect(count == 1, (prefix, count))
    client.copy_object(Bucket="bucket", Key="copied", CopySource={"Bucket": "bucket", "Key": "ü/€ 漢.txt"})
    expect(client.get_object(Bucket="bucket", Key="copied")["Body"].read() == "body of ü/€ 漢.txt".encode(), "another copy")
    client.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": key} for key in ("copied", "plain")]})
    return f"{len(KEYS)} keys"


def dots() -> str:
    """Dot segments and double escapes have two readings everywhere: they are refused, and nothing of them is sent."""
    for key in ("a/../b", "./a", "../bucket/b", "two%20escaped"):
        try:
            s3().put_object(Bucket="bucket", Key=key, Body=b"x")
        except ClientError as error:
            word = error.response["ResponseMetadata"]["HTTPHeaders"].get("keyward-refusal")
            expect(word == "bad-request", (key, str(error)))
        else:
            raise AssertionError(f"{key} was written")
    return "refused"


def ranges() -> str:
    client, body = s3("virtual"), os.urandom(100_000)
    client.put_object(Bucket="bucket", Key="sliced", Body=body)
    for asked, wanted in (("bytes=0-9", body[:10]), ("bytes=5000-5999", body[5000:6000]), ("bytes=99000-", body[99000:]),
                          ("bytes=-77", body[-77:])):
        got = client.get_object(Bucket="bucket", Key="sliced", Range=asked)
        status = got["ResponseMetadata"]["HTTPStatusCode"]
        expect((status, got["Body"].read()) == (206, wanted), (asked, status, got.get("ContentRange")))
    return "four slices"


def fetch(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler())
    try:
        with opener.open(urllib.request.Request(url, data=body, method=method), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def presigned(style: str) -> str:
    client = s3(style)
    for key in ("with space", "with+plus", "deep//er", "ü/€ 漢.txt"):
        body = f"by URL: {key}".encode()
        url = client.generate_presigned_url("put_object", {"Bucket": "bucket", "Key": key}, ExpiresIn=604800)
        expect("AKIAkeyward" in url, "the agent signs with its placeholder")
        expect(fetch(url, "PUT", body)[0] == 200, (key, fetch(url, "PUT", body)))
        url = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": key}, ExpiresIn=604800)
        expect(fetch(url) == (200, body), (key, fetch(url)))
    return "written and read by URL"


def multipart(style: str, **settings) -> str:
    client, several = s3(style, **settings), TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20)
    client.upload_file("big", "bucket", "deep/big", Config=several)
    size = client.head_object(Bucket="bucket", Key="deep/big")["ContentLength"]
    expect(size == Path("big").stat().st_size, size)
    client.download_file("bucket", "deep/big", "back", Config=several)
    expect(Path("back").read_bytes() == Path("big").read_bytes(), "another object")
    return f"{size >> 20} MiB in parts of 8, both ways"


def chunked(trailer: bool) -> str:
    """Chunks as SDKs sign them that have no boto: the signatures are placeholders as well."""
    body, zero, framed = os.urandom(300_000), "0" * 64, bytearray()
    for start in range(0, len(body), 65536):
        part = body[start:start + 65536]
        framed += f"{len(part):x};chunk-signature={zero}\r\n".encode() + part + b"\r\n"
    framed += f"0;chunk-signature={zero}\r\n".encode()
    kind, more = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", {}
    if trailer:
        sum_ = b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
        framed += f"x-amz-checksum-crc32:{sum_}\r\nx-amz-trailer-signature:{zero}\r\n".encode()
        kind, more = kind + "-TRAILER", {"x-amz-trailer": "x-amz-checksum-crc32"}
    framed += b"\r\n"
    proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
    token = b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    context = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
    link = http.client.HTTPSConnection(proxy.hostname, proxy.port, context=context, timeout=20)
    link.set_tunnel("s3.test", headers={"Proxy-Authorization": f"Basic {token}"})
    link.request("PUT", "/bucket/chunked", bytes(framed), {
        "Authorization": "AWS4-HMAC-SHA256 Credential=AKIAkeyward000000000/20200101/mars/s3/aws4_request, SignedHeaders=host, Signature=00",
        "x-amz-date": "20200101T000000Z", "x-amz-content-sha256": kind, "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(len(body)), **more})
    answer = link.getresponse()
    text = answer.read()
    expect(answer.status == 200, (answer.status, text[:300]))
    expect(s3().get_object(Bucket="bucket", Key="chunked")["Body"].read() == body, "another object")
    return kind


def refused() -> str:
    """The same server, with a key that is none: it does look."""
    try:
        wrong = boto3.client("s3", region_name="us-east-1", endpoint_url="https://wrong.test",
                             config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}))
        wrong.get_object(Bucket="bucket", Key="with space")
    except ClientError as error:
        expect(error.response["Error"]["Code"] == "SignatureDoesNotMatch", str(error))
        return error.response["Error"]["Code"]
    raise AssertionError("it was answered")


STEPS = {
    "objects, path style": lambda: objects("path"),
    "objects, virtual hosts": lambda: objects("virtual"),
    "objects, digests": lambda: objects("path", request_checksum_calculation="when_required",
                                        s3={"payload_signing_enabled": True}),
    "keys of two readings": dots,
    "slices": ranges,
    "presigned, path style": lambda: presigned("path"),
    "presigned, virtual hosts": lambda: presigned("virtual"),
    "chunks, each signed": lambda: chunked(False),
    "chunks and a trailer": lambda: chunked(True),
    "multipart": lambda: multipart("virtual"),
    "a key that is wrong": refused,
}
for name, step in STEPS.items():
    try:
        answer = {"name": name, "ok": True, "detail": step()}
    except Exception as error:
        answer = {"name": name, "ok": False, "detail": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
