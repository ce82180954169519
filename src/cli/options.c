#include "cli/options.h"
#include "base/str.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A flag that holds without being given: only its negation changes anything. */
static bool is_on(const struct option *option)
{
    return option->kind == OPTION_FLAG && *(const bool *)option->value;
}

static void print_help(const struct options *o)
{
    printf("usage: %s\n\n%s\n", o->usage, o->about);
    for (int i = 0; i < o->count; i++) {
        const struct option *option = &o->list[i];
        char left[64];
        if (!option->name) {
            printf("\n%s\n", option->help);
            continue;
        }
        snprintf(left, sizeof left, "--%s%s%s%s", is_on(option) ? "[no-]" : "", option->name,
                 option->argument ? " " : "", option->argument ? option->argument : "");
        printf("  %-28s %s\n", left, option->help);
    }
}

/* The API spells with underscores what command lines spell with dashes: both are taken. */
static bool is_same_name(const char *ours, struct str theirs)
{
    size_t i = 0;

    while (i < theirs.len && ours[i] && (ours[i] == '_' ? '-' : ours[i]) == (theirs.at[i] == '_' ? '-' : theirs.at[i]))
        i++;
    return i == theirs.len && !ours[i];
}

static const struct option *find(const struct options *o, struct str name)
{
    for (int i = 0; i < o->count; i++)
        if (o->list[i].name && is_same_name(o->list[i].name, name))
            return &o->list[i];
    return NULL;
}

static bool unknown(const struct options *o, struct str name, struct err *err)
{
    const char *names[128];
    const char *nearest;
    size_t count = 0;

    for (int i = 0; i < o->count && count < 128; i++)
        if (o->list[i].name)
            names[count++] = o->list[i].name;
    nearest = str_nearest(name, names, count);
    return err_set(err, ERR_INPUT, "unknown option --%.*s%s%s%s (see --help)", STR_ARG(name),
                   nearest ? ", did you mean --" : "", nearest ? nearest : "", nearest ? "?" : "");
}

static bool store(const struct option *option, const char *text, struct err *err)
{
    struct str value = str_of(text);

    /* JSON has no NaN and no infinity: the server would take them for an option that was not given. */
    if (option->kind == OPTION_TEXT)
        *(const char **)option->value = text;
    else if (option->kind == OPTION_INT ? !str_to_i64(value, option->value)
                                        : !str_to_double(value, option->value) || !isfinite(*(double *)option->value))
        return err_set(err, ERR_INPUT, "--%s takes %s, not '%s'", option->name,
                       option->kind == OPTION_INT ? "an integer" : "a number", text);
    if (option->is_given)
        *option->is_given = true;
    return true;
}

static bool set_flag(const struct option *option, bool is_on, const char *value, struct err *err)
{
    if (value)
        return err_set(err, ERR_INPUT, "--%s takes no value", option->name);
    *(bool *)option->value = is_on;
    if (option->is_given)
        *option->is_given = true;
    return true;
}

/* The flag that "--no-NAME" clears. */
static const struct option *find_negated(const struct options *o, struct str name)
{
    const struct option *option = str_starts(name, STR("no-")) ? find(o, str_slice(name, 3, name.len)) : NULL;

    return option && option->kind == OPTION_FLAG ? option : NULL;
}

struct reader {
    const struct options *options;
    char **argv;
    int argc, at; /* the next word */
    const char **positional;
    int positional_count;
};

static bool take_positional(struct reader *r, const char *word, struct err *err)
{
    if (r->positional_count == r->options->positional_max)
        return err_set(err, ERR_INPUT, "unexpected argument '%s' (see --help)", word);
    r->positional[r->positional_count++] = word;
    return true;
}

/* "--name=value", "--name value", "--flag" or "--no-flag". */
static bool take_option(struct reader *r, const char *word, struct err *err)
{
    const char *equals = strchr(word, '='), *value = equals ? equals + 1 : NULL;
    struct str name = {word + 2, equals ? (size_t)(equals - word) - 2 : strlen(word) - 2};
    const struct option *option = find(r->options, name), *negated = option ? NULL : find_negated(r->options, name);

    if (negated)
        return set_flag(negated, false, value, err);
    if (!option)
        return unknown(r->options, name, err);
    if (option->kind == OPTION_FLAG)
        return set_flag(option, true, value, err);
    if (!value && r->at == r->argc)
        return err_set(err, ERR_INPUT, "--%s needs a value: %s", option->name, option->help);
    return store(option, value ? value : r->argv[r->at++], err);
}

bool options_parse(const struct options *o, int argc, char **argv, const char **positional, int *positional_count,
                   struct err *err)
{
    struct reader r = {.options = o, .argv = argv, .argc = argc, .at = 1, .positional = positional};
    bool only_positional = false;

    while (r.at < argc) {
        const char *word = argv[r.at++];
        bool is_option = !only_positional && word[0] == '-' && word[1] == '-';

        if (!only_positional && (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0)) {
            print_help(o);
            exit(0);
        }
        if (is_option && !word[2])
            only_positional = true;
        else if (!(is_option ? take_option(&r, word, err) : take_positional(&r, word, err)))
            return false;
    }
    if (r.positional_count < o->positional_min)
        return err_set(err, ERR_INPUT, "an argument is missing; usage: %s", o->usage);
    if (positional_count)
        *positional_count = r.positional_count;
    return true;
}

bool options_input_ended(struct err *err)
{
    return feof(stdin) || err_set(err, ERR_IO, "cannot read standard input: %s", strerror(errno));
}
