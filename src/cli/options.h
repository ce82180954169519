/* cli/options.h - command lines from one table per command.
 *
 * A command declares its options as an array; parsing, errors with the nearest name, and --help follow from it.
 * "--name value" and "--name=value" are the same, and so are "--batch-size" and "--batch_size", however the table
 * spells it: help and errors have dashes. A FLAG takes no value; "--no-name" clears it, and the help shows one that is
 * set from the start as "--[no-]name". "--" ends options. Everything else is positional. */
#pragma once

#include "base/err.h"

/* What value points to: bool, const char *, int64_t or double. */
enum option_kind { OPTION_FLAG, OPTION_TEXT, OPTION_INT, OPTION_FLOAT };

struct option {
    const char *name;      /* without dashes; NULL makes a heading in the help */
    enum option_kind kind;
    void *value;           /* written when the option occurs: holds the default before */
    const char *argument;  /* how the help names the value: "DIR" */
    const char *help;      /* wrapped where it is printed */
    bool *is_given;        /* optional: set when the option occurs */
};

/* One of the things that a command does, named by its first word: "attune jobs watch ID". */
struct action {
    const char *name;
    const char *words;     /* what stands behind it, as the help names it: "BASE ADAPTER --out DIR"; NULL: nothing.
                            * What comes before the first option is wanted, ACTION_WORDS_MAX words at most */
    const char *help;      /* wrapped where it is printed */
    /* words are those behind the name. */
    bool (*run)(void *context, const char *const *words, struct err *err);
};
enum { ACTION_WORDS_MAX = 2 };

struct options {
    const char *usage;     /* "attune train --model DIR --train FILE --out DIR [options]" */
    const char *about;     /* one paragraph, wrapped where it is printed; a line break in it stays */
    const struct option *list;
    int count;
    int positional_min, positional_max;
    const struct action *actions; /* NULL: the command does one thing; else positional_max counts for nothing */
    int action_count;
    const char *otherwise; /* action that is meant when none is named; NULL: none is */
    /* Whether the options fit the action; NULL: they always do. */
    bool (*check)(const struct action *action, void *context, struct err *err);
};

/* argv[0] is the command's name. positional has room for positional_max. Prints help on stdout and exits 0 on
 * --help. */
bool options_parse(const struct options *options, int argc, char **argv, const char **positional, int *positional_count,
                   struct err *err);

/* Parses, and runs the action that the first word names. The status to exit with: 2 where the command line is wrong, 1
 * where the action failed; what it was stands on standard error, behind the command's name. */
int options_act(const struct options *options, int argc, char **argv, void *context);

/* Behind a read of standard input that gave no line: false when that was not its end but an error. */
bool options_input_ended(struct err *err);
