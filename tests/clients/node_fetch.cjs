// Node's own fetch, which obeys the proxy variables with NODE_USE_ENV_PROXY=1: the SDKs of OpenAI and Anthropic use it.
"use strict";
const { BEARER, expect, httpChecks, run } = require("./client.cjs");

run("node fetch", process.versions.node, async (url, seen) => {
  const detail = await httpChecks(url, seen, async (method, target, json) => {
    const headers = json ? { ...BEARER, "content-type": "application/json" } : BEARER;
    const answer = await fetch(target, { method, headers, body: json && JSON.stringify(json) });
    return { status: answer.status, headers: [...answer.headers], text: await answer.text() };
  });
  const big = await fetch(`${url}/static/100m.bin`, { headers: BEARER });
  const size = (await big.arrayBuffer()).byteLength;
  expect(size === 100 << 20, `100 MiB are ${size} bytes`);
  return `${detail}, 100 MiB down`;
});
