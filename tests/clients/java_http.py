#!/usr/bin/env python3
"""Java's HttpClient: the root in a truststore that keytool makes, the proxy's password in a Proxy-Authorization of its own."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from client import Seen, run
from tool import call, home, version

SOURCE = Path(__file__).with_name("JavaHttp.java")


def body(url: str, seen: Seen) -> str:
    store = home() / "trust.p12"
    call(seen, "keytool", "-importcert", "-noprompt", "-alias", "keyward", "-file", os.environ["SSL_CERT_FILE"],
         "-keystore", store, "-storetype", "PKCS12", "-storepass", "changeit")
    words = [f"-Djavax.net.ssl.trustStore={store}", "-Djavax.net.ssl.trustStorePassword=changeit"]
    if proxy := os.environ.get("HTTPS_PROXY"):
        parts = urlsplit(proxy)
        words += [f"-Dhttps.proxyHost={parts.hostname}", f"-Dhttps.proxyPort={parts.port}",
                  # Java sends no password for a tunnel unless told (JDK-8168839).
                  "-Djdk.http.auth.tunneling.disabledSchemes="]
    return call(seen, "java", *words, SOURCE, url).splitlines()[-1]


run("Java HttpClient", version("java", "-version"), body)
