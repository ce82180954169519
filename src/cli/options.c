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

    if (option->kind == OPTION_TEXT) {
        *(const char **)option->value = text;
        return true;
    }
    /* JSON has no NaN and no infinity: the server would take them for an option that was not given. */
    if (option->kind == OPTION_INT ? str_to_i64(value, option->value)
                                   : str_to_double(value, option->value) && isfinite(*(double *)option->value))
        return true;
    return err_set(err, ERR_INPUT, "--%s takes %s, not '%s'", option->name,
                   option->kind == OPTION_INT ? "an integer" : "a number", text);
}

bool options_parse(const struct options *o, int argc, char **argv, const char **positional, int *positional_count,
                   struct err *err)
{
    bool only_positional = false;
    int count = 0;

    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        const struct option *option;
        struct str name;
        const char *value;

        if (only_positional || argument[0] != '-' || argument[1] != '-') {
            if (strcmp(argument, "-h") == 0) {
                print_help(o);
                exit(0);
            }
            if (count == o->positional_max)
                return err_set(err, ERR_INPUT, "unexpected argument '%s' (see --help)", argument);
            positional[count++] = argument;
            continue;
        }
        if (strcmp(argument, "--") == 0) {
            only_positional = true;
            continue;
        }
        if (strcmp(argument, "--help") == 0) {
            print_help(o);
            exit(0);
        }
        value = strchr(argument, '=');
        name = (struct str){argument + 2, value ? (size_t)(value - argument) - 2 : strlen(argument) - 2};
        option = find(o, name);
        if (!option && str_starts(name, STR("no-")) && (option = find(o, str_slice(name, 3, name.len))) &&
            option->kind == OPTION_FLAG && !value) {
            *(bool *)option->value = false;
        } else if (!option) {
            return unknown(o, name, err);
        } else if (option->kind == OPTION_FLAG) {
            if (value)
                return err_set(err, ERR_INPUT, "--%s takes no value", option->name);
            *(bool *)option->value = true;
        } else {
            if (!value && i + 1 == argc)
                return err_set(err, ERR_INPUT, "--%s needs a value: %s", option->name, option->help);
            if (!store(option, value ? value + 1 : argv[++i], err))
                return false;
        }
        if (option->is_given)
            *option->is_given = true;
    }
    if (count < o->positional_min)
        return err_set(err, ERR_INPUT, "an argument is missing; usage: %s", o->usage);
    if (positional_count)
        *positional_count = count;
    return true;
}

bool options_input_ended(struct err *err)
{
    return feof(stdin) || err_set(err, ERR_IO, "cannot read standard input: %s", strerror(errno));
}
