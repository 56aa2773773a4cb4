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
        seen.add(error)
        took = time.monotonic() - begun
        expect("403" in str(error), f"{type(error).__name__}: {error}")
        expect(took < 5, f"it took {took:.1f} s to hear of it")
        return f"{type(error).__name__} with the 403"
    raise AssertionError("it was answered")


run("boto3", boto3.__version__, body)
