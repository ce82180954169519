/* cli/cli.h - the commands. Each lives in cli/<name>.c, reads its own options and returns the exit status:
 * 0 done, 1 failed (one line on stderr says why), 2 the command line was wrong. */
#pragma once

/* H(heading), and under it X(name, summary) for each command. */
#define COMMANDS(H, X) \
    H("the service") \
    X(serve, "runs the fine-tuning API and its queue of jobs") \
    X(keys, "makes, lists and revokes API keys") \
    X(backup, "copies a data folder while its server runs") \
    X(doctor, "checks a data folder: database, files and checkpoints") \
    H("clients of a running server (ATTUNE_BASE_URL, ATTUNE_API_KEY)") \
    X(jobs, "creates, watches, pauses and cancels fine-tuning jobs") \
    X(files, "uploads, previews and downloads files") \
    X(models, "lists models; without a server: fetches, merges and quantizes them") \
    X(chat, "talks with a model") \
    X(secrets, "keeps what a project's jobs need at other services: tokens, API keys") \
    X(usage, "what projects used: replies, training, storage, by the day") \
    X(drain, "lets no further job start, before a maintenance") \
    H("without a server") \
    X(train, "trains a model or an adapter") \
    X(data, "checks a training file; shows its tokens, which of them train, its rows") \
    X(tokenize, "turns text into token ids, JSON Lines in and out") \
    X(render, "renders a chat template, JSON Lines in and out") \
    H("this machine") \
    X(devices, "what there is to compute on: GPUs, or why there is none") \
    X(selftest, "holds this machine's arithmetic against the plain C reference") \
    X(bench, "measures products, a training step, replies, the data path") \
    H("started by the server") \
    X(prepare, "turns a run's data into tokens; says what a job would be") \
    X(infer, "answers requests for one model") \
    X(fetch, "fetches the weights that a job waits for") \
    X(send, "tells another service what a job did")

#define COMMAND_HEADING(text)
#define COMMAND_DECLARE(name, summary) int cli_##name(int argc, char **argv);
COMMANDS(COMMAND_HEADING, COMMAND_DECLARE)
#undef COMMAND_HEADING
#undef COMMAND_DECLARE
