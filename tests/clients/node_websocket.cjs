// Node's WebSocket (undici's) through the proxy of the environment.
"use strict";
const { EnvHttpProxyAgent, WebSocket } = require("undici");
const { BEARER, expect, run } = require("./client.cjs");

run("node WebSocket", process.versions.node, (url, seen) =>
  new Promise((resolve, reject) => {
    const target = url.replace("https://", "wss://") + "/echo";
    const socket = new WebSocket(target, { headers: BEARER, dispatcher: new EnvHttpProxyAgent() });
    const sent = ["hello", "grüße", "x".repeat(1 << 20), "whoami"];
    let next = 0;
    const timer = setTimeout(() => reject(new Error(`no echo of message ${next} in 15 s`)), 15000);
    socket.onopen = () => socket.send(sent[0]);
    socket.onerror = (event) => reject(event.error ?? new Error("WebSocket error"));
    socket.onmessage = (event) => {
      try {
        if (sent[next] === "whoami") {
          seen.push(event.data);
          clearTimeout(timer);
          socket.close();
          resolve(`${sent.length} messages, 1 MiB both ways`);
          return;
        }
        expect(event.data === sent[next], `the echo of message ${next} differs`);
        next += 1;
        socket.send(sent[next]);
      } catch (error) {
        reject(error);
      }
    };
  }),
);
