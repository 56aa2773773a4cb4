#!/usr/bin/env python3
"""google-auth with a placeholder for a refresh token: it refreshes by itself, and keyward answers in Google's place."""

from importlib.metadata import version

from google.auth.transport.requests import AuthorizedSession
from google.oauth2.credentials import Credentials

from client import KEY, Seen, expect, run


def body(url: str, seen: Seen) -> str:
    login = Credentials(token=None, refresh_token="1//keyward-0000000000", token_uri="https://oauth2.googleapis.com/token",
                        client_id="keyward.apps.googleusercontent.com", client_secret="keyward-0000000000")
    session = AuthorizedSession(login)
    for path in ("/anything?probe=1", "/anything/storage/v1/b"):
        answer = session.get(f"{url}{path}", timeout=20)
        seen.add(answer.text, answer.headers)
        expect(answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:200]}")
    expect(login.token == KEY, "the token is not the preset's placeholder")
    expect(login.expiry is not None and not login.expired, "the token has no life")
    login.refresh(session._auth_request)
    expect(login.token == KEY, "refreshed, it is another")
    return "refreshed twice, and no token of Google's was asked for"


run("google-auth", version("google-auth"), body)
