"""The clients of this folder, the hosts that they call, and the variables that each of them needs and gets."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

PRESETS = Path(__file__).resolve().parent.parent.parent / "presets"
PLACEHOLDER = "placeholder-that-opens-nothing"
BEARER, BASIC = 'inject = "bearer"', 'inject = { basic = "user" }'
# Host by which clients know the server: the server's script and how its route injects.
HOSTS = {
    "api.test": ("web", BEARER),
    "xkey.test": ("web", 'inject = { header = "x-api-key" }'),
    "ws.test": ("websocket", BEARER),
    "sse.test": ("sse", BEARER),
    "grpc.test": ("grpc_echo", BEARER),
    "mcp.test": ("mcp_tools", BEARER),
    "git.test": ("git_http", BASIC),
    "index.test": ("web", BASIC),
    "npm.test": ("web", BEARER),
    "cargo.test": ("web", 'inject = { header = "authorization" }'),
    "api.openai.com": ("llm", 'preset = "openai"'),
    "api.anthropic.com": ("llm", 'preset = "anthropic"'),
    "generativelanguage.googleapis.com": ("llm", 'preset = "gemini"'),
    "api.github.com": ("web", 'preset = "github"'),
}


@dataclass
class Client:
    name: str
    host: str
    script: str
    # What it gets beside the proxy's address: the CA's file, or "=1".
    needs: str = ""
    options: tuple[str, ...] = ()
    # Its server sends the key back to it: a proxy that does not scrub must be caught.
    echoes: bool = True
    # The Python environment and the npm packages of tests/peers that it stands on.
    of: str = "test"
    # The preset whose variable bears the placeholder.
    preset: str = ""
    # Its server is never to hear of it.
    refused: bool = False
    # What else a user must know, for the table.
    note: str = ""
    # What its first contact with keyward cost: round trips beyond the least, and the count in words.
    extra: int = 0
    contact: str = ""

    def key(self, real: str | None) -> dict[str, str]:
        """The variables that hold the key: a placeholder, or without a proxy the real one."""
        if not self.preset:
            return {"API_KEY": real or PLACEHOLDER}
        keys = tomllib.loads((PRESETS / f"{self.preset}.toml").read_text())["key"]
        return {"API_KEY": real or keys[0]["placeholder"]} | {
            name: real or key["placeholder"] for key in keys for name in key["env"][:2]}


CURL, REQUESTS, SSL = "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"
NODE, NODE_PROXY = "NODE_EXTRA_CA_CERTS", "NODE_EXTRA_CA_CERTS NODE_USE_ENV_PROXY=1"
GRPC, GIT = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "GIT_SSL_CAINFO"
GEMINI = "generativelanguage.googleapis.com"
CLIENTS = [
    Client("curl h1", "api.test", "curl.py", CURL, ("--http1.1",)),
    Client("curl h2", "api.test", "curl.py", CURL, ("--http2",)),
    Client("curl x-api-key", "xkey.test", "curl_x_api_key.py", CURL),
    Client("requests", "api.test", "python_requests.py", REQUESTS),
    Client("urllib", "api.test", "python_urllib.py", SSL),
    Client("httpx h1", "api.test", "python_httpx.py", SSL, ("h1",)),
    Client("httpx h2", "api.test", "python_httpx.py", SSL, ("h2",)),
    Client("aiohttp", "api.test", "python_aiohttp.py", SSL, note="with `trust_env=True`"),
    Client("websockets", "ws.test", "python_websockets.py", SSL),
    Client("httpx SSE", "sse.test", "python_sse.py", SSL),
    Client("grpcio", "grpc.test", "python_grpc.py", GRPC),
    Client("git", "git.test", "git_client.py", GIT, echoes=False,
           note="for pushes above `http.postBuffer`: `http.version=HTTP/1.1`, see below"),
    Client("node fetch", "api.test", "node_fetch.cjs", NODE_PROXY),
    Client("undici", "api.test", "node_undici.cjs", NODE, note="with `EnvHttpProxyAgent`"),
    Client("axios", "api.test", "node_axios.cjs", NODE),
    Client("node WebSocket", "ws.test", "node_websocket.cjs", NODE, note="undici's, with `EnvHttpProxyAgent`"),
    Client("grpc-js", "grpc.test", "node_grpc.cjs", GRPC),
    Client("openai (Python)", "api.openai.com", "python_openai.py", SSL, of="sdk", preset="openai"),
    Client("anthropic (Python)", "api.anthropic.com", "python_anthropic.py", SSL, of="sdk", preset="anthropic"),
    Client("google-genai (Python)", GEMINI, "python_genai.py", SSL, of="sdk", preset="gemini"),
    Client("openai (Node)", "api.openai.com", "node_openai.cjs", NODE_PROXY, of="sdk", preset="openai"),
    Client("anthropic (Node)", "api.anthropic.com", "node_anthropic.cjs", NODE_PROXY, of="sdk", preset="anthropic"),
    Client("google-genai (Node)", GEMINI, "node_genai.cjs", NODE_PROXY, of="sdk", preset="gemini"),
    Client("LangChain", "api.openai.com", "python_langchain.py", SSL, of="agents", preset="openai"),
    Client("OpenAI Agents SDK", "api.openai.com", "python_agents.py", SSL, of="agents", preset="openai"),
    Client("MCP, streamable HTTP", "mcp.test", "python_mcp.py", SSL, of="agents"),
    Client("kubectl", "api.test", "kubectl.py", SSL, note="`token` of its user; a server that sends back, no cluster"),
    Client("pip", "index.test", "pip_index.py", "PIP_CERT", of="sdk", echoes=False),
    Client("uv", "index.test", "uv_index.py", SSL, of="sdk", echoes=False),
    Client("npm", "npm.test", "npm_registry.py", "npm_config_cafile", echoes=False),
    Client("cargo", "cargo.test", "cargo_registry.py", "CARGO_HTTP_CAINFO", echoes=False),
    Client("gh", "api.github.com", "gh_api.py", SSL, preset="github"),
    Client("Java HttpClient", "api.test", "java_http.py", SSL,
           note="a truststore by keytool, `https.proxyHost`, `jdk.http.auth.tunneling.disabledSchemes=`, `Proxy-Authorization` "
                "in each request; an Authenticator works too, and costs a connection more"),
    Client("boto3", "sts.amazonaws.com", "boto3_refused.py", "AWS_CA_BUNDLE", of="sdk", preset="aws", refused=True,
           note="with a static key it is refused: it signs for itself"),
]
