// @grpc/grpc-js through `grpc_proxy` or `https_proxy`: unary with trailers, server streaming, 200 messages both ways.
"use strict";
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const { KEY, expect, run } = require("./client.cjs");

const bytes = (buffer) => buffer;
const method = (name, requestStream, responseStream) => ({
  path: `/keyward.test.Echo/${name}`,
  requestStream,
  responseStream,
  requestSerialize: bytes,
  requestDeserialize: bytes,
  responseSerialize: bytes,
  responseDeserialize: bytes,
});
const Echo = grpc.makeGenericClientConstructor({
  unary: method("Unary", false, false),
  serverStream: method("ServerStream", false, true),
  bidi: method("Bidi", true, true),
  fail: method("Fail", false, false),
});

function collect(call) {
  return new Promise((resolve, reject) => {
    const parts = [];
    call.on("data", (part) => parts.push(part.toString())).on("error", reject).on("end", () => resolve(parts));
  });
}

run("grpc-js", require("@grpc/grpc-js/package.json").version, async (url, seen) => {
  const { hostname, port } = new URL(url);
  const roots = fs.readFileSync(process.env.GRPC_DEFAULT_SSL_ROOTS_FILE_PATH);
  const client = new Echo(`${hostname}:${port || 443}`, grpc.credentials.createSsl(roots));
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${KEY}`);
  const deadline = () => ({ deadline: Date.now() + 15000 });

  await new Promise((resolve, reject) => {
    const call = client.unary(Buffer.from("hello"), metadata, deadline(), (error, answer) => {
      if (error) return reject(error);
      seen.push(answer.toString());
      if (answer.toString() !== "hello") reject(new Error(`unary: ${answer}`));
    });
    call.on("status", (status) => {
      seen.push(JSON.stringify(status.metadata.toJSON()));
      resolve();
    });
  });
  const stream = await collect(client.serverStream(Buffer.from("part"), metadata, deadline()));
  expect(stream.join() === "part0,part1,part2,part3,part4", `server streaming: ${stream}`);
  const sent = Array.from({ length: 200 }, (_, n) => `message ${n} `.repeat(100));
  const call = client.bidi(metadata, deadline());
  const back = collect(call);
  sent.forEach((message) => call.write(Buffer.from(message)));
  call.end();
  expect((await back).join() === sent.join(), "the bidirectional stream differs");
  const error = await new Promise((resolve) => client.fail(Buffer.alloc(0), metadata, deadline(), resolve));
  seen.push(JSON.stringify([error?.details, error?.metadata?.toJSON()]));
  expect(error?.code === grpc.status.FAILED_PRECONDITION, `Fail: ${error?.code} ${error?.details}`);
  expect(error.details.startsWith("not now"), `message: ${error.details}`);
  client.close();
  return "unary, server stream, bidi × 200, status 9";
});
