/* Operators and access on values, with Python's rules. */
#include "text/jinja_builtin.h"
#include "text/jinja_lex.h"
#include "text/jinja_parse.h"
#include "text/jinja_text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* equality, order, membership */

static bool lists_equal(struct run *run, const struct list *a, const struct list *b, bool *is_equal)
{
    *is_equal = a->kind == b->kind && a->count == b->count && (a->kind != LIST_GENERATOR || a == b);
    for (size_t i = 0; *is_equal && a != b && i < a->count; i++)
        if (!value_equal(run, a->items[i], b->items[i], is_equal))
            return false;
    return true;
}

static bool dicts_equal(struct run *run, const struct dict *a, const struct dict *b, bool *is_equal)
{
    *is_equal = a->count == b->count;
    for (size_t i = 0; *is_equal && a != b && i < a->count; i++) {
        struct value *other;
        if (!dict_get(run, b, a->pairs[i].key, &other))
            return false;
        *is_equal = other != NULL;
        if (other && !value_equal(run, a->pairs[i].value, *other, is_equal))
            return false;
    }
    return true;
}

static int compare_numbers(struct value a, struct value b)
{
    if (value_is_integer(a) && value_is_integer(b))
        return (value_integer(a) > value_integer(b)) - (value_integer(a) < value_integer(b));
    return (value_number(a) > value_number(b)) - (value_number(a) < value_number(b));
}

static bool is_nan(struct value value)
{
    return value.type == VALUE_FLOAT && isnan(value.number);
}

bool value_equal(struct run *run, struct value a, struct value b, bool *is_equal)
{
    bool ok = true;

    *is_equal = false;
    if (value_is_number(a) && value_is_number(b)) {
        *is_equal = !is_nan(a) && !is_nan(b) && compare_numbers(a, b) == 0;
        return true;
    }
    if (a.type != b.type)
        return true;
    switch ((enum value_type)a.type) {
    case VALUE_STRING:
        *is_equal = str_equal(a.text, b.text);
        return !*is_equal || run_charge_text(run, a.text.len);
    case VALUE_LIST:
    case VALUE_DICT:
        if (!run_enter(run))
            return false;
        ok = a.type == VALUE_LIST ? lists_equal(run, a.list, b.list, is_equal)
                                  : dicts_equal(run, a.dict, b.dict, is_equal);
        run_leave(run);
        return ok;
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        *is_equal = true;
        return true;
    default:
        *is_equal = a.macro == b.macro;
        return true;
    }
}

static bool compare_lists(struct run *run, const struct list *a, const struct list *b, const char *sign, int *order)
{
    size_t count = a->count < b->count ? a->count : b->count;

    for (size_t i = 0; i < count; i++) {
        bool is_equal;
        if (!value_equal(run, a->items[i], b->items[i], &is_equal))
            return false;
        if (!is_equal)
            return value_compare(run, a->items[i], b->items[i], sign, order);
    }
    *order = (a->count > b->count) - (a->count < b->count);
    return true;
}

bool value_compare(struct run *run, struct value a, struct value b, const char *sign, int *order)
{
    bool ok;

    if (a.type == VALUE_UNDEFINED || b.type == VALUE_UNDEFINED)
        return value_fail_undefined(run, a.type == VALUE_UNDEFINED ? a : b);
    if (value_is_number(a) && value_is_number(b)) {
        *order = is_nan(a) || is_nan(b) ? ORDER_NONE : compare_numbers(a, b);
        return true;
    }
    if (a.type == VALUE_STRING && b.type == VALUE_STRING) {
        *order = str_compare(a.text, b.text);
        return run_charge_text(run, a.text.len < b.text.len ? a.text.len : b.text.len);
    }
    if (a.type == VALUE_LIST && b.type == VALUE_LIST && a.list->kind == b.list->kind && a.list->kind <= LIST_TUPLE) {
        ok = run_enter(run) && compare_lists(run, a.list, b.list, sign, order);
        if (ok)
            run_leave(run);
        return ok;
    }
    return run_fail(run, "'%s' not supported between instances of '%s' and '%s'", sign, value_type_name(a),
                    value_type_name(b));
}

bool value_contains(struct run *run, struct value haystack, struct value needle, bool *contains)
{
    struct value *found;
    struct list *items;

    *contains = false;
    if (haystack.type == VALUE_STRING) {
        if (needle.type == VALUE_UNDEFINED || needle.type != VALUE_STRING)
            return run_fail(run, "'in <string>' requires string as left operand, not %s", value_type_name(needle));
        *contains = str_find(haystack.text, needle.text, 0) >= 0;
        return run_charge_text(run, haystack.text.len);
    }
    if (haystack.type == VALUE_DICT) {
        if (!dict_get(run, haystack.dict, needle, &found))
            return false;
        *contains = found != NULL;
        return true;
    }
    if (haystack.type != VALUE_LIST && haystack.type != VALUE_UNDEFINED)
        return run_fail(run, "argument of type '%s' is not iterable", value_type_name(haystack));
    if (!value_iterate(run, haystack, &items))
        return false;
    for (size_t i = 0; i < items->count && !*contains; i++)
        if (!value_equal(run, items->items[i], needle, contains))
            return false;
    return run_charge(run, items->count / 16);
}

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

/* arithmetic */

static const char *op_text(uint16_t op, char text[3])
{
    text[0] = (char)op;
    text[1] = (char)(op >> 8);
    text[2] = 0;
    return text;
}

static bool fail_operands(struct run *run, uint16_t op, struct value a, struct value b)
{
    char sign[3];

    if (op == '+' && a.type == VALUE_STRING)
        return run_fail(run, "can only concatenate str (not \"%s\") to str", value_type_name(b));
    if (op == '+' && value_is_list(a, LIST_LIST))
        return run_fail(run, "can only concatenate list (not \"%s\") to list", value_type_name(b));
    return run_fail(run, "unsupported operand type(s) for %s: '%s' and '%s'", op_text(op, sign), value_type_name(a),
                    value_type_name(b));
}

static bool integer_power(struct run *run, int64_t base, int64_t exponent, int64_t *result)
{
    bool is_over = false;

    *result = 1;
    while (exponent > 0 && !is_over) {
        if (exponent & 1)
            is_over = __builtin_mul_overflow(*result, base, result);
        exponent >>= 1;
        if (exponent)
            is_over |= __builtin_mul_overflow(base, base, &base);
    }
    return !is_over || run_fail(run, "an integer leaves 64 bits");
}

static bool binary_integers(struct run *run, uint16_t op, int64_t a, int64_t b, struct value *result)
{
    int64_t value = 0;
    bool is_over = false;

    switch (op) {
    case '+':
        is_over = __builtin_add_overflow(a, b, &value);
        break;
    case '-':
        is_over = __builtin_sub_overflow(a, b, &value);
        break;
    case '*':
        is_over = __builtin_mul_overflow(a, b, &value);
        break;
    case OPERATOR2('*', '*'):
        if (!integer_power(run, a, b, &value))
            return false;
        break;
    case '%': /* the sign of the divisor, as in Python */
        value = b == -1 ? 0 : a % b;
        value += value && (value < 0) != (b < 0) ? b : 0;
        break;
    default: /* floor */
        is_over = a == INT64_MIN && b == -1;
        if (!is_over)
            value = a / b - (a % b && (a < 0) != (b < 0));
    }
    *result = value_int(value);
    return !is_over || run_fail(run, "an integer leaves 64 bits");
}

static bool binary_numbers(struct run *run, uint16_t op, struct value left, struct value right, struct value *result)
{
    double a = value_number(left), b = value_number(right), value;
    bool is_power = op == OPERATOR2('*', '*'), is_division = op == '/' || op == '%' || op == OPERATOR2('/', '/');

    if (is_division && b == 0)
        return run_fail(run, "division by zero");
    if (value_is_integer(left) && value_is_integer(right) && op != '/' && !(is_power && b < 0))
        return binary_integers(run, op, value_integer(left), value_integer(right), result);
    switch (op) {
    case '+':
        value = a + b;
        break;
    case '-':
        value = a - b;
        break;
    case '*':
        value = a * b;
        break;
    case '/':
        value = a / b;
        break;
    case '%':
        value = fmod(a, b);
        value += value != 0 && (value < 0) != (b < 0) ? b : 0;
        break;
    case OPERATOR2('/', '/'):
        value = floor(a / b);
        break;
    default:
        if ((a == 0 && b < 0) || (a < 0 && b != floor(b)))
            return run_fail(run, "this power is no real number");
        value = pow(a, b);
        if (isinf(value) && isfinite(a) && isfinite(b))
            return run_fail(run, "a float is too large");
    }
    *result = value_float(value);
    return true;
}

static bool add_markup_part(struct run *run, struct builder *out, struct value part)
{
    return part.is_markup ? builder_add(run, out, part.text) : print_escaped(run, out, part.text);
}

static bool concatenate(struct run *run, struct value a, struct value b, struct value *result)
{
    struct builder out = {0};
    bool is_markup = a.is_markup || b.is_markup, ok;

    if (is_markup)
        ok = add_markup_part(run, &out, a) && add_markup_part(run, &out, b);
    else
        ok = builder_add(run, &out, a.text) && builder_add(run, &out, b.text);
    *result = value_string(builder_view(&out));
    result->is_markup = is_markup;
    return ok;
}

static bool add_lists(struct run *run, const struct list *a, const struct list *b, struct value *result)
{
    struct list *list = list_new(run, a->kind, a->count + b->count);

    if (!list)
        return false;
    if (a->count)
        memcpy(list->items, a->items, a->count * sizeof *a->items);
    if (b->count)
        memcpy(list->items + a->count, b->items, b->count * sizeof *b->items);
    *result = value_list(list);
    return true;
}

static bool repeat(struct run *run, struct value what, int64_t count, struct value *result)
{
    struct builder out = {0};
    struct list empty = {0};

    *result = what;
    if (what.type == VALUE_STRING) {
        for (int64_t i = 0; i < count && what.text.len; i++)
            if (!run_charge(run, 1) || !builder_add(run, &out, what.text))
                return false;
        result->text = builder_view(&out);
        return true;
    }
    empty.kind = what.list->kind;
    if (!add_lists(run, &empty, &empty, result))
        return false;
    for (int64_t i = 0; i < count && what.list->count; i++)
        if (!run_charge(run, 1) || !add_lists(run, result->list, what.list, result))
            return false;
    return true;
}

static bool is_row(struct value value)
{
    return value.type == VALUE_STRING || (value.type == VALUE_LIST && value.list->kind <= LIST_TUPLE);
}

bool value_binary(struct run *run, uint16_t op, struct value a, struct value b, struct value *result)
{
    struct builder out = {0};

    if (op == '%' && a.type == VALUE_STRING) {
        if (!format_percent(run, a.text, b, &out))
            return false;
        *result = value_string(builder_view(&out));
        return true;
    }
    if (a.type == VALUE_UNDEFINED || b.type == VALUE_UNDEFINED)
        return a.type == VALUE_STRING && op == '+' ? fail_operands(run, op, a, b)
                                                   : value_fail_undefined(run, a.type == VALUE_UNDEFINED ? a : b);
    if (value_is_number(a) && value_is_number(b))
        return binary_numbers(run, op, a, b, result);
    if (op == '+' && a.type == VALUE_STRING && b.type == VALUE_STRING)
        return concatenate(run, a, b, result);
    if (op == '+' && a.type == VALUE_LIST && b.type == VALUE_LIST && a.list->kind == b.list->kind &&
        a.list->kind <= LIST_TUPLE)
        return add_lists(run, a.list, b.list, result);
    if (op == '*' && is_row(a) && value_is_integer(b))
        return repeat(run, a, value_integer(b), result);
    if (op == '*' && value_is_integer(a) && is_row(b))
        return repeat(run, b, value_integer(a), result);
    return fail_operands(run, op, a, b);
}

bool value_negate(struct run *run, struct value value, struct value *result)
{
    if (value.type == VALUE_UNDEFINED)
        return value_fail_undefined(run, value);
    if (!value_is_number(value))
        return run_fail(run, "bad operand type for unary -: '%s'", value_type_name(value));
    if (value.type == VALUE_FLOAT) {
        *result = value_float(-value.number);
        return true;
    }
    return binary_integers(run, '-', 0, value_integer(value), result);
}
