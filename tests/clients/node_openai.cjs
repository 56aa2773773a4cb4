// OpenAI's Node library as its users write it: a chat answer, one streamed, and a streamed response.
"use strict";
const { OpenAI } = require("openai");
const { KEY, expect, run, versionOf } = require("./client.cjs");

run("openai (node)", versionOf("openai"), async (url, seen) => {
  const own = url === "https://api.openai.com" ? {} : { baseURL: `${url}/v1`, apiKey: KEY };
  const client = new OpenAI({ timeout: 20000, maxRetries: 0, ...own });
  const asked = { model: "gpt-4o", messages: [{ role: "user", content: "hello" }] };
  const text = (await client.chat.completions.create(asked)).choices[0].message.content;
  seen.push(text);
  expect(text.startsWith("The key is ") && text.endsWith("done."), `chat: ${text.slice(0, 60)}`);
  const pieces = [];
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
    pieces.push(chunk.choices[0]?.delta.content ?? "");
  seen.push(pieces.join(""));
  expect(pieces.join("") === text && pieces.length > 3, `chat, streamed: ${pieces.join("").slice(0, 60)}`);
  let said = "";
  for await (const event of await client.responses.create({ model: "gpt-4o", input: "hello", stream: true })) {
    seen.push(JSON.stringify(event));
    if (event.type === "response.output_text.delta") said += event.delta;
  }
  expect(said === text, `response: ${said.slice(0, 60)}`);
  return `chat, streamed in ${pieces.length} pieces, response`;
});
