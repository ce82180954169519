/* cli/cli.h - the commands. Each lives in cli/<name>.c, reads its own options and returns the exit status:
 * 0 done, 1 failed (one line on stderr says why), 2 the command line was wrong. */
#pragma once

#define COMMANDS(X) \
    X(train, "trains a model or an adapter") \
    X(prepare, "the data of a run, ahead of its training") \
    X(data, "checks a training file, shows what trains in it") \
    X(tokenize, "JSON Lines of text to token ids") \
    X(render, "JSON Lines of template variables to chat text")

#define COMMAND_DECLARE(name, summary) int cli_##name(int argc, char **argv);
COMMANDS(COMMAND_DECLARE)
#undef COMMAND_DECLARE
