// undici from npm with its EnvHttpProxyAgent; ALPN may choose HTTP/2.
"use strict";
const { EnvHttpProxyAgent, request } = require("undici");
const { BEARER, httpChecks, run } = require("./client.cjs");

run("undici", require("undici/package.json").version, (url, seen) => {
  const dispatcher = new EnvHttpProxyAgent({ allowH2: true });
  return httpChecks(url, seen, async (method, target, json) => {
    const headers = json ? { ...BEARER, "content-type": "application/json" } : BEARER;
    const answer = await request(target, { method, headers, body: json && JSON.stringify(json), dispatcher });
    let body = Buffer.from(await answer.body.arrayBuffer());
    if (answer.headers["content-encoding"] === "gzip") body = require("node:zlib").gunzipSync(body);
    return { status: answer.statusCode, headers: answer.headers, text: body.toString() };
  });
});
