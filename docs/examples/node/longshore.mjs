// This module uploads and watches with resume, and makes calls such as cancel, in 150 lines on the plain stubs. Copy it into
// your service. docs/languages.md explains each step.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const CHUNK = 1 << 20; // bytes; the contract allows 2 MiB
const ANSWER = 30_000; // ms for a call that is answered at once
const PATIENCE = 60_000; // ms of trying without progress

// CRC32C (Castagnoli): zlib's crc32 has another polynomial.
const TABLE = Int32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0x82f63b78 : n >>> 1;
  return n;
});

// Returns the CRC32C of `data`, or of bytes with the CRC32C `before` followed by `data`.
export function crc32c(data, before = 0) {
  let crc = ~before;
  for (const byte of data) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

// Connects to a server. `protos` is the folder with longshore/v1/*.proto, and `ca` the file with the authority of the server's
// certificate. Without `ca` the connection has no TLS, which is for servers on this machine only.
export function connect({ server, token, ca, protos }) {
  const contract = loader.loadSync("longshore/v1/task_service.proto", {
    includeDirs: [protos], keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true,
  });
  const { TaskService } = grpc.loadPackageDefinition(contract).longshore.v1;
  const channel = ca ? grpc.credentials.createSsl(readFileSync(ca)) : grpc.credentials.createInsecure();
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  return { stub: new TaskService(server, channel), metadata };
}

// Makes a call with one answer: GetTask, ListTasks, SubmitTask, CancelTask, RetryTask and so on.
export function call(to, method, request) {
  const options = { deadline: Date.now() + ANSWER };
  return promisify(to.stub[method].bind(to.stub))(request, to.metadata, options);
}

// Returns the reason of an error, an upper-case word of docs/errors.md. An empty text means that the connection failed.
export function reasonOf(error) {
  return error.metadata?.get("longshore-reason")[0] ?? "";
}

// Tells whether the same call may succeed later. Every call can be repeated: it has a request id, or changes nothing twice.
export function mayPass(error) {
  const reason = reasonOf(error);
  switch (error.code) {
    case grpc.status.UNAVAILABLE: case grpc.status.DEADLINE_EXCEEDED: return true;
    case grpc.status.RESOURCE_EXHAUSTED: return reason !== "" && reason !== "MESSAGE_TOO_LARGE";
    case grpc.status.ABORTED: return reason === "UPLOAD_IN_PROGRESS";
    case grpc.status.CANCELLED: case grpc.status.INTERNAL: case grpc.status.UNKNOWN: return reason === "";
    default: return false;
  }
}

// Repeats `attempt` until it succeeds, fails for good, or makes no progress for PATIENCE. `attempt` gets a function to call when
// it makes progress.
async function patiently(attempt) {
  let since = Date.now(), failures = 0;
  const moved = () => { since = Date.now(); failures = 0; };
  for (;;) {
    try {
      return await attempt(moved);
    } catch (error) {
      if (!mayPass(error) || Date.now() - since > PATIENCE) throw error;
      await backOff(failures++);
    }
  }
}

function backOff(failures) {
  return sleep(Math.min(5000, 100 * 2 ** failures) * (0.5 + Math.random() / 2));
}

// Uploads a file and makes the tasks of `spec`; they are durable when this returns. The same `requestId` with the same file
// gives the same tasks, after a crash of this program too.
export function upload(to, path, { spec, requestId }) {
  let ours = false, furthest = 0;
  return patiently(async (moved) => {
    const file = await open(path);
    let stream;
    const answer = new Promise((resolve, reject) => {
      stream = to.stub.Upload(to.metadata, (error, response) => (error ? reject(error) : resolve(response)));
    });
    answer.catch(() => {}); // awaited below
    try {
      const { size } = await file.stat();
      const admitted = once(stream, "metadata").then(([metadata]) => metadata.get("longshore-offset")[0]);
      admitted.catch(() => {}); // the answer tells why
      // After a cut the server may believe that our dead connection lives, so this connection takes the upload over.
      stream.write({ header: { request_id: requestId, spec, size, take_over: ours } });
      const wanted = await Promise.race([admitted, answer.then(() => undefined)]);
      if (wanted === undefined) return (await answer).tasks; // complete already: there is nothing to send
      ours = true;
      const offset = Number(wanted);
      if (offset > furthest) { furthest = offset; moved(); }
      const buffer = Buffer.alloc(CHUNK);
      let whole = 0;
      for (let position = 0; position < size; ) {
        const length = position < offset ? Math.min(CHUNK, offset - position) : CHUNK;
        const { bytesRead } = await file.read(buffer, 0, length, position);
        if (bytesRead === 0) throw new Error(`${path} became shorter while it was read`);
        const data = Buffer.from(buffer.subarray(0, bytesRead));
        whole = crc32c(data, whole);
        if (position >= offset) { // the server has the bytes before
          const room = stream.write({ chunk: { offset: position, crc32c: crc32c(data), data } });
          if (!room) await Promise.race([once(stream, "drain"), answer]);
        }
        position += bytesRead;
      }
      stream.write({ finish: { size, crc32c: whole } });
      stream.end();
      return (await answer).tasks;
    } finally {
      stream.cancel();
      await file.close();
    }
  });
}

// Yields the task as it is, or every revision after `after`, and ends after the last one. Connects again after a cut.
export async function* watch(to, taskId, after) {
  let revision = after, since = Date.now(), failures = 0;
  for (;;) {
    const position = revision === undefined ? {} : { after_revision: revision };
    const stream = to.stub.WatchTask({ task_id: taskId, ...position }, to.metadata);
    stream.on("error", () => {}); // the loop below has it
    try {
      for await (const message of stream) {
        since = Date.now();
        failures = 0;
        if (message.go_away) break; // the server leaves: connect again
        if (!message.task) continue; // progress, or a sign of life
        revision = message.task.revision;
        yield message.task;
        if (message.task.done) return;
      }
    } catch (error) {
      if (!mayPass(error) || Date.now() - since > PATIENCE) throw error;
    } finally {
      stream.cancel();
    }
    await backOff(failures++);
  }
}
