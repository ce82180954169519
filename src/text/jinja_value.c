#include "text/jinja_value.h"
#include "text/jinja_builtin.h"

#include <stdio.h>
#include <string.h>

#define VALUE_DEPTH_MAX 100

static bool fail_at_line(struct run *run, enum err_code code, const char *format, va_list args)
{
    char text[800];

    vsnprintf(text, sizeof text, format, args);
    return err_set(run->err, code, "chat template, line %u: %s", run->line, text);
}

bool run_fail(struct run *run, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fail_at_line(run, ERR_INPUT, format, args);
    va_end(args);
    return false;
}

bool run_fail_limit(struct run *run, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fail_at_line(run, ERR_LIMIT, format, args);
    va_end(args);
    return false;
}

bool run_charge(struct run *run, uint64_t steps)
{
    run->steps += steps;
    return run->steps <= run->limits.steps ||
           run_fail_limit(run, "rendering takes more than %llu steps", (unsigned long long)run->limits.steps);
}

bool run_charge_text(struct run *run, size_t bytes)
{
    return run_charge(run, bytes / 256);
}

bool run_enter(struct run *run)
{
    if (run->value_depth >= VALUE_DEPTH_MAX)
        return run_fail_limit(run, "values are nested more than %d deep", VALUE_DEPTH_MAX);
    run->value_depth++;
    return run_charge(run, 1);
}

void *run_alloc(struct run *run, size_t count, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes) || bytes > run->limits.memory_bytes - run->memory) {
        run_fail_limit(run, "rendering takes more than %zu bytes of memory", run->limits.memory_bytes);
        return NULL;
    }
    run->memory += bytes;
    return arena_alloc(run->arena, bytes ? bytes : 1);
}

bool builder_add(struct run *run, struct builder *builder, struct str text)
{
    if (text.len > run->limits.output_bytes - builder->len)
        return run_fail_limit(run, "a text grows past %zu bytes", run->limits.output_bytes);
    if (builder->cap - builder->len < text.len) {
        size_t cap = builder->cap ? builder->cap * 2 : 64;
        char *more;
        while (cap - builder->len < text.len)
            cap *= 2;
        if (!(more = run_alloc(run, cap, 1)))
            return false;
        if (builder->len)
            memcpy(more, builder->at, builder->len);
        builder->at = more;
        builder->cap = cap;
    }
    if (text.len)
        memcpy(builder->at + builder->len, text.at, text.len);
    builder->len += text.len;
    return run_charge_text(run, text.len);
}

bool builder_add_char(struct run *run, struct builder *builder, char c)
{
    return builder_add(run, builder, (struct str){&c, 1});
}

struct str builder_view(const struct builder *builder)
{
    return (struct str){builder->at ? builder->at : "", builder->len};
}

const char *value_type_name(struct value value)
{
    static const char *const names[] = {[VALUE_ABSENT] = "nothing",
                                        [VALUE_UNDEFINED] = "Undefined",
                                        [VALUE_NONE] = "NoneType",
                                        [VALUE_BOOL] = "bool",
                                        [VALUE_INT] = "int",
                                        [VALUE_FLOAT] = "float",
                                        [VALUE_STRING] = "str",
                                        [VALUE_DICT] = "dict",
                                        [VALUE_NAMESPACE] = "Namespace",
                                        [VALUE_MACRO] = "Macro",
                                        [VALUE_FUNCTION] = "function",
                                        [VALUE_LOOP] = "LoopContext",
                                        [VALUE_CYCLER] = "Cycler",
                                        [VALUE_JOINER] = "Joiner"};
    static const char *const lists[] = {
        [LIST_LIST] = "list",       [LIST_TUPLE] = "tuple",    [LIST_GENERATOR] = "generator",
        [LIST_RANGE] = "range",     [LIST_KEYS] = "dict_keys", [LIST_VALUES] = "dict_values",
        [LIST_ITEMS] = "dict_items"};

    return value.type == VALUE_LIST ? lists[value.list->kind] : names[value.type];
}

bool value_fail_undefined(struct run *run, struct value value)
{
    /* Only the type is known of the object, so a stand-in gives its name. */
    struct list stand_in = {0};
    struct value owner = {.type = value.owner_type};
    const char *type;

    if (owner.type == VALUE_LIST)
        owner.list = &stand_in;
    type = owner.type == VALUE_NONE ? "None" : value_type_name(owner);
    switch (value.undefined_kind) {
    case UNDEFINED_NAME:
        return run_fail(run, "'%.*s' is undefined", STR_ARG(value.text));
    case UNDEFINED_ARGUMENT:
        return run_fail(run, "parameter '%.*s' was not provided", STR_ARG(value.text));
    case UNDEFINED_ELEMENT:
        return run_fail(run, "%s has no element %.*s", type, STR_ARG(value.text));
    case UNDEFINED_UNSAFE:
        return run_fail(run, "'%.*s' of a %s is not allowed: templates cannot change values", STR_ARG(value.text),
                        type);
    case UNDEFINED_NO_ITEM:
        return run_fail(run, "there is no %.*s item, the sequence was empty", STR_ARG(value.text));
    default:
        return run_fail(run, "'%s' has no attribute '%.*s'", type, STR_ARG(value.text));
    }
}

bool value_is_true(struct value value)
{
    switch ((enum value_type)value.type) {
    case VALUE_BOOL:
        return value.boolean;
    case VALUE_INT:
        return value.integer != 0;
    case VALUE_FLOAT:
        return value.number != 0;
    case VALUE_STRING:
        return value.text.len > 0;
    case VALUE_LIST:
        return value.list->kind == LIST_GENERATOR || value.list->count > 0;
    case VALUE_DICT:
        return value.dict->count > 0;
    case VALUE_ABSENT:
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    default:
        return true;
    }
}

struct list *list_new(struct run *run, enum list_kind kind, size_t count)
{
    struct list *list = run_alloc(run, 1, sizeof *list);

    if (!list || !run_charge(run, count / 16) || !(list->items = run_alloc(run, count, sizeof *list->items)))
        return NULL;
    list->kind = kind;
    list->count = count;
    return list;
}

struct list *list_pair(struct run *run, struct value first, struct value second)
{
    struct list *list = list_new(run, LIST_TUPLE, 2);

    if (list) {
        list->items[0] = first;
        list->items[1] = second;
    }
    return list;
}

struct dict *dict_new(struct run *run, size_t cap)
{
    struct dict *dict = run_alloc(run, 1, sizeof *dict);

    if (!dict || !(dict->pairs = run_alloc(run, cap, sizeof *dict->pairs)))
        return NULL;
    dict->cap = cap;
    return dict;
}

bool dict_get_text(struct run *run, const struct dict *dict, struct str key, struct value **found)
{
    *found = NULL;
    for (size_t i = 0; i < dict->count && !*found; i++)
        if (dict->pairs[i].key.type == VALUE_STRING && str_equal(dict->pairs[i].key.text, key))
            *found = &dict->pairs[i].value;
    return run_charge(run, dict->count / 16);
}

bool dict_get(struct run *run, const struct dict *dict, struct value key, struct value **found)
{
    *found = NULL;
    if (key.type == VALUE_STRING)
        return dict_get_text(run, dict, key.text, found);
    if (key.type == VALUE_DICT || value_is_list(key, LIST_LIST))
        return run_fail(run, "unhashable type: '%s'", value_type_name(key));
    for (size_t i = 0; i < dict->count && !*found; i++) {
        bool is_equal;
        if (!value_equal(run, dict->pairs[i].key, key, &is_equal))
            return false;
        if (is_equal)
            *found = &dict->pairs[i].value;
    }
    return run_charge(run, dict->count / 16);
}

bool dict_set(struct run *run, struct dict *dict, struct value key, struct value value)
{
    struct value *old;

    if (!dict_get(run, dict, key, &old))
        return false;
    if (old) {
        *old = value;
        return true;
    }
    if (dict->count == dict->cap) {
        size_t cap = dict->cap ? dict->cap * 2 : 4;
        struct pair *more = run_alloc(run, cap, sizeof *more);
        if (!more)
            return false;
        if (dict->count)
            memcpy(more, dict->pairs, dict->count * sizeof *more);
        dict->pairs = more;
        dict->cap = cap;
    }
    dict->pairs[dict->count++] = (struct pair){key, value};
    return true;
}

/* Input is bounded by whoever read it, so it is not charged. The last of two equal keys wins and keeps the first
 * one's place, as in Python. */
static bool dict_from_json(struct run *run, const struct json *json, struct value *value)
{
    struct dict *dict = arena_new(run->arena, struct dict);

    dict->pairs = arena_new_array(run->arena, struct pair, json->count ? json->count : 1);
    dict->cap = json->count;
    json_each(member, json) {
        struct value item, *old;
        uint64_t steps = run->steps;
        if (!value_from_json(run, member, &item) || !dict_get_text(run, dict, member->key, &old))
            return false;
        run->steps = steps;
        if (old)
            *old = item;
        else
            dict->pairs[dict->count++] = (struct pair){value_string(member->key), item};
    }
    *value = value_dict(dict);
    return true;
}

static bool list_from_json(struct run *run, const struct json *json, struct value *value)
{
    struct list *list = arena_new(run->arena, struct list);
    size_t count = 0;

    list->items = arena_new_array(run->arena, struct value, json->count ? json->count : 1);
    json_each(item, json)
        if (!value_from_json(run, item, &list->items[count++]))
            return false;
    list->count = count;
    *value = value_list(list);
    return true;
}

static bool is_integer_text(struct str text)
{
    return str_find(text, STR("."), 0) < 0 && str_find(text, STR("e"), 0) < 0 && str_find(text, STR("E"), 0) < 0;
}

/* The JSON reader bounds the depth. */
bool value_from_json(struct run *run, const struct json *json, struct value *value)
{
    *value = value_none();
    if (!json)
        return true;
    switch ((enum json_type)json->type) {
    case JSON_NULL:
        return true;
    case JSON_BOOL:
        *value = value_bool(json->boolean);
        return true;
    case JSON_STRING:
        *value = value_string(json->string);
        return true;
    case JSON_ARRAY:
        return list_from_json(run, json, value);
    case JSON_OBJECT:
        return dict_from_json(run, json, value);
    case JSON_NUMBER:
        break;
    }
    if (json->is_integer)
        *value = value_int(json->integer);
    else if (is_integer_text(json->string) && !str_is(json->string, "-0"))
        return run_fail(run, "the integer %.*s does not fit 64 bits", STR_ARG(str_slice(json->string, 0, 40)));
    else
        *value = is_integer_text(json->string) ? value_int(0) : value_float(json_number(json));
    return true;
}
