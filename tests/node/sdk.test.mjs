// Every call of the stock client with the arguments of its own suite, against the server at ATTUNE_URL. SDK names the
// alias of the client (openai4 … openai7), WORLD is JSON: a finished job, its model, a file, a data file on disk.
// Jobs that are made here stay queued behind one that runs, and are cancelled.
import assert from "node:assert/strict";
import { File, Blob, Buffer } from "node:buffer";
import crypto from "node:crypto";
import fs from "node:fs";
import { test } from "node:test";

globalThis.File ??= File; // Node 18 keeps it in node:buffer; the clients say to do this
const sdk = await import(process.env.SDK);
const { default: OpenAI, toFile } = sdk;
const major = Number(process.env.SDK.slice(-1));
const world = JSON.parse(process.env.WORLD);
const content = fs.readFileSync(world.path);
const options = { apiKey: "My API Key", baseURL: process.env.ATTUNE_URL + "/v1", maxRetries: 0 };
if (major >= 6) options.adminAPIKey = "My Admin API Key";
const client = new OpenAI(options);

const auto = { batch_size: "auto", learning_rate_multiplier: "auto", n_epochs: "auto" };
const grader = { input: "input", name: "name", operation: "eq", reference: "reference", type: "string_check" };
const expires = { anchor: "created_at", seconds: 3600 };
const messages = [{ content: "string", role: "developer", name: "name" }];
const oldNames = major === 4; // del, and permissions by position

/** The three ways to await a call give the same thing. */
async function call(promise, object) {
  const response = await promise.asResponse();
  assert.equal(response.status, 200);
  assert.match(response.headers.get("x-request-id"), /./);
  const both = await promise.withResponse();
  const data = await promise;
  assert.equal(both.data, data);
  if (object) assert.equal(data.object, object);
  return data;
}

/** data is what a list call gives; every item of every page is visited. */
async function collect(pages) {
  const ids = [];
  for await (const item of pages) ids.push(item.id);
  assert.equal(new Set(ids).size, ids.length);
  return ids;
}

async function refused(error, promise, check) {
  await assert.rejects(promise, (thrown) => {
    assert(thrown instanceof error, `${thrown.constructor.name}: ${thrown.message}`);
    assert(!thrown.message.includes("no body"), thrown.message);
    check?.(thrown);
    return true;
  });
}

const createJob = (more = {}) => client.fineTuning.jobs.create({ model: "test/tiny", training_file: world.file, ...more });
const cancel = (job) => client.fineTuning.jobs.cancel(job.id);
const createUpload = (bytes = 0) => client.uploads.create({ bytes, filename: "filename", mime_type: "mime_type", purpose: "assistants" });
const remove = (resource, ...names) => (oldNames ? resource.del(...names) : resource.delete(...names));

// --- jobs ---

test("a job is created from what is required alone", async () => {
  const job = await call(createJob(), "fine_tuning.job");
  assert.equal(job.status, "queued");
  assert.equal(job.error, null);
  assert.deepEqual(job.result_files, []);
  await cancel(job);
});

test("a job is created with every parameter", async () => {
  const job = await createJob({
    hyperparameters: auto, metadata: { foo: "string" }, seed: 42, suffix: "x", validation_file: world.file,
    method: {
      type: "supervised", supervised: { hyperparameters: auto }, dpo: { hyperparameters: { ...auto, beta: "auto" } },
      reinforcement: { grader, hyperparameters: { ...auto, compute_multiplier: "auto", eval_interval: "auto", eval_samples: "auto", reasoning_effort: "default" } },
    },
  });
  assert.deepEqual([job.seed, job.metadata, job.validation_file], [42, { foo: "string" }, world.file]);
  assert.equal(typeof job.method.supervised.hyperparameters.n_epochs, "number");
  const listed = await client.fineTuning.jobs.list({ metadata: { foo: "string" } });
  assert(listed.data.some((other) => other.id === job.id));
  await cancel(job);
});

test("a job is told to Weights & Biases", async () => {
  const wandb = { project: "my-wandb-project", entity: "entity", name: "name", tags: ["custom-tag"] };
  const job = await createJob({ integrations: [{ type: "wandb", wandb }] });
  assert.deepEqual(job.integrations, [{ type: "wandb", wandb }]);
  await cancel(job);
});

test("optional parameters may be null", async () => {
  await cancel(await createJob({ validation_file: null, suffix: null, seed: null, metadata: null, integrations: null, hyperparameters: {} }));
});

test("a job is retrieved with its results", async () => {
  const job = await call(client.fineTuning.jobs.retrieve(world.job), "fine_tuning.job");
  assert.deepEqual([job.status, job.fine_tuned_model], ["succeeded", world.model]);
});

test("a job is paused, resumed and cancelled", async () => {
  const { id } = await createJob();
  assert.equal((await client.fineTuning.jobs.pause(id)).paused, true);
  assert.equal((await client.fineTuning.jobs.resume(id)).paused, false);
  assert.equal((await client.fineTuning.jobs.cancel(id)).status, "cancelled");
  await refused(OpenAI.BadRequestError, client.fineTuning.jobs.pause(id));
});

test("jobs, events and checkpoints are listed, page by page and empty", async () => {
  const { jobs } = client.fineTuning;
  await call(jobs.list());
  assert((await collect(jobs.list({ limit: 2 }))).includes(world.job));
  const events = await collect(jobs.listEvents(world.job, { limit: 3 }));
  assert.deepEqual(events, await collect(jobs.listEvents(world.job)));
  assert(events.length > 5);
  const checkpoints = await collect(jobs.checkpoints.list(world.job, { limit: 1 }));
  assert.deepEqual(checkpoints, (await call(jobs.checkpoints.list(world.job))).data.map((checkpoint) => checkpoint.id));
  for (const list of [jobs.list({ after: "after", limit: 0, metadata: { foo: "string" } }), jobs.listEvents(world.job, { after: "after", limit: 0 }),
    jobs.checkpoints.list(world.job, { after: "after", limit: 0 })]) {
    const page = await list;
    assert.deepEqual(page.data, []);
    assert.equal(page.hasNextPage(), false);
  }
});

test("metadata of null lists the jobs without any", async () => {
  const plain = await createJob();
  assert((await client.fineTuning.jobs.list({ metadata: null })).data.some((job) => job.id === plain.id));
  await cancel(plain);
});

test("reinforcement and its graders are refused by name", async () => {
  const { graders } = client.fineTuning.alpha;
  for (const call of [() => graders.run({ grader, model_sample: "model_sample", item: {} }), () => graders.validate({ grader }),
    () => createJob({ method: { type: "reinforcement", reinforcement: { grader } } })])
    await refused(OpenAI.UnprocessableEntityError, call(), (error) => assert.equal(error.code, "unsupported_method"));
});

test("permissions of a checkpoint are given, listed and taken", async () => {
  const { permissions } = client.fineTuning.checkpoints;
  const created = await call(permissions.create(world.model, { project_ids: [world.project] }));
  assert.equal(created.data[0].object, "checkpoint.permission");
  const listed = await permissions.retrieve(world.model, { limit: 10, order: "ascending", project_id: world.project });
  assert.deepEqual(listed.data.map((permission) => permission.id), [created.data[0].id]);
  if (permissions.list) assert.deepEqual(await collect(permissions.list(world.model, { order: "descending" })), [created.data[0].id]);
  const { id } = created.data[0];
  const gone = await (oldNames ? permissions.del(world.model, id) : permissions.delete(id, { fine_tuned_model_checkpoint: world.model }));
  assert.deepEqual(gone, { id, object: "checkpoint.permission", deleted: true });
  assert.deepEqual((await permissions.retrieve(world.model, { after: "after", limit: 0 })).data, []);
});

// --- files ---

const sources = {
  "a read stream": () => fs.createReadStream(world.path),
  "toFile of a buffer": () => toFile(Buffer.from(content), "data.jsonl"),
  "toFile of bytes with a type": () => toFile(new Uint8Array(content), "data.jsonl", { type: "application/jsonl" }),
  "toFile of a read stream": () => toFile(fs.createReadStream(world.path)),
  "toFile of an async iterable": () => toFile((async function* () { for (const byte of content) yield Uint8Array.of(byte); })(), "data.jsonl"),
  "a File": () => new globalThis.File([content], "data.jsonl", { type: "text/plain" }),
  "toFile of a Blob": () => toFile(new Blob([content]), "data.jsonl"),
  "toFile of a fetch Response": async () => toFile(await fetch(process.env.ATTUNE_URL + `/v1/files/${world.file}/content`), "data.jsonl"),
};

for (const [name, make] of Object.entries(sources))
  test(`a file given as ${name} arrives whole`, async () => {
    const file = await client.files.create({ file: await make(), purpose: "fine-tune" });
    assert.deepEqual([file.object, file.filename, file.bytes, file.status], ["file", "data.jsonl", content.length, "processed"]);
    const back = Buffer.from(await (await client.files.content(file.id)).arrayBuffer());
    assert(back.equals(content));
  });

test("a fetch Response is a file by itself", async () => {
  const response = await fetch(process.env.ATTUNE_URL + `/v1/files/${world.file}/content`);
  const file = await client.files.create({ file: response, purpose: "fine-tune" });
  assert.deepEqual([file.filename, file.bytes], ["content", content.length]);
});

test("a file has a purpose, may expire, and is retrieved, listed and deleted", async () => {
  const file = await call(client.files.create({ file: await toFile(Buffer.from("Example data"), "README.md"), purpose: "assistants", expires_after: expires }), "file");
  assert.equal(file.expires_at - file.created_at, 3600);
  assert.equal((await call(client.files.retrieve(file.id), "file")).filename, "README.md");
  assert((await collect(client.files.list({ limit: 2, order: "asc", purpose: "assistants" }))).includes(file.id));
  assert.deepEqual((await client.files.list({ after: "after", limit: 0, order: "asc", purpose: "purpose" })).data, []);
  assert.deepEqual(await remove(client.files, file.id), { id: file.id, object: "file", deleted: true });
  await refused(OpenAI.NotFoundError, client.files.retrieve(file.id));
});

test("a name that is not English survives", async () => {
  const file = await client.files.create({ file: await toFile(Buffer.from("x"), "données «1».txt"), purpose: "user_data" });
  assert.equal(file.filename, "données «1».txt");
});

test("a file with errors says which line, and waiting for it ends", async () => {
  const file = await client.files.create({ file: await toFile(Buffer.from("no json\n"), "bad.jsonl"), purpose: "fine-tune" });
  const seen = await client.files.waitForProcessing(file.id, { pollInterval: 10, maxWait: 10000 });
  assert.equal(seen.status, "error");
  assert.match(seen.status_details, /Line 1/);
});

// --- uploads ---

test("an upload takes parts side by side and becomes a file", async () => {
  const upload = await call(client.uploads.create({ bytes: content.length, filename: "big.jsonl", mime_type: "text/jsonl", purpose: "fine-tune", expires_after: expires }), "upload");
  const pieces = [];
  for (let at = 0; at < content.length; at += 100) pieces.push(content.subarray(at, at + 100));
  const parts = await Promise.all(pieces.map(async (piece) => client.uploads.parts.create(upload.id, { data: await toFile(piece, "README.md") })));
  assert(parts.every((part) => part.object === "upload.part" && part.upload_id === upload.id));
  const md5 = crypto.createHash("md5").update(content).digest("hex");
  const done = await client.uploads.complete(upload.id, { part_ids: parts.map((part) => part.id), md5 });
  assert.deepEqual([done.status, done.file.filename, done.file.status], ["completed", "big.jsonl", "processed"]);
  assert.equal(await (await client.files.content(done.file.id)).text(), content.toString());
});

test("a part may be a read stream", async () => {
  const upload = await createUpload(content.length);
  const part = await client.uploads.parts.create(upload.id, { data: fs.createReadStream(world.path) });
  assert.equal((await call(client.uploads.complete(upload.id, { part_ids: [part.id] }), "upload")).file.bytes, content.length);
});

test("an upload is cancelled", async () => {
  const upload = await createUpload();
  assert.equal((await call(client.uploads.cancel(upload.id), "upload")).status, "cancelled");
  await refused(OpenAI.BadRequestError, client.uploads.complete(upload.id, { part_ids: ["string"], md5: "md5" }));
});

// --- models and replies ---

test("models are retrieved and listed, whatever is in their names", async () => {
  assert((await collect(client.models.list())).includes(world.model));
  for (const name of [world.model, "test/tiny"]) assert.equal((await call(client.models.retrieve(name), "model")).id, name);
  await refused(OpenAI.NotFoundError, client.models.retrieve("gpt-4o-mini"), (error) => assert.equal(error.code, "model_not_found"));
});

test("a tuned model is deleted", async () => {
  const [name] = world.models.splice(major - 4, 1);
  assert.deepEqual(await remove(client.models, name), { id: name, object: "model", deleted: true });
  await refused(OpenAI.NotFoundError, client.models.retrieve(name));
});

test("chat answers with every parameter that it honours", async () => {
  assert.equal((await call(client.chat.completions.create({ messages, model: world.model, max_tokens: 4 }), "chat.completion")).choices.length, 1);
  const reply = await client.chat.completions.create({
    messages, model: "test/tiny", frequency_penalty: 0, logit_bias: {}, logprobs: true, max_completion_tokens: 4, metadata: { foo: "string" }, n: 1,
    parallel_tool_calls: true, presence_penalty: 0, prompt_cache_key: "prompt-cache-key-1234", response_format: { type: "text" },
    safety_identifier: "safety-identifier-1234", seed: -9007199254740991, service_tier: "auto", stop: "\n", store: true, stream: false,
    stream_options: { include_obfuscation: true, include_usage: true }, temperature: 1, tool_choice: "none", tools: [], top_logprobs: 0, top_p: 1, user: "user-1234",
  });
  assert(["stop", "length"].includes(reply.choices[0].finish_reason));
});

test("chat refuses by name what it cannot honour", async () => {
  for (const [param, value] of Object.entries({ frequency_penalty: -2, functions: [{ name: "name" }], max_tokens: 0, audio: { format: "wav", voice: "alloy" } }))
    await refused(OpenAI.UnprocessableEntityError, client.chat.completions.create({ messages, model: "test/tiny", [param]: value }),
      (error) => assert.deepEqual([error.param, error.type], [param, "invalid_request_error"]));
});

test("a streamed reply is the reply whole", async () => {
  const request = { messages, model: world.model, max_tokens: 6, temperature: 0 };
  const whole = await client.chat.completions.create(request);
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } })) chunks.push(chunk);
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), whole.choices[0].message.content);
  assert.deepEqual(chunks[0].choices[0].delta, { role: "assistant", content: "" });
  assert.equal(chunks.at(-2).choices[0].finish_reason, whole.choices[0].finish_reason);
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.deepEqual(chunks.at(-1).usage, whole.usage);
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
});

test("a stream that is left does not hurt the next call", async () => {
  for await (const chunk of await client.chat.completions.create({ messages, model: "test/tiny", max_tokens: 100, stream: true })) { assert(chunk); break; }
  assert((await client.chat.completions.create({ messages, model: "test/tiny", max_tokens: 1 })).choices.length);
});

test("completions answer, whole and streamed", async () => {
  const request = { model: world.model, prompt: "This is a test.", max_tokens: 4, temperature: 0 };
  const whole = await call(client.completions.create({ ...request, best_of: 1, echo: false, frequency_penalty: 0, logit_bias: {}, logprobs: 0, n: 1,
    presence_penalty: 0, seed: 0, stop: "\n", stream: false, top_p: 1, user: "user-1234" }), "text_completion");
  let text = "";
  for await (const chunk of await client.completions.create({ ...request, stop: "\n", stream: true })) text += chunk.choices[0].text;
  assert.equal(text, whole.choices[0].text);
});

// --- what is not there ---

test("what is not there is NotFoundError with its reason", async () => {
  for (const call of [() => client.get("/_unknown_path"), () => client.fineTuning.jobs.list({}, { path: "/_unknown_path" }), () => client.files.retrieve("file_id"),
    () => client.fineTuning.jobs.retrieve("ft-AF1WoRqd3aJAHsqc9NY7iL8F"), () => client.uploads.cancel("upload_abc123"),
    () => remove(client.models, "ft:gpt-4o-mini:acemeco:suffix:abc123"), () => createJob({ training_file: "file-abc123" })])
    await refused(OpenAI.NotFoundError, call(), (error) => assert.match(error.headers.get ? error.headers.get("x-request-id") : error.headers["x-request-id"], /./));
});

test("a base that ends in a slash works", async () => {
  const slashed = new OpenAI({ ...options, baseURL: process.env.ATTUNE_URL + "/v1/" });
  assert.equal((await slashed.models.retrieve("test/tiny")).id, "test/tiny");
});
