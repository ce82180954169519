/* cli/cli.h - the commands. Each lives in cli/<name>.c, reads its own options and returns the exit status:
 * 0 done, 1 failed (one line on stderr says why), 2 the command line was wrong. */
#pragma once

#define COMMANDS(X) \
    X(serve, "the fine-tuning API") \
    X(train, "trains a model or an adapter") \
    X(data, "checks a training file, shows what trains in it") \
    X(jobs, "fine-tuning jobs of a running server") \
    X(files, "files of a running server") \
    X(models, "models of a running server") \
    X(chat, "talk with a model of a running server") \
    X(keys, "API keys of a data folder") \
    X(prepare, "the data of a run, ahead of its training") \
    X(infer, "inference worker of the server") \
    X(bench, "speed of this machine: products") \
    X(tokenize, "JSON Lines of text to token ids") \
    X(render, "JSON Lines of template variables to chat text")

#define COMMAND_DECLARE(name, summary) int cli_##name(int argc, char **argv);
COMMANDS(COMMAND_DECLARE)
#undef COMMAND_DECLARE
