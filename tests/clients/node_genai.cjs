// Google's @google/genai as its users write it: a generated answer, and one streamed.
"use strict";
const { GoogleGenAI } = require("@google/genai");
const { KEY, expect, run, versionOf } = require("./client.cjs");

run("google-genai (node)", versionOf("@google/genai"), async (url, seen) => {
  const own = url === "https://generativelanguage.googleapis.com" ? {} : { httpOptions: { baseUrl: url } };
  const client = new GoogleGenAI(KEY ? { apiKey: KEY, ...own } : {});
  const asked = { model: "gemini-2.0-flash", contents: "hello" };
  const text = (await client.models.generateContent(asked)).text;
  seen.push(text);
  expect(text.startsWith("The key is ") && text.endsWith("done."), `answer: ${text.slice(0, 60)}`);
  const pieces = [];
  for await (const chunk of await client.models.generateContentStream(asked)) pieces.push(chunk.text ?? "");
  seen.push(pieces.join(""));
  expect(pieces.join("") === text && pieces.length > 3, `streamed: ${pieces.join("").slice(0, 60)}`);
  return `answer, streamed in ${pieces.length} pieces`;
});
