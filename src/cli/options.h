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
};

/* argv[0] is the command's name. positional has room for positional_max. Prints help on stdout and exits 0 on
 * --help. */
bool options_parse(const struct options *options, int argc, char **argv, const char **positional, int *positional_count,
                   struct err *err);

/* The same, and then the action that words[0] names, when as many words stand behind it as it wants; words has 1 +
 * ACTION_WORDS_MAX places, NULL where nothing is given but for a name in words[0] that is meant then. NULL with err
 * set otherwise. */
const struct action *options_parse_action(const struct options *options, int argc, char **argv, const char **words,
                                          struct err *err);

/* Behind a read of standard input that gave no line: false when that was not its end but an error. */
bool options_input_ended(struct err *err);
