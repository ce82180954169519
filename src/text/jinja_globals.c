/* range, namespace, raise_exception and the other names that every template has; methods of loop and cycler. */
#include "text/jinja_builtin.h"

#include <string.h>
#include <time.h>

static bool global_range(struct run *run, struct call *call, struct value *result)
{
    int64_t start = 0, stop, step, at;
    uint64_t count;
    struct list *list;

    if (!arg_int(run, call, 0, 0, &stop) || !arg_int(run, call, 2, 1, &step))
        return false;
    if (arg_is_given(call, 1)) {
        start = stop;
        if (!arg_int(run, call, 1, 0, &stop))
            return false;
    }
    if (step == 0)
        return run_fail(run, "range() arg 3 must not be zero");
    at = start;
    for (count = 0; count <= run->limits.range_items && (step > 0 ? at < stop : at > stop); count++)
        if (__builtin_add_overflow(at, step, &at))
            at = stop;
    if (count > run->limits.range_items)
        return run_fail_limit(run, "range() is longer than %u", run->limits.range_items);
    if (!run_charge(run, count / 16) || !(list = list_new(run, LIST_RANGE, count)))
        return false;
    for (uint64_t i = 0; i < count; i++)
        list->items[i] = value_int(start + (int64_t)i * step);
    *result = value_list(list);
    return true;
}

/* dict(mapping or pairs, key=value …); namespace the same with a mutable result. */
static bool global_dict(struct run *run, struct call *call, struct value *result)
{
    struct dict *dict = dict_new(run, call->arguments.count);
    struct value from = call->arguments.positional_count ? call->arguments.at[0].value : value_none();
    struct list *pairs, *pair;

    if (!dict)
        return false;
    if (from.type == VALUE_DICT) {
        for (size_t i = 0; i < from.dict->count; i++)
            if (!dict_set(run, dict, from.dict->pairs[i].key, from.dict->pairs[i].value))
                return false;
    } else if (call->arguments.positional_count) {
        if (!value_iterate(run, from, &pairs))
            return false;
        for (size_t i = 0; i < pairs->count; i++)
            if (!value_iterate(run, pairs->items[i], &pair) ||
                (pair->count != 2 && !run_fail(run, "dict() needs pairs")) ||
                !dict_set(run, dict, pair->items[0], pair->items[1]))
                return false;
    }
    for (size_t i = call->arguments.positional_count; i < call->arguments.count; i++)
        if (!dict_set(run, dict, value_string(call->arguments.at[i].name), call->arguments.at[i].value))
            return false;
    *result = value_dict(dict);
    if (call->builtin->name[0] == 'n')
        result->type = VALUE_NAMESPACE;
    return true;
}

static bool global_raise_exception(struct run *run, struct call *call, struct value *result)
{
    struct str text;

    return value_text(run, call->arg[0], &text) && run_fail(run, "%.*s", STR_ARG(str_slice(text, 0, 600)));
}

/* strftime for a time without zone: %Z and %z are empty, %f is 000000, as Python prints them. */
static bool global_strftime_now(struct run *run, struct call *call, struct value *result)
{
    struct builder out = {0};
    struct str format;
    struct tm when;
    time_t now = (time_t)run->now;

    if (!arg_text(run, call, 0, STR_NONE, &format))
        return false;
    gmtime_r(&now, &when);
    for (size_t i = 0; i < format.len; i++) {
        char one[4] = {'%', 0, 0, 0}, text[256];
        struct str piece = str_slice(format, i, i + 1);
        if (format.at[i] == '%' && i + 1 < format.len) {
            one[1] = format.at[++i];
            if (one[1] == '-' && i + 1 < format.len)
                one[2] = format.at[++i];
            piece = (struct str){text, strftime(text, sizeof text, one, &when)};
            if (one[1] == 'f')
                piece = STR("000000");
            else if (one[1] == 'Z' || one[1] == 'z')
                piece = STR("");
        }
        if (!run_charge(run, 1) || !builder_add(run, &out, piece))
            return false;
    }
    *result = value_string(builder_view(&out));
    return true;
}

static bool new_cycler(struct run *run, enum value_type type, struct list *items, struct value *result)
{
    struct cycler *cycler = run_alloc(run, 1, sizeof *cycler);

    if (!cycler)
        return false;
    cycler->items = items;
    *result = (struct value){.type = (uint8_t)type, .cycler = cycler};
    return true;
}

static bool global_cycler(struct run *run, struct call *call, struct value *result)
{
    struct list *items = list_new(run, LIST_TUPLE, call->arguments.positional_count);

    if (!items)
        return false;
    if (items->count == 0)
        return run_fail(run, "cycler() needs at least one item");
    for (size_t i = 0; i < items->count; i++)
        items->items[i] = call->arguments.at[i].value;
    return new_cycler(run, VALUE_CYCLER, items, result);
}

static bool global_joiner(struct run *run, struct call *call, struct value *result)
{
    struct list *items = list_new(run, LIST_TUPLE, 1);

    if (!items)
        return false;
    items->items[0] = arg_is_given(call, 0) ? call->arg[0] : value_string(STR(", "));
    return new_cycler(run, VALUE_JOINER, items, result);
}

static const struct builtin globals[] = {
    {"range", global_range, "start stop? step?"},
    {"dict", global_dict, "*"},
    {"namespace", global_dict, "*"},
    {"raise_exception", global_raise_exception, "message"},
    {"strftime_now", global_strftime_now, "format"},
    {"cycler", global_cycler, "*"},
    {"joiner", global_joiner, "sep?"},
};
const struct builtin_table jinja_globals = {globals, sizeof globals / sizeof *globals};

/* methods of cycler and loop */

static bool cycler_next(struct run *run, struct call *call, struct value *result)
{
    struct cycler *cycler = call->input.cycler;

    *result = cycler->items->items[cycler->at];
    cycler->at = (cycler->at + 1) % cycler->items->count;
    return true;
}

static bool cycler_reset(struct run *run, struct call *call, struct value *result)
{
    call->input.cycler->at = 0;
    *result = value_none();
    return true;
}

static const struct builtin cycler_methods[] = {{"next", cycler_next, ""}, {"reset", cycler_reset, ""}};
const struct builtin_table jinja_cycler_methods = {cycler_methods, sizeof cycler_methods / sizeof *cycler_methods};

static bool loop_cycle(struct run *run, struct call *call, struct value *result)
{
    if (call->arguments.positional_count == 0)
        return run_fail(run, "no items for cycling given");
    *result = call->arguments.at[call->input.loop->index % call->arguments.positional_count].value;
    return true;
}

static bool loop_changed(struct run *run, struct call *call, struct value *result)
{
    struct loop *loop = call->input.loop;
    struct list *now = list_new(run, LIST_TUPLE, call->arguments.positional_count);
    bool is_equal;

    if (!now)
        return false;
    for (size_t i = 0; i < now->count; i++)
        now->items[i] = call->arguments.at[i].value;
    if (!value_equal(run, loop->changed, value_list(now), &is_equal))
        return false;
    loop->changed = value_list(now);
    *result = value_bool(!is_equal);
    return true;
}

static const struct builtin loop_methods[] = {{"cycle", loop_cycle, "*"}, {"changed", loop_changed, "*"}};
const struct builtin_table jinja_loop_methods = {loop_methods, sizeof loop_methods / sizeof *loop_methods};
