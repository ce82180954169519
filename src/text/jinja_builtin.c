#include "text/jinja_builtin.h"

#include <string.h>

const struct builtin *builtin_find(const struct builtin_table *table, struct str name)
{
    for (size_t i = 0; i < table->count; i++)
        if (str_is(name, table->at[i].name))
            return &table->at[i];
    return NULL;
}

/* Takes the next word of a parameter declaration; false at its end or at "*". */
static bool next_parameter(const char **at, struct str *name, bool *is_optional)
{
    size_t len;

    *at += strspn(*at, " ");
    len = strcspn(*at, " ");
    if (len == 0 || **at == '*')
        return false;
    *is_optional = (*at)[len - 1] == '?';
    *name = (struct str){*at, len - *is_optional};
    *at += len;
    return true;
}

static const struct argument *find_named(const struct arguments *arguments, struct str name)
{
    for (size_t i = arguments->positional_count; i < arguments->count; i++)
        if (str_equal(arguments->at[i].name, name))
            return &arguments->at[i];
    return NULL;
}

static bool bind(struct run *run, struct call *call, const struct arguments *arguments)
{
    const char *at = call->builtin->parameters;
    struct str name;
    bool is_optional;
    size_t positional = 0, named = 0;

    for (int i = 0; next_parameter(&at, &name, &is_optional); i++) {
        const struct argument *by_name = find_named(arguments, name);
        if (positional < arguments->positional_count)
            call->arg[i] = arguments->at[positional++].value;
        else if (by_name)
            call->arg[i] = by_name->value;
        else if (!is_optional)
            return run_fail(run, "'%s' needs an argument '%.*s'", call->builtin->name, STR_ARG(name));
        named += by_name != NULL;
    }
    call->arguments = *arguments;
    if (*at == '*')
        return true;
    if (positional < arguments->positional_count)
        return run_fail(run, "'%s' takes not more than %zu argument(s)", call->builtin->name, positional);
    return named == arguments->count - arguments->positional_count ||
           run_fail(run, "'%s' does not take the keyword argument that it got", call->builtin->name);
}

bool builtin_call(struct run *run, const struct builtin *builtin, struct value input, const struct arguments *arguments,
                  struct value *result)
{
    static const struct arguments none = {0};
    struct call call = {.builtin = builtin, .input = input};

    return run_charge(run, 1) && bind(run, &call, arguments ? arguments : &none) && builtin->run(run, &call, result);
}

bool filter_call(struct run *run, struct str name, struct value input, const struct arguments *arguments,
                 struct value *result)
{
    const struct builtin *filter = builtin_find(&jinja_filters, name);

    return filter ? builtin_call(run, filter, input, arguments, result)
                  : run_fail(run, "there is no filter named '%.*s'", STR_ARG(name));
}

bool test_call(struct run *run, struct str name, struct value input, const struct arguments *arguments, bool *result)
{
    const struct builtin *test = builtin_find(&jinja_tests, name);
    struct value value;

    if (!test)
        return run_fail(run, "there is no test named '%.*s'", STR_ARG(name));
    if (!builtin_call(run, test, input, arguments, &value))
        return false;
    *result = value_is_true(value);
    return true;
}

bool arg_is_given(const struct call *call, int index)
{
    return call->arg[index].type != VALUE_ABSENT;
}

bool arg_int(struct run *run, const struct call *call, int index, int64_t fallback, int64_t *value)
{
    struct value arg = call->arg[index];

    *value = value_is_integer(arg) ? value_integer(arg) : fallback;
    return value_is_integer(arg) || arg.type == VALUE_ABSENT ||
           run_fail(run, "'%s' needs an integer, not a %s", call->builtin->name, value_type_name(arg));
}

bool arg_text(struct run *run, const struct call *call, int index, struct str fallback, struct str *value)
{
    struct value arg = call->arg[index];

    *value = arg.type == VALUE_STRING ? arg.text : fallback;
    return arg.type == VALUE_STRING || arg.type == VALUE_ABSENT ||
           run_fail(run, "'%s' needs a string, not a %s", call->builtin->name, value_type_name(arg));
}

bool arg_bool(const struct call *call, int index, bool fallback)
{
    return arg_is_given(call, index) ? value_is_true(call->arg[index]) : fallback;
}
