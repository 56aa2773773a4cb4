// What the Node clients share: see client.py; the same checks, the same answer.
"use strict";

const KEY = process.env.API_KEY ?? "";
const BEARER = { authorization: `Bearer ${KEY}` };
const POSTED = { text: "grüße ".repeat(4000), number: 42 };

function expect(condition, what) {
  if (!condition) throw new Error(what);
}

// request(method, url, json or undefined) must resolve to { status, headers, text }.
async function httpChecks(url, seen, request) {
  const checks = [
    ["GET", `${url}/anything?probe=1`, undefined, (answer) => answer.args.probe === "1"],
    ["POST", `${url}/post`, POSTED, (answer) => answer.json.text === POSTED.text],
    ["GET", `${url}/gzip`, undefined, (answer) => answer.gzipped === true],
    ["DELETE", `${url}/delete`, undefined, (answer) => "headers" in answer],
  ];
  for (const [method, target, json, holds] of checks) {
    const { status, headers, text } = await request(method, target, json);
    seen.push(JSON.stringify(headers), text);
    expect(status === 200, `${target}: ${status} ${text.slice(0, 100)}`);
    expect(holds(JSON.parse(text)), `${target}: not the answer that was asked for`);
  }
  return `${checks.length} requests`;
}

async function run(client, version, body) {
  const seen = [];
  let ok = false;
  let detail;
  try {
    detail = await body(process.argv[2], seen);
    ok = true;
  } catch (error) {
    detail = `${error} ${error.cause ?? ""}`;
    seen.push(String(error.stack));
  }
  const line = JSON.stringify({ client, version, ok, detail: detail.slice(0, 300), seen: seen.join("\n") });
  process.stdout.write(line + "\n", () => process.exit(ok ? 0 : 1));
}

// The version of an installed package, also of one whose package.json is no export.
function versionOf(name) {
  const fs = require("node:fs");
  const folder = process.env.NODE_PATH.split(":").find((root) => fs.existsSync(`${root}/${name}/package.json`));
  return JSON.parse(fs.readFileSync(`${folder}/${name}/package.json`, "utf8")).version;
}

module.exports = { KEY, BEARER, expect, httpChecks, run, versionOf };
