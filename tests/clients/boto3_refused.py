#!/usr/bin/env python3
"""boto3 with static placeholder keys: it signs for itself, so its host has no route, and it must hear that at once."""

import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from client import Seen, expect, run


def body(url: str, seen: Seen) -> str:
    begun = time.monotonic()
    client = boto3.client("sts", region_name="us-east-1", config=Config(retries={"total_max_attempts": 1}))
    try:
        client.get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        took = time.monotonic() - begun
        # What was refused is in the error that boto3 wraps: it shows its own only.
        cause = str(getattr(error, "kwargs", {}).get("error", error))
        seen.add(error, cause)
        expect("403" in cause, f"{type(error).__name__}: {cause}")
        expect(took < 20, f"it took {took:.1f} s to hear of it")
        return f"{type(error).__name__}: {cause[-60:]}"
    raise AssertionError("it was answered")


run("boto3", boto3.__version__, body)
