/* What is in a value, with Python's rules: its items and length, attributes and methods, items by key, slices. */
#include "text/jinja_builtin.h"
#include "text/jinja_parse.h"
#include "text/jinja_text.h"

/* iteration and length */

static bool iterate_text(struct run *run, struct str text, struct list **items)
{
    size_t at = 0, len, count = utf8_length(text);
    uint32_t codepoint;

    if (!(*items = list_new(run, LIST_LIST, count)))
        return false;
    for (size_t i = 0; i < count && (len = utf8_decode(str_slice(text, at, text.len), &codepoint)); at += len)
        (*items)->items[i++] = value_string(str_slice(text, at, at + len));
    return true;
}

bool value_iterate(struct run *run, struct value value, struct list **items)
{
    *items = NULL;
    switch ((enum value_type)value.type) {
    case VALUE_STRING:
        return iterate_text(run, value.text, items);
    case VALUE_UNDEFINED:
        return (*items = list_new(run, LIST_LIST, 0)) != NULL;
    case VALUE_LIST:
        *items = value.list;
        if (value.list->kind == LIST_GENERATOR) {
            if (!(*items = list_new(run, LIST_LIST, 0)))
                return false;
            (*items)->items = value.list->items;
            (*items)->count = value.list->count;
            value.list->count = 0;
        }
        return true;
    case VALUE_DICT:
        if (!(*items = list_new(run, LIST_LIST, value.dict->count)))
            return false;
        for (size_t i = 0; i < value.dict->count; i++)
            (*items)->items[i] = value.dict->pairs[i].key;
        return true;
    default:
        return run_fail(run, "'%s' object is not iterable", value_type_name(value));
    }
}

bool value_length(struct run *run, struct value value, int64_t *length)
{
    *length = 0;
    if (value.type == VALUE_STRING) {
        *length = (int64_t)utf8_length(value.text);
        return run_charge_text(run, value.text.len);
    }
    if (value.type == VALUE_LIST && value.list->kind != LIST_GENERATOR)
        *length = (int64_t)value.list->count;
    else if (value.type == VALUE_DICT)
        *length = (int64_t)value.dict->count;
    else if (value.type == VALUE_LOOP)
        *length = (int64_t)value.loop->items->count;
    else if (value.type != VALUE_UNDEFINED)
        return run_fail(run, "object of type '%s' has no len()", value_type_name(value));
    return true;
}

/* attributes and items */

static bool bind_method(struct run *run, const struct builtin *builtin, struct value receiver, struct value *result)
{
    struct function *function = run_alloc(run, 1, sizeof *function);

    if (!function)
        return false;
    *function = (struct function){builtin, receiver};
    *result = (struct value){.type = VALUE_FUNCTION, .function = function};
    return true;
}

static const struct builtin_table *methods_of(struct value value)
{
    switch ((enum value_type)value.type) {
    case VALUE_STRING:
        return &jinja_str_methods;
    case VALUE_DICT:
        return &jinja_dict_methods;
    case VALUE_LOOP:
        return &jinja_loop_methods;
    case VALUE_CYCLER:
        return &jinja_cycler_methods;
    case VALUE_LIST:
        return value.list->kind <= LIST_TUPLE ? &jinja_list_methods : NULL;
    default:
        return NULL;
    }
}

static struct value loop_item(const struct loop *loop, size_t index, struct str name)
{
    return index < loop->items->count ? loop->items->items[index]
                                      : value_undefined(UNDEFINED_ATTRIBUTE, VALUE_LOOP, name);
}

static bool loop_attribute(const struct loop *loop, struct str name, struct value *result)
{
    int64_t index = (int64_t)loop->index, count = (int64_t)loop->items->count;

    if (str_is(name, "index0"))
        *result = value_int(index);
    else if (str_is(name, "index"))
        *result = value_int(index + 1);
    else if (str_is(name, "revindex0"))
        *result = value_int(count - index - 1);
    else if (str_is(name, "revindex"))
        *result = value_int(count - index);
    else if (str_is(name, "first"))
        *result = value_bool(index == 0);
    else if (str_is(name, "last"))
        *result = value_bool(index == count - 1);
    else if (str_is(name, "length"))
        *result = value_int(count);
    else if (str_is(name, "depth"))
        *result = value_int(1);
    else if (str_is(name, "depth0"))
        *result = value_int(0);
    else if (str_is(name, "previtem"))
        *result = loop_item(loop, loop->index - 1, name); /* wraps past the end before the first */
    else if (str_is(name, "nextitem"))
        *result = loop_item(loop, loop->index + 1, name);
    else
        return false;
    return true;
}

/* What Python's getattr finds: methods and the few attributes that exist. *found says whether. */
static bool own_attribute(struct run *run, struct value object, struct str name, struct value *result, bool *found)
{
    const struct builtin_table *methods = methods_of(object);
    const struct builtin *method = methods ? builtin_find(methods, name) : NULL;
    struct value *value;

    *found = true;
    if (object.type == VALUE_LOOP && loop_attribute(object.loop, name, result))
        return true;
    if (object.type == VALUE_NAMESPACE) {
        if (!dict_get_text(run, object.dict, name, &value))
            return false;
        if ((*found = value != NULL))
            *result = *value;
        return true;
    }
    if (object.type == VALUE_CYCLER && str_is(name, "current")) {
        *result = object.cycler->items->items[object.cycler->at];
        return true;
    }
    if (method)
        return bind_method(run, method, object, result);
    if (builtin_is_unsafe(object, name)) {
        *result = value_undefined(UNDEFINED_UNSAFE, object.type, name);
        return true;
    }
    *found = false;
    return true;
}

/* Python's index into count items: negative ones count from the end. */
static bool resolve_index(int64_t index, size_t count, size_t *at)
{
    if (index < 0)
        index += (int64_t)count;
    *at = (size_t)index;
    return index >= 0 && *at < count;
}

/* object[key] without the fallback to attributes. */
static bool own_item(struct run *run, struct value object, struct value key, struct value *result, bool *found)
{
    struct value *value;
    size_t at, end;

    *found = false;
    if (object.type == VALUE_DICT) {
        if (key.type == VALUE_DICT || value_is_list(key, LIST_LIST) || key.type == VALUE_UNDEFINED)
            return true;
        if (!dict_get(run, object.dict, key, &value))
            return false;
        if ((*found = value != NULL))
            *result = *value;
        return true;
    }
    if (!value_is_integer(key))
        return true;
    if (object.type == VALUE_LIST && (object.list->kind <= LIST_TUPLE || object.list->kind == LIST_RANGE)) {
        if ((*found = resolve_index(value_integer(key), object.list->count, &at)))
            *result = object.list->items[at];
    } else if (object.type == VALUE_STRING) {
        if ((*found = resolve_index(value_integer(key), utf8_length(object.text), &at))) {
            at = text_offset(object.text, at);
            end = at + text_offset(str_slice(object.text, at, object.text.len), 1);
            *result = value_string(str_slice(object.text, at, end));
        }
        return run_charge_text(run, object.text.len);
    }
    return true;
}

bool value_attribute(struct run *run, struct value object, struct str name, struct value *result)
{
    bool found;

    if (object.type == VALUE_UNDEFINED)
        return value_fail_undefined(run, object);
    if (!own_attribute(run, object, name, result, &found))
        return false;
    if (!found && !own_item(run, object, value_string(name), result, &found))
        return false;
    if (!found)
        *result = value_undefined(UNDEFINED_ATTRIBUTE, object.type, name);
    return true;
}

bool value_item(struct run *run, struct value object, struct value key, struct value *result)
{
    bool found;
    struct str name = STR("?");

    if (object.type == VALUE_UNDEFINED)
        return value_fail_undefined(run, object);
    if (!own_item(run, object, key, result, &found))
        return false;
    if (!found && key.type == VALUE_STRING && !own_attribute(run, object, key.text, result, &found))
        return false;
    if (found)
        return true;
    if (key.type == VALUE_STRING) {
        *result = value_undefined(UNDEFINED_ATTRIBUTE, object.type, key.text);
        return true;
    }
    if (value_is_number(key) && !value_text(run, key, &name))
        return false;
    *result = value_undefined(UNDEFINED_ELEMENT, object.type, name);
    return true;
}

/* Python's slice.indices(). */
static bool slice_bounds(struct run *run, const struct value bounds[3], int64_t count, int64_t out[3])
{
    int64_t step = 1;

    for (int i = 0; i < 3; i++)
        if (bounds[i].type != VALUE_ABSENT && bounds[i].type != VALUE_NONE && !value_is_integer(bounds[i]))
            return bounds[i].type == VALUE_UNDEFINED ? value_fail_undefined(run, bounds[i])
                                                     : run_fail(run, "slice indices must be integers or None");
    if (value_is_integer(bounds[2]))
        step = value_integer(bounds[2]);
    if (step == 0)
        return run_fail(run, "slice step cannot be zero");
    for (int i = 0; i < 2; i++) {
        int64_t low = step > 0 ? 0 : -1, high = step > 0 ? count : count - 1;
        int64_t value = (i == 0) == (step > 0) ? low : high;
        if (value_is_integer(bounds[i])) {
            value = value_integer(bounds[i]);
            value = value < 0 ? value + count : value;
            value = value < low ? low : value > high ? high : value;
        }
        out[i] = value;
    }
    out[2] = step;
    return true;
}

static bool slice_text(struct run *run, struct str text, const int64_t bounds[3], struct value *result)
{
    struct builder out = {0};
    struct list *characters;

    if (bounds[2] == 1) {
        size_t from = text_offset(text, (size_t)bounds[0]), to = from;
        if (bounds[1] > bounds[0])
            to += text_offset(str_slice(text, from, text.len), (size_t)(bounds[1] - bounds[0]));
        *result = value_string(str_slice(text, from, to));
        return run_charge_text(run, text.len);
    }
    if (!iterate_text(run, text, &characters))
        return false;
    for (int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1];) {
        if (!builder_add(run, &out, characters->items[i].text))
            return false;
        if (__builtin_add_overflow(i, bounds[2], &i))
            break;
    }
    *result = value_string(builder_view(&out));
    return true;
}

bool value_slice(struct run *run, struct value object, const struct value bounds[3], struct value *result)
{
    int64_t count, resolved[3];
    struct list *list;

    if (object.type == VALUE_UNDEFINED)
        return value_fail_undefined(run, object);
    if (object.type != VALUE_STRING &&
        (object.type != VALUE_LIST || (object.list->kind > LIST_TUPLE && object.list->kind != LIST_RANGE))) {
        *result = value_undefined(UNDEFINED_ELEMENT, object.type, STR("slice"));
        return true;
    }
    if (!value_length(run, object, &count) || !slice_bounds(run, bounds, count, resolved))
        return false;
    if (object.type == VALUE_STRING)
        return slice_text(run, object.text, resolved, result);
    if (!(list = list_new(run, object.list->kind, (size_t)count)))
        return false;
    list->count = 0;
    for (int64_t i = resolved[0]; resolved[2] > 0 ? i < resolved[1] : i > resolved[1];) {
        list->items[list->count++] = object.list->items[i];
        if (__builtin_add_overflow(i, resolved[2], &i))
            break;
    }
    *result = value_list(list);
    return true;
}
