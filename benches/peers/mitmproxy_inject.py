"""mitmproxy as a credential-injecting proxy: `--set plan=FILE`, JSON of host → {"port", "header": [name, value]}.

Every request to a host of the plan gets the header, and goes to loopback at `port` under its own Host. Anything else
passes untouched. The request is redirected, never the connection: mitmproxy would not find a connection whose address
was changed again, open one a request, and hang at the sixth.
"""

import json
from pathlib import Path

from mitmproxy import ctx


class Inject:
    def load(self, loader):
        loader.add_option("plan", str, "", "JSON file: host to port and header")

    def configure(self, updated):
        if "plan" in updated and ctx.options.plan:
            self.plan = json.loads(Path(ctx.options.plan).read_text())

    def requestheaders(self, flow):
        entry = self.plan.get(flow.request.host)
        if entry:
            authority = flow.request.host_header
            flow.request.host, flow.request.port = "127.0.0.1", entry["port"]
            flow.request.host_header = authority
            flow.request.headers[entry["header"][0]] = entry["header"][1]

    def responseheaders(self, flow):
        # Without this a stream of events arrives as one heap at its end.
        if flow.response.headers.get("content-type", "").startswith("text/event-stream"):
            flow.response.stream = True


addons = [Inject()]
