#include "cli/options.h"
#include "base/str.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 48, HELP_INDENT = 31, HELP_COLUMNS = 100 };

/* A flag that holds without being given: only its negation changes anything. */
static bool is_on(const struct option *option)
{
    return option->kind == OPTION_FLAG && *(const bool *)option->value;
}

/* An option's name in a table of hyperparameters has underscores; people read and type dashes. */
static const char *dashed(const char *name, char text[NAME_BYTES])
{
    snprintf(text, NAME_BYTES, "%s", name);
    for (char *p = text; *p; p++)
        *p = *p == '_' ? '-' : *p;
    return text;
}
#define DASHED(name) dashed(name, (char[NAME_BYTES]){0})

/* The rest of a line whose first `indent` columns are written, and as many lines below it as the text needs. */
static void print_wrapped(const char *text, int indent)
{
    int column = indent;

    while (*text) {
        int length = (int)strcspn(text, " \n");
        bool is_full = column > indent && column + 1 + length > HELP_COLUMNS;

        if (is_full || *text == '\n') {
            printf("\n%*s", indent, "");
            column = indent;
        }
        column += printf("%s%.*s", column > indent ? " " : "", length, text);
        text += length;
        text += *text == ' ' || (*text == '\n' && length == 0);
    }
    putchar('\n');
}

static void print_row(const char *left, const char *help)
{
    int width = printf("  %-*s ", HELP_INDENT - 3, left);

    if (width > HELP_INDENT)
        printf("\n%*s", HELP_INDENT, "");
    print_wrapped(help, HELP_INDENT);
}

static void print_actions(const struct options *o)
{
    char left[80];

    for (int i = 0; i < o->action_count; i++) {
        const struct action *action = &o->actions[i];

        snprintf(left, sizeof left, "%s%s%s", action->name, action->words ? " " : "",
                 action->words ? action->words : "");
        print_row(left, action->help);
    }
}

static void print_options(const struct options *o)
{
    char left[80];

    for (int i = 0; i < o->count; i++) {
        const struct option *option = &o->list[i];

        if (!option->name) {
            printf("%s%s\n", i > 0 ? "\n" : "", option->help);
            continue;
        }
        snprintf(left, sizeof left, "--%s%s%s%s", is_on(option) ? "[no-]" : "", DASHED(option->name),
                 option->argument ? " " : "", option->argument ? option->argument : "");
        print_row(left, option->help);
    }
}

static void print_help(const struct options *o)
{
    printf("usage: %s\n\n", o->usage);
    print_wrapped(o->about, 0);
    if (o->action_count)
        putchar('\n');
    print_actions(o);
    if (o->count)
        putchar('\n');
    print_options(o);
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
                   nearest ? ", did you mean --" : "", nearest ? DASHED(nearest) : "", nearest ? "?" : "");
}

static bool store(const struct option *option, const char *text, struct err *err)
{
    struct str value = str_of(text);

    /* JSON has no NaN and no infinity: the server would take them for an option that was not given. */
    if (option->kind == OPTION_TEXT)
        *(const char **)option->value = text;
    else if (option->kind == OPTION_INT ? !str_to_i64(value, option->value)
                                        : !str_to_double(value, option->value) || !isfinite(*(double *)option->value))
        return err_set(err, ERR_INPUT, "--%s takes %s, not '%s'", DASHED(option->name),
                       option->kind == OPTION_INT ? "an integer" : "a number", text);
    if (option->is_given)
        *option->is_given = true;
    return true;
}

static bool set_flag(const struct option *option, bool is_on, const char *value, struct err *err)
{
    if (value)
        return err_set(err, ERR_INPUT, "--%s takes no value", DASHED(option->name));
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
    if (r->positional_count == (r->options->actions ? 1 + ACTION_WORDS_MAX : r->options->positional_max))
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
        return err_set(err, ERR_INPUT, "--%s needs a value: %s", DASHED(option->name), option->help);
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

static int words_wanted(const struct action *action)
{
    int count = 0;

    for (const char *word = action->words; word && *word && *word != '-'; count++) {
        word += strcspn(word, " ");
        word += strspn(word, " ");
    }
    return count;
}

static const struct action *find_action(const struct options *o, const char *name)
{
    for (int i = 0; name && i < o->action_count; i++)
        if (strcmp(o->actions[i].name, name) == 0)
            return &o->actions[i];
    return NULL;
}

static void refuse_action(const struct options *o, const char *name, struct err *err)
{
    struct strbuf names = {0};

    for (int i = 0; i < o->action_count; i++)
        strbuf_printf(&names, "%s%s", i == 0 ? "" : i + 1 == o->action_count ? " or " : ", ", o->actions[i].name);
    if (name)
        err_set(err, ERR_INPUT, "unknown action '%s': %s (see --help)", name, names.at);
    else
        err_set(err, ERR_INPUT, "an action is missing: %s (see --help)", names.at);
    strbuf_deinit(&names);
}

/* The action that words[0] names, when as many words stand behind it as it wants. NULL with err set otherwise. */
static const struct action *parse_action(const struct options *o, int argc, char **argv, const char **words,
                                         struct err *err)
{
    const struct action *action;
    int wanted, given;

    if (!options_parse(o, argc, argv, words, &given, err))
        return NULL;
    action = find_action(o, words[0]);
    if (!action) {
        refuse_action(o, words[0], err);
        return NULL;
    }
    wanted = words_wanted(action);
    given -= given > 0; /* the name itself */
    if (given > wanted)
        err_set(err, ERR_INPUT, "unexpected argument '%s' (see --help)", words[1 + wanted]);
    else if (given < wanted)
        err_set(err, ERR_INPUT, "%s needs %s (see --help)", action->name, action->words);
    return given == wanted ? action : NULL;
}

int options_act(const struct options *o, int argc, char **argv, void *context)
{
    const char *words[1 + ACTION_WORDS_MAX] = {o->otherwise};
    struct err err = {0};
    const struct action *action = parse_action(o, argc, argv, words, &err);
    int status = 2;

    if (action && (!o->check || o->check(action, context, &err)))
        status = action->run(context, &words[1], &err) ? 0 : 1;
    if (status)
        fprintf(stderr, "attune %s: %s\n", argv[0], err.text);
    return status;
}

bool options_input_ended(struct err *err)
{
    return feof(stdin) || err_set(err, ERR_IO, "cannot read standard input: %s", strerror(errno));
}
