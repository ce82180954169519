/* The command table, nothing else. */
#include "base/hash.h"
#include "base/str.h"
#include "cli/cli.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct command {
    const char *name; /* NULL: a heading of the help */
    const char *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
#define COMMAND_HEADING(text)      {NULL, text, NULL},
#define COMMAND_ROW(name, summary) {#name, summary, cli_##name},
    COMMANDS(COMMAND_HEADING, COMMAND_ROW)
#undef COMMAND_HEADING
#undef COMMAND_ROW
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static void print_usage(FILE *to)
{
    fprintf(to, "attune " ATTUNE_VERSION ": fine-tuning service and trainer\n\nusage: attune COMMAND [options]\n");
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (commands[i].name)
            fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
        else
            fprintf(to, "\n%s\n", commands[i].summary);
    fprintf(to, "\n'attune COMMAND --help' lists a command's options. "
                "To begin: attune serve --no-auth --data DIR --models DIR\n");
}

static const struct command *find(const char *name)
{
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (commands[i].name && strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static int unknown(const char *name)
{
    const char *names[COMMAND_COUNT];
    const char *nearest;
    size_t count = 0;

    for (int i = 0; i < COMMAND_COUNT; i++)
        if (commands[i].name)
            names[count++] = commands[i].name;
    nearest = str_nearest(str_of(name), names, count);
    fprintf(stderr, "attune: unknown command '%s'%s%s%s ('attune --help' lists them all)\n", name,
            nearest ? ", did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
    return 2;
}

int main(int argc, char **argv)
{
    const struct command *command;

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
    command = find(argv[1]);
    return command ? command->run(argc - 1, argv + 1) : unknown(argv[1]);
}
