"""mitmproxy as a credential-injecting proxy: `--set plan=FILE`, JSON of host → {"port", "header": [name, value]}.

A host of the plan is dialled on loopback at `port` (its name and the TLS checks stay), and every request to it gets
the header. Anything else passes untouched.
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

    def server_connect(self, data):
        name = data.server.address[0]
        if name in self.plan:
            data.server.sni = name
            data.server.address = ("127.0.0.1", self.plan[name]["port"])

    def requestheaders(self, flow):
        entry = self.plan.get(flow.request.pretty_host)
        if entry:
            flow.request.headers[entry["header"][0]] = entry["header"][1]

    def responseheaders(self, flow):
        # Without this a stream of events arrives as one heap at its end.
        if flow.response.headers.get("content-type", "").startswith("text/event-stream"):
            flow.response.stream = True


addons = [Inject()]
