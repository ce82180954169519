/* Operators on values, with Python's rules: comparison, membership, arithmetic. */
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
