/* Filters on rows of values. */
#include "text/jinja_filters.h"
#include "text/jinja_text.h"

#include <stdlib.h>
#include <string.h>

static bool give_list(struct value *result, struct list *list)
{
    *result = value_list(list);
    return list != NULL;
}

/* "a.b.0": item by item; an integer attribute is an index. */
static bool get_path(struct run *run, struct value object, struct value path, struct value *result)
{
    struct str rest = path.text;

    *result = object;
    if (path.type != VALUE_STRING)
        return value_item(run, object, path, result);
    for (;;) {
        ptrdiff_t dot = str_find(rest, STR("."), 0);
        struct str part = str_slice(rest, 0, dot < 0 ? rest.len : (size_t)dot);
        int64_t index;
        bool is_index = part.len && strspn(part.at, "0123456789") >= part.len && str_to_i64(part, &index);
        if (!value_item(run, *result, is_index ? value_int(index) : value_string(part), result))
            return false;
        if (dot < 0)
            return true;
        rest = str_slice(rest, (size_t)dot + 1, rest.len);
    }
}

/* What is compared: the attribute, in lower case unless case counts. */
static bool sort_key(struct run *run, struct value item, struct value attribute, bool is_case_sensitive,
                     struct value *key)
{
    *key = item;
    if (attribute.type != VALUE_ABSENT && attribute.type != VALUE_NONE && !get_path(run, item, attribute, key))
        return false;
    return is_case_sensitive || key->type != VALUE_STRING || text_recase(run, key->text, TEXT_LOWER, key);
}

struct keyed {
    struct value key, item;
};

/* Stable merge sort; a comparison may fail. */
static bool merge_sort(struct run *run, struct keyed *at, struct keyed *spare, size_t count, bool is_reverse)
{
    size_t half = count / 2, left = 0, right = half;

    if (count < 2)
        return true;
    if (!merge_sort(run, at, spare, half, is_reverse) || !merge_sort(run, at + half, spare, count - half, is_reverse))
        return false;
    for (size_t i = 0; i < count; i++) {
        int order = 0;
        if (left < half && right < count) {
            if (!run_charge(run, 1) || !value_compare(run, at[right].key, at[left].key, "<", &order))
                return false;
            order = is_reverse ? -order : order;
        }
        spare[i] = right >= count || (left < half && order >= 0) ? at[left++] : at[right++];
    }
    memcpy(at, spare, count * sizeof *at);
    return true;
}

/* "a,b" sorts by several attributes: the key is a list. */
static bool multi_key(struct run *run, struct value item, struct str attributes, bool is_case_sensitive,
                      struct value *key)
{
    struct list *parts;
    size_t count = 1;

    for (size_t i = 0; i < attributes.len; i++)
        count += attributes.at[i] == ',';
    if (!(parts = list_new(run, LIST_LIST, count)))
        return false;
    for (size_t i = 0; i < count; i++) {
        ptrdiff_t comma = str_find(attributes, STR(","), 0);
        struct str part = str_slice(attributes, 0, comma < 0 ? attributes.len : (size_t)comma);
        if (!sort_key(run, item, value_string(part), is_case_sensitive, &parts->items[i]))
            return false;
        attributes = str_slice(attributes, part.len + 1, attributes.len);
    }
    *key = value_list(parts);
    return true;
}

static bool sort_list(struct run *run, const struct list *items, struct value attribute, bool is_case_sensitive,
                      bool is_reverse, struct list **sorted)
{
    struct keyed *keyed = run_alloc(run, items->count, sizeof *keyed),
                 *spare = run_alloc(run, items->count, sizeof *keyed);
    bool is_multi = attribute.type == VALUE_STRING && str_find(attribute.text, STR(","), 0) >= 0;

    if (!keyed || !spare || !(*sorted = list_new(run, LIST_LIST, items->count)))
        return false;
    for (size_t i = 0; i < items->count; i++) {
        keyed[i].item = items->items[i];
        if (is_multi ? !multi_key(run, items->items[i], attribute.text, is_case_sensitive, &keyed[i].key)
                     : !sort_key(run, items->items[i], attribute, is_case_sensitive, &keyed[i].key))
            return false;
    }
    if (!merge_sort(run, keyed, spare, items->count, is_reverse))
        return false;
    for (size_t i = 0; i < items->count; i++)
        (*sorted)->items[i] = keyed[i].item;
    return true;
}

bool filter_sort(struct run *run, struct call *call, struct value *result)
{
    struct list *items, *sorted;

    if (!value_iterate(run, call->input, &items) ||
        !sort_list(run, items, call->arg[2], arg_bool(call, 1, false), arg_bool(call, 0, false), &sorted))
        return false;
    return give_list(result, sorted);
}

bool filter_items(struct run *run, struct call *call, struct value *result)
{
    const struct builtin *items = builtin_find(&jinja_dict_methods, STR("items"));

    if (call->input.type == VALUE_UNDEFINED)
        return give_list(result, list_new(run, LIST_GENERATOR, 0));
    if (call->input.type != VALUE_DICT)
        return run_fail(run, "Can only get item pairs from a mapping.");
    if (!builtin_call(run, items, call->input, NULL, result))
        return false;
    result->list->kind = LIST_GENERATOR;
    return true;
}

bool filter_dictsort(struct run *run, struct call *call, struct value *result)
{
    struct list *pairs, *sorted;
    struct str by;

    if (!arg_text(run, call, 1, STR("key"), &by))
        return false;
    if (!str_is(by, "key") && !str_is(by, "value"))
        return run_fail(run, "You can only sort by either \"key\" or \"value\"");
    if (call->input.type != VALUE_DICT)
        return run_fail(run, "dictsort needs a mapping, not a %s", value_type_name(call->input));
    if (!filter_items(run, call, result) || !value_iterate(run, *result, &pairs))
        return false;
    if (!sort_list(run, pairs, value_int(str_is(by, "value")), arg_bool(call, 0, false), arg_bool(call, 2, false),
                   &sorted))
        return false;
    return give_list(result, sorted);
}

bool filter_unique(struct run *run, struct call *call, struct value *result)
{
    struct list *items, *kept;
    struct dict *seen = dict_new(run, 0);

    if (!seen || !value_iterate(run, call->input, &items) || !(kept = list_new(run, LIST_GENERATOR, items->count)))
        return false;
    kept->count = 0;
    for (size_t i = 0; i < items->count; i++) {
        struct value key, *found;
        if (!sort_key(run, items->items[i], call->arg[1], arg_bool(call, 0, false), &key) ||
            !dict_get(run, seen, key, &found))
            return false;
        if (found)
            continue;
        if (!dict_set(run, seen, key, value_none()))
            return false;
        kept->items[kept->count++] = items->items[i];
    }
    return give_list(result, kept);
}

bool filter_groupby(struct run *run, struct call *call, struct value *result)
{
    struct list *items, *sorted, *groups;
    bool is_case_sensitive = arg_bool(call, 2, false), is_equal = false;
    struct value key, group_key = value_none(), shown;

    if (!value_iterate(run, call->input, &items) ||
        !sort_list(run, items, call->arg[0], is_case_sensitive, false, &sorted) ||
        !(groups = list_new(run, LIST_LIST, sorted->count)))
        return false;
    groups->count = 0;
    for (size_t i = 0; i < sorted->count; i++) {
        struct list *group, *pair;
        if (!sort_key(run, sorted->items[i], call->arg[0], is_case_sensitive, &key) ||
            (i && !value_equal(run, key, group_key, &is_equal)) ||
            !get_path(run, sorted->items[i], call->arg[0], &shown))
            return false;
        if (i == 0 || !is_equal) {
            group_key = key;
            if (!(group = list_new(run, LIST_LIST, sorted->count - i)) ||
                !(pair = list_pair(run, shown, value_list(group))))
                return false;
            group->count = 0;
            groups->items[groups->count++] = value_list(pair);
        }
        group = groups->items[groups->count - 1].list->items[1].list;
        group->items[group->count++] = sorted->items[i];
    }
    return give_list(result, groups);
}

/* max and min; of nothing: undefined */
bool filter_extreme(struct run *run, struct call *call, struct value *result)
{
    bool is_max = call->builtin->name[1] == 'a';
    struct list *items;
    struct value key, best = value_none();

    if (!value_iterate(run, call->input, &items))
        return false;
    *result = value_undefined(UNDEFINED_NO_ITEM, VALUE_ABSENT, str_of(call->builtin->name));
    for (size_t i = 0; i < items->count; i++) {
        int order = 0;
        if (!sort_key(run, items->items[i], call->arg[1], arg_bool(call, 0, false), &key) ||
            (i && !value_compare(run, key, best, is_max ? ">" : "<", &order)))
            return false;
        if (i == 0 || (order != ORDER_NONE && (is_max ? order > 0 : order < 0))) {
            best = key;
            *result = items->items[i];
        }
    }
    return true;
}

bool filter_length(struct run *run, struct call *call, struct value *result)
{
    int64_t length;

    if (!value_length(run, call->input, &length))
        return false;
    *result = value_int(length);
    return true;
}

bool filter_list(struct run *run, struct call *call, struct value *result)
{
    struct list *items, *list;

    if (!value_iterate(run, call->input, &items) || !(list = list_new(run, LIST_LIST, items->count)))
        return false;
    if (items->count)
        memcpy(list->items, items->items, items->count * sizeof *list->items);
    return give_list(result, list);
}

bool filter_first(struct run *run, struct call *call, struct value *result)
{
    struct list *items;

    if (call->input.type == VALUE_STRING) {
        struct str text = call->input.text;
        *result = text.len ? value_string(str_slice(text, 0, text_offset(text, 1)))
                           : value_undefined(UNDEFINED_NO_ITEM, VALUE_ABSENT, STR("first"));
        return true;
    }
    if (!value_iterate(run, call->input, &items))
        return false;
    *result = items->count ? items->items[0] : value_undefined(UNDEFINED_NO_ITEM, VALUE_ABSENT, STR("first"));
    return true;
}

bool filter_last(struct run *run, struct call *call, struct value *result)
{
    struct list *items;

    if (value_is_list(call->input, LIST_GENERATOR))
        return run_fail(run, "'generator' object is not reversible");
    if (!value_iterate(run, call->input, &items))
        return false;
    *result =
        items->count ? items->items[items->count - 1] : value_undefined(UNDEFINED_NO_ITEM, VALUE_ABSENT, STR("last"));
    return true;
}

bool filter_reverse(struct run *run, struct call *call, struct value *result)
{
    static const struct value bounds[3] = {
        {.type = VALUE_NONE}, {.type = VALUE_NONE}, {.type = VALUE_INT, .integer = -1}};
    struct list *items, *reversed;

    if (call->input.type == VALUE_STRING)
        return value_slice(run, call->input, bounds, result);
    if (!value_iterate(run, call->input, &items) || !(reversed = list_new(run, LIST_GENERATOR, items->count)))
        return false;
    for (size_t i = 0; i < items->count; i++)
        reversed->items[i] = items->items[items->count - 1 - i];
    return give_list(result, reversed);
}

bool filter_join(struct run *run, struct call *call, struct value *result)
{
    struct builder out = {0};
    struct list *items;
    struct str separator = STR("");

    if (arg_is_given(call, 0) && !value_text(run, call->arg[0], &separator))
        return false;
    if (!value_iterate(run, call->input, &items))
        return false;
    for (size_t i = 0; i < items->count; i++) {
        struct value item = items->items[i];
        if (arg_is_given(call, 1) && call->arg[1].type != VALUE_NONE && !get_path(run, item, call->arg[1], &item))
            return false;
        if ((i && !builder_add(run, &out, separator)) || !run_charge(run, 1) || !value_print(run, &out, item))
            return false;
    }
    *result = value_string(builder_view(&out));
    return true;
}

bool filter_sum(struct run *run, struct call *call, struct value *result)
{
    struct list *items;

    *result = arg_is_given(call, 1) ? call->arg[1] : value_int(0);
    if (!value_iterate(run, call->input, &items))
        return false;
    for (size_t i = 0; i < items->count; i++) {
        struct value item = items->items[i];
        if (arg_is_given(call, 0) && call->arg[0].type != VALUE_NONE && !get_path(run, item, call->arg[0], &item))
            return false;
        if (!run_charge(run, 1) || !value_binary(run, '+', *result, item, result))
            return false;
    }
    return true;
}

bool filter_attr(struct run *run, struct call *call, struct value *result)
{
    struct str name;

    if (!arg_text(run, call, 0, STR_NONE, &name))
        return false;
    if (call->input.type != VALUE_DICT)
        return value_attribute(run, call->input, name, result);
    *result = value_undefined(UNDEFINED_ATTRIBUTE, VALUE_DICT, name); /* attr never looks at keys */
    return true;
}

bool filter_batch(struct run *run, struct call *call, struct value *result)
{
    struct list *items, *rows;
    int64_t width;
    size_t row_count;

    if (!arg_int(run, call, 0, 1, &width) || !value_iterate(run, call->input, &items))
        return false;
    if (width < 1 || width > 100000)
        return run_fail(run, "batch() needs a count from 1 to 100000");
    row_count = (items->count + (size_t)width - 1) / (size_t)width;
    if (!(rows = list_new(run, LIST_GENERATOR, row_count)))
        return false;
    for (size_t r = 0; r < row_count; r++) {
        size_t start = r * (size_t)width,
               have = items->count - start < (size_t)width ? items->count - start : (size_t)width;
        bool fills = arg_is_given(call, 1) && call->arg[1].type != VALUE_NONE;
        struct list *row = list_new(run, LIST_LIST, fills ? (size_t)width : have);
        if (!row)
            return false;
        for (size_t i = 0; i < row->count; i++)
            row->items[i] = i < have ? items->items[start + i] : call->arg[1];
        rows->items[r] = value_list(row);
    }
    return give_list(result, rows);
}

/* The items of the input; anything that is false has none, even None. */
static bool iterate_lenient(struct run *run, struct value input, struct list **items)
{
    if (value_is_true(input))
        return value_iterate(run, input, items);
    return (*items = list_new(run, LIST_LIST, 0)) != NULL;
}

/* map(attribute="a.b", default=x) or map("filter", arguments of it …) */
static bool map_one(struct run *run, const struct call *call, struct value attribute, struct value fallback,
                    struct value item, struct value *result)
{
    struct arguments rest = call->arguments;

    if (attribute.type == VALUE_ABSENT) {
        if (rest.positional_count == 0 || rest.at[0].value.type != VALUE_STRING)
            return run_fail(run, "map requires a filter argument");
        rest.at++;
        rest.count--;
        rest.positional_count--;
        return filter_call(run, call->arguments.at[0].value.text, item, &rest, result);
    }
    if (!get_path(run, item, attribute, result))
        return false;
    if (result->type == VALUE_UNDEFINED && fallback.type != VALUE_ABSENT)
        *result = fallback;
    return true;
}

bool filter_map(struct run *run, struct call *call, struct value *result)
{
    struct value attribute = {0}, fallback = {0};
    struct list *items, *mapped;

    for (size_t i = 0; i < call->arguments.count && call->arguments.positional_count == 0; i++) {
        if (str_is(call->arguments.at[i].name, "attribute"))
            attribute = call->arguments.at[i].value;
        else if (str_is(call->arguments.at[i].name, "default"))
            fallback = call->arguments.at[i].value;
        else
            return run_fail(run, "map does not take the keyword argument '%.*s'", STR_ARG(call->arguments.at[i].name));
    }
    if (!iterate_lenient(run, call->input, &items) || !(mapped = list_new(run, LIST_GENERATOR, items->count)))
        return false;
    for (size_t i = 0; i < items->count; i++)
        if (!run_charge(run, 1) || !map_one(run, call, attribute, fallback, items->items[i], &mapped->items[i]))
            return false;
    return give_list(result, mapped);
}

/* select, reject: (test, its arguments …); selectattr, rejectattr: an attribute before them. Without a test:
 * truth. */
bool filter_select(struct run *run, struct call *call, struct value *result)
{
    bool is_attribute = str_ends(str_of(call->builtin->name), STR("attr")), is_reject = call->builtin->name[0] == 'r';
    struct arguments rest = call->arguments;
    struct list *items, *kept;
    size_t skip = is_attribute;

    if (rest.positional_count < skip)
        return run_fail(run, "%s needs an attribute", call->builtin->name);
    if (!iterate_lenient(run, call->input, &items) || !(kept = list_new(run, LIST_GENERATOR, items->count)))
        return false;
    skip += rest.positional_count > skip;
    rest.at = rest.at ? rest.at + skip : NULL;
    rest.count -= skip;
    rest.positional_count -= skip;
    kept->count = 0;
    for (size_t i = 0; i < items->count; i++) {
        struct value item = items->items[i], test;
        bool holds;
        if (!run_charge(run, 1) || (is_attribute && !get_path(run, item, call->arguments.at[0].value, &item)))
            return false;
        holds = value_is_true(item);
        if (skip > (size_t)is_attribute) {
            test = call->arguments.at[skip - 1].value;
            if (test.type != VALUE_STRING)
                return run_fail(run, "%s needs the name of a test", call->builtin->name);
            if (!test_call(run, test.text, item, &rest, &holds))
                return false;
        }
        if (holds != is_reject)
            kept->items[kept->count++] = items->items[i];
    }
    return give_list(result, kept);
}
