/* cli/cli.h - the commands. Each lives in cli/<name>.c, reads its own options and returns the exit status:
 * 0 done, 1 failed (one line on stderr says why), 2 the command line was wrong. */
#pragma once

#define COMMANDS(X) \
    X(serve, "the fine-tuning API and its queue of jobs") \
    X(train, "trains a model or an adapter, without a server") \
    X(data, "checks a training file, shows which of its tokens train") \
    X(jobs, "creates, watches and ends jobs of a running server") \
    X(files, "uploads and downloads files of a running server") \
    X(models, "lists models of a running server; fetches them from the Hugging Face Hub; merges adapters") \
    X(chat, "talks with a model of a running server") \
    X(keys, "makes, lists and revokes API keys") \
    X(secrets, "keeps secrets of a project at a running server; makes a new master key") \
    X(usage, "what projects used: answers, training, storage, by the day") \
    X(drain, "lets no further job start, before a maintenance") \
    X(backup, "copies a data folder beside its server") \
    X(doctor, "holds a data folder against the rules that it keeps") \
    X(prepare, "prepares the data of a run directory, ahead of its training") \
    X(infer, "answers requests for one model; the server starts it") \
    X(fetch, "fetches the weights that a job waits for; the server starts it") \
    X(send, "tells a service what a job did; the server starts it") \
    X(bench, "speed of this machine: products, a training step, replies, the data path") \
    X(devices, "what there is to compute on: GPUs, or why there is none") \
    X(selftest, "holds this machine's arithmetic against the plain C reference") \
    X(tokenize, "turns text into token ids, JSON Lines in and out") \
    X(render, "renders a chat template, JSON Lines in and out")

#define COMMAND_DECLARE(name, summary) int cli_##name(int argc, char **argv);
COMMANDS(COMMAND_DECLARE)
#undef COMMAND_DECLARE
