/* text/jinja_builtin.h - filters, tests, methods and globals: tables of one kind of entry.
 *
 * An entry declares its parameters as Python would, so that positional and keyword arguments are bound in one
 * place: "width first blank" names three; '?' behind a name makes it optional; a final "*" takes everything
 * that is left as it came (call->arguments). For filters, tests and methods the value worked on is call->input. */
#pragma once

#include "text/jinja_value.h"

#define BUILTIN_PARAMETERS_MAX 6

struct argument {
    struct str name; /* empty when positional */
    struct value value;
};

struct arguments {
    struct argument *at; /* positional ones first */
    size_t count, positional_count;
};

struct call {
    const struct builtin *builtin;
    struct value input;
    struct value arg[BUILTIN_PARAMETERS_MAX]; /* VALUE_ABSENT when not given */
    struct arguments arguments;
};

typedef bool builtin_run(struct run *run, struct call *call, struct value *result);

struct builtin {
    const char *name;
    builtin_run *run;
    const char *parameters;
};

struct builtin_table {
    const struct builtin *at;
    size_t count;
};

extern const struct builtin_table jinja_filters, jinja_tests, jinja_globals;
extern const struct builtin_table jinja_str_methods, jinja_dict_methods, jinja_list_methods, jinja_loop_methods,
    jinja_cycler_methods;
/* Names that exist on Python's list and dict but change them: the sandbox refuses these. */
bool builtin_is_unsafe(struct value object, struct str name);

const struct builtin *builtin_find(const struct builtin_table *table, struct str name);
/* Binds and runs. */
bool builtin_call(struct run *run, const struct builtin *builtin, struct value input, const struct arguments *arguments,
                  struct value *result);
/* By name from within map, select and the like. */
bool filter_call(struct run *run, struct str name, struct value input, const struct arguments *arguments,
                 struct value *result);
bool test_call(struct run *run, struct str name, struct value input, const struct arguments *arguments, bool *result);

/* Argument readers with Python's defaults; they fail with the builtin's name. */
bool arg_int(struct run *run, const struct call *call, int index, int64_t fallback, int64_t *value);
bool arg_text(struct run *run, const struct call *call, int index, struct str fallback, struct str *value);
bool arg_bool(const struct call *call, int index, bool fallback);
bool arg_is_given(const struct call *call, int index);

/* "%s: %5.1f" % values, and "{} {name:>5}".format(…). */
bool format_percent(struct run *run, struct str format, struct value values, struct builder *out);
bool format_braces(struct run *run, struct str format, const struct arguments *arguments, struct builder *out);
/* Text in another case; TITLE: first letter of each word. */
bool text_recase(struct run *run, struct str text, int to, struct value *result);
