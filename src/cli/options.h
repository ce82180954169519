/* cli/options.h - command lines from one table per command.
 *
 * A command declares its options as an array; parsing, errors with the nearest name, and --help follow from it.
 * "--name value" and "--name=value" are the same, and so are "--batch-size" and "--batch_size"; a FLAG takes no value;
 * "--no-name" clears a FLAG, and the help shows one that is set from the start as "--[no-]name". "--" ends options.
 * Everything else is positional. */
#pragma once

#include "base/err.h"

/* What value points to: bool, const char *, int64_t or double. */
enum option_kind { OPTION_FLAG, OPTION_TEXT, OPTION_INT, OPTION_FLOAT };

struct option {
    const char *name;      /* without dashes; NULL makes a heading in the help */
    enum option_kind kind;
    void *value;           /* written when the option occurs: holds the default before */
    const char *argument;  /* how the help names the value: "DIR" */
    const char *help;
    bool *is_given;        /* optional: set when the option occurs */
};

struct options {
    const char *usage;     /* "attune train --model DIR --train FILE --out DIR [options]" */
    const char *about;     /* one paragraph */
    const struct option *list;
    int count;
    int positional_min, positional_max;
};

/* argv[0] is the command's name. positional has room for positional_max. Prints help on stdout and exits 0 on
 * --help. */
bool options_parse(const struct options *options, int argc, char **argv, const char **positional, int *positional_count,
                   struct err *err);

/* Behind a read of standard input that gave no line: false when that was not its end but an error. */
bool options_input_ended(struct err *err);
