// Anthropic's Node library as its users write it: a message, and one streamed.
"use strict";
const { Anthropic } = require("@anthropic-ai/sdk");
const { KEY, expect, run, versionOf } = require("./client.cjs");

run("anthropic (node)", versionOf("@anthropic-ai/sdk"), async (url, seen) => {
  const own = url === "https://api.anthropic.com" ? {} : { baseURL: url, apiKey: KEY };
  const client = new Anthropic({ timeout: 20000, maxRetries: 0, ...own });
  const asked = { model: "claude-sonnet-4-5", max_tokens: 100, messages: [{ role: "user", content: "hello" }] };
  const text = (await client.messages.create(asked)).content[0].text;
  seen.push(text);
  expect(text.startsWith("The key is ") && text.endsWith("done."), `message: ${text.slice(0, 60)}`);
  const pieces = [];
  for await (const event of client.messages.stream(asked)) {
    seen.push(JSON.stringify(event));
    if (event.type === "content_block_delta") pieces.push(event.delta.text);
  }
  expect(pieces.join("") === text && pieces.length > 3, `streamed: ${pieces.join("").slice(0, 60)}`);
  return `message, streamed in ${pieces.length} pieces`;
});
