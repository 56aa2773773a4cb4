#!/usr/bin/env python3
"""boto3 as an agent uses it, with placeholder keys from its environment; one JSON line for each step."""

import json
import os
import urllib.error
import urllib.request
import ssl

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

REGION, WEB = "eu-central-1", "eu-west-1"
ONCE = Config(retries={"total_max_attempts": 1})
KEYS = ["plain", "with space", "with+plus", "ü/€.txt", "a=b&c;d:e@f,g", "(x)!*'y$", "~tilde"]


def client(service: str, region: str = REGION, **settings):
    return boto3.client(service, region_name=region, config=ONCE.merge(Config(**settings)))


def expect(condition: bool, what: object) -> None:
    if not condition:
        raise AssertionError(what)


def refused(call) -> str:
    """The word of keyward's refusal, as boto3 shows the status and the header."""
    try:
        call()
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPHeaders"].get("keyward-refusal", str(error))
    return "it was answered"


def fetch(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler())
    try:
        with opener.open(urllib.request.Request(url, data=body, method=method), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def identity() -> str:
    arn = client("sts").get_caller_identity()["Arn"]
    expect(arn.endswith(":user/keyward"), arn)
    return arn


def objects() -> str:
    s3 = client("s3")
    for key in KEYS:
        s3.put_object(Bucket="reports", Key=key, Body=f"body of {key}".encode(), Metadata={"two": "a  b"})
        got = s3.get_object(Bucket="reports", Key=key)
        expect(got["Body"].read() == f"body of {key}".encode(), key)
    listed = [one["Key"] for one in s3.list_objects_v2(Bucket="reports", Prefix="")["Contents"]]
    expect(sorted(listed) == sorted(KEYS), listed)
    with_plus = s3.list_objects_v2(Bucket="reports", Prefix="with+")["KeyCount"]
    with_space = s3.list_objects_v2(Bucket="reports", Prefix="with ")["KeyCount"]
    expect((with_plus, with_space) == (1, 1), (with_plus, with_space))
    return f"{len(KEYS)} keys"


def path_style() -> str:
    s3 = client("s3", s3={"addressing_style": "path"})
    s3.put_object(Bucket="reports", Key="path/style", Body=b"x")
    s3.delete_object(Bucket="reports", Key="path/style")
    return "put and deleted"


def digests() -> str:
    s3 = client("s3", s3={"payload_signing_enabled": True}, request_checksum_calculation="when_required")
    s3.put_object(Bucket="reports", Key="plain", Body=b"digested")
    expect(s3.get_object(Bucket="reports", Key="plain")["Body"].read() == b"digested", "another body")
    return "a body whose digest the agent gave"


def presigned(version: str) -> str:
    # moto with authorization takes no signature in a query (tests/it/aws.rs verifies those): version 4 goes to the other.
    region, bucket = (WEB, "web-bucket") if version == "s3v4" else (REGION, "reports")
    s3 = client("s3", region, signature_version=version)
    s3.put_object(Bucket=bucket, Key="with space", Body=b"body of with space")
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "with space"}, ExpiresIn=604800)
    status, body = fetch(url)
    expect((status, body) == (200, b"body of with space"), (status, body[:300]))
    status, body = fetch(url, "DELETE")
    expect(status == 403 and b"no-route" in body, (status, body[:300]))
    url = s3.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "presigned"})
    status, body = fetch(url, "PUT", b"by URL")
    expect(status == 200, (status, body[:300]))
    return "read, written, and not deleted"


def secret() -> str:
    manager = client("secretsmanager")
    manager.create_secret(Name="s", SecretString="text" * 1000)
    expect(manager.get_secret_value(SecretId="s")["SecretString"] == "text" * 1000, "another text")
    return "created and read"


def table() -> str:
    dynamo = client("dynamodb")
    dynamo.create_table(TableName="t", KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}], BillingMode="PAY_PER_REQUEST",
                        AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}])
    dynamo.put_item(TableName="t", Item={"k": {"S": "ü"}, "v": {"S": "x" * 100_000}})
    got = dynamo.get_item(TableName="t", Key={"k": {"S": "ü"}})["Item"]["v"]["S"]
    expect(len(got) == 100_000, len(got))
    return "made, written and read"


def web() -> str:
    s3 = client("s3", WEB)
    s3.put_object(Bucket="web-bucket", Key="k", Body=b"x")
    arn = client("sts", WEB).get_caller_identity()["Arn"]
    expect(":assumed-role/web/keyward-tester-" in arn, arn)
    return arn


def wrong() -> str:
    word = refused(lambda: client("sqs").list_queues())
    expect(word == "broker-refused", word)
    return word


def down() -> str:
    word = refused(lambda: client("sqs", "us-west-2").list_queues())
    expect(word == "broker-unavailable", word)
    return word


for name, step in (("who am I", identity), ("objects", objects), ("path style", path_style), ("digests", digests),
                   ("presigned, version 4", lambda: presigned("s3v4")), ("presigned, version 2", lambda: presigned("s3")),
                   ("a secret", secret), ("a table", table), ("a role by web identity", web),
                   ("keys that STS refuses", wrong), ("an STS that is down", down)):
    try:
        answer = {"name": name, "ok": True, "detail": step()}
    except Exception as error:
        answer = {"name": name, "ok": False, "detail": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
