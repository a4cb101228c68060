// node deliver.mjs push FILE INSTANCE/PATH [REQUEST_ID] | cancel TASK | watch TASK [AFTER] | get TASK
import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import { call, connect, reasonOf, upload, watch } from "./longshore.mjs";

const to = connect({
  server: process.env.LONGSHORE_SERVER ?? "127.0.0.1:7465",
  token: process.env.LONGSHORE_TOKEN,
  ca: process.env.LONGSHORE_TLS_CA,
  protos: process.env.LONGSHORE_PROTOS ?? fileURLToPath(new URL("../../../protos", import.meta.url)),
});

async function follow(id, after) {
  for await (const task of watch(to, id, after)) {
    console.log(`${task.id} ${task.revision} ${task.state} ${task.error?.reason ?? ""}`.trimEnd());
    if (task.done && task.state !== "TASK_STATE_SUCCEEDED") process.exitCode = 3;
  }
}

const commands = {
  async push(path, place, requestId = randomUUID()) {
    const slash = place.indexOf("/");
    const destination = { instance: place.slice(0, slash), path: place.slice(slash) };
    const spec = { file_push: { pushes: [{ destination }] } };
    const [task] = await upload(to, path, { spec, requestId });
    await follow(task.id);
  },
  async watch(id, after) {
    await follow(id, after === undefined ? undefined : Number(after));
  },
  async cancel(id) {
    const { task } = await call(to, "CancelTask", { task_id: id, reason: "asked for by deliver.mjs" });
    console.log(`${task.id} ${task.revision} ${task.state}`);
  },
  async get(id) {
    const { task } = await call(to, "GetTask", { task_id: id });
    console.log(`${task.id} ${task.revision} ${task.state}`);
  },
};

const [command, ...rest] = process.argv.slice(2);
try {
  await commands[command](...rest);
} catch (error) {
  console.error(`${reasonOf(error) || error.code || "FAILED"}: ${error.details ?? error.message}`);
  process.exitCode = 1;
}
