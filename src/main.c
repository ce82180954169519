/* The command table, nothing else. */
#include "base/hash.h"
#include "base/str.h"
#include "cli/cli.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
#define COMMAND_ROW(name, summary) {#name, summary, cli_##name},
    COMMANDS(COMMAND_ROW)
#undef COMMAND_ROW
    {0},
};

static void print_usage(FILE *to)
{
    fprintf(to, "attune " ATTUNE_VERSION ": fine-tuning service and trainer\n\nusage: attune COMMAND [options]\n\n");
    for (const struct command *command = commands; command->name; command++)
        fprintf(to, "  %-10s %s\n", command->name, command->summary);
    fprintf(to, "\n'attune COMMAND --help' tells a command's options. "
                "To begin: attune serve --no-auth --data DIR --models DIR\n");
}

static int unknown(const char *name)
{
    const char *names[sizeof commands / sizeof *commands];
    const char *nearest;
    size_t count = 0;

    for (const struct command *command = commands; command->name; command++)
        names[count++] = command->name;
    nearest = str_nearest(str_of(name), names, count);
    fprintf(stderr, "attune: unknown command '%s'%s%s%s ('attune --help' lists them all)\n", name,
            nearest ? ", did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
    return 2;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    hash_own_memory();
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("attune " ATTUNE_VERSION);
        return 0;
    }
    for (const struct command *command = commands; command->name; command++)
        if (strcmp(argv[1], command->name) == 0)
            return command->run(argc - 1, argv + 1);
    return unknown(argv[1]);
}
