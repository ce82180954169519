/* Filters on text and numbers, and the table of all filters. */
#include "text/jinja_filters.h"
#include "text/jinja_text.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool give_text(struct value *result, struct str text)
{
    *result = value_string(text);
    return true;
}

/* A filter that is a method of str() of its input, with the same arguments. */
static bool filter_method(struct run *run, struct call *call, struct value *result)
{
    const struct builtin *method = builtin_find(
        &jinja_str_methods, str_is(str_of(call->builtin->name), "trim") ? STR("strip") : str_of(call->builtin->name));
    struct value text = call->input;
    bool is_markup = text.is_markup && text.type == VALUE_STRING;
    struct arguments arguments = {.positional_count = 0};
    struct argument at[BUILTIN_PARAMETERS_MAX];

    if (text.type != VALUE_STRING && (!value_text(run, call->input, &text.text)))
        return false;
    text = value_string(text.text);
    for (int i = 0; i < BUILTIN_PARAMETERS_MAX && arg_is_given(call, i); i++)
        at[arguments.count++] = (struct argument){STR_NONE, call->arg[i]};
    arguments.at = at;
    arguments.positional_count = arguments.count;
    if (!builtin_call(run, method, text, &arguments, result))
        return false;
    result->is_markup = is_markup;
    return true;
}

/* First letter of each word large, the rest small; words begin behind blanks, hyphens and opening brackets. */
static bool filter_title(struct run *run, struct call *call, struct value *result)
{
    struct builder out = {0};
    struct str text;
    bool in_word = false;
    uint32_t codepoint;
    size_t len;
    char mapped[8];

    if (!value_text(run, call->input, &text) || !run_charge_text(run, text.len * 8))
        return false;
    for (; (len = utf8_decode(text, &codepoint)); text = str_slice(text, len, text.len)) {
        if (!builder_add(run, &out,
                         (struct str){mapped, text_map_case(codepoint, in_word ? TEXT_LOWER : TEXT_UPPER, mapped)}))
            return false;
        in_word = !text_is_space(codepoint) && !(codepoint < 0x80 && codepoint && strchr("-({[<", (int)codepoint));
    }
    return give_text(result, builder_view(&out));
}

static bool filter_string(struct run *run, struct call *call, struct value *result)
{
    struct str text;

    if (call->input.type == VALUE_STRING) {
        *result = call->input;
        return true;
    }
    return value_text(run, call->input, &text) && give_text(result, text);
}

static bool filter_safe(struct run *run, struct call *call, struct value *result)
{
    if (!filter_string(run, call, result))
        return false;
    result->is_markup = true;
    return true;
}

static bool filter_escape(struct run *run, struct call *call, struct value *result)
{
    struct builder out = {0};
    struct value text;

    if (!filter_string(run, call, &text))
        return false;
    *result = text;
    if (!text.is_markup) {
        if (!print_escaped(run, &out, text.text))
            return false;
        result->text = builder_view(&out);
    }
    result->is_markup = true;
    return true;
}

static bool filter_default(struct run *run, struct call *call, struct value *result)
{
    bool is_missing = call->input.type == VALUE_UNDEFINED || (arg_bool(call, 1, false) && !value_is_true(call->input));

    *result = call->input;
    if (is_missing)
        *result = arg_is_given(call, 0) ? call->arg[0] : value_string(STR(""));
    return true;
}

static bool style_separators(struct run *run, struct value separators, struct json_style *style)
{
    struct list *items;

    if (separators.type == VALUE_ABSENT || separators.type == VALUE_NONE)
        return true;
    if (!value_iterate(run, separators, &items))
        return false;
    if (items->count != 2 || items->items[0].type != VALUE_STRING || items->items[1].type != VALUE_STRING)
        return run_fail(run, "tojson: separators are two strings");
    style->item_separator = items->items[0].text;
    style->key_separator = items->items[1].text;
    return true;
}

static bool filter_tojson(struct run *run, struct call *call, struct value *result)
{
    static const char blanks[] = "                                ";
    struct json_style style = {.item_separator = STR(", "), .key_separator = STR(": ")};
    struct value indent = call->arg[1];
    struct builder out = {0};
    int64_t width;

    style.is_ascii = arg_bool(call, 0, false);
    style.sorts_keys = arg_bool(call, 3, false);
    style.has_indent = arg_is_given(call, 1) && indent.type != VALUE_NONE;
    if (style.has_indent) {
        style.item_separator = STR(",");
        style.indent = indent.text;
        if (indent.type != VALUE_STRING) {
            if (!arg_int(run, call, 1, 0, &width))
                return false;
            if (width > (int64_t)sizeof blanks - 1)
                return run_fail_limit(run, "tojson indents by at most %zu", sizeof blanks - 1);
            style.indent = (struct str){blanks, width > 0 ? (size_t)width : 0};
        }
    }
    return style_separators(run, call->arg[2], &style) && value_print_json(run, &out, call->input, &style) &&
           give_text(result, builder_view(&out));
}

/* Lines behind the first get the blanks in front; empty ones only with `blank`. */
static bool filter_indent(struct run *run, struct call *call, struct value *result)
{
    struct builder out = {0}, blanks = {0};
    struct str text, indent = STR_NONE;
    bool indents = arg_bool(call, 1, false), indents_blank = arg_bool(call, 2, false);
    int64_t width = 4;

    if (call->arg[0].type == VALUE_STRING)
        indent = call->arg[0].text;
    else if (!arg_int(run, call, 0, 4, &width))
        return false;
    for (int64_t i = 0; call->arg[0].type != VALUE_STRING && i < width; i++)
        if (!run_charge(run, 1) || !builder_add_char(run, &blanks, ' '))
            return false;
    indent = call->arg[0].type == VALUE_STRING ? indent : builder_view(&blanks);
    if (!value_text(run, call->input, &text))
        return false;
    for (;;) {
        ptrdiff_t at = str_find(text, STR("\n"), 0);
        size_t end = at < 0 ? text.len : (size_t)at;
        if (indents && (indents_blank || end > 0) && !builder_add(run, &out, indent))
            return false;
        if (!run_charge(run, 1) || !builder_add(run, &out, str_slice(text, 0, end + (at >= 0))))
            return false;
        if (at < 0)
            return give_text(result, builder_view(&out));
        text = str_slice(text, end + 1, text.len);
        indents = true;
    }
}

static bool filter_wordcount(struct run *run, struct call *call, struct value *result)
{
    struct str text;
    bool in_word = false;
    int64_t count = 0;

    if (!value_text(run, call->input, &text) || !run_charge_text(run, text.len))
        return false;
    for (size_t i = 0; i < text.len; i++) { /* words are runs of letters, digits and _ */
        bool is_word = isalnum((unsigned char)text.at[i]) || text.at[i] == '_' || (unsigned char)text.at[i] >= 0x80;
        count += is_word && !in_word;
        in_word = is_word;
    }
    *result = value_int(count);
    return true;
}

static bool filter_format(struct run *run, struct call *call, struct value *result)
{
    struct builder out = {0};
    struct str format;
    struct list *values = list_new(run, LIST_TUPLE, call->arguments.positional_count);
    struct dict *named = dict_new(run, 0);

    if (!values || !named || !value_text(run, call->input, &format))
        return false;
    for (size_t i = 0; i < call->arguments.count; i++) {
        if (i < values->count)
            values->items[i] = call->arguments.at[i].value;
        else if (!dict_set(run, named, value_string(call->arguments.at[i].name), call->arguments.at[i].value))
            return false;
    }
    return format_percent(run, format, named->count ? value_dict(named) : value_list(values), &out) &&
           give_text(result, builder_view(&out));
}

/* numbers */

static bool filter_abs(struct run *run, struct call *call, struct value *result)
{
    bool is_negative = value_is_number(call->input) && value_number(call->input) < 0;

    *result = value_is_integer(call->input) ? value_int(value_integer(call->input)) : call->input;
    return value_is_number(call->input) && !is_negative ? true : value_negate(run, call->input, result);
}

/* Python's int(text, base): blanks around, a sign, underscores between digits. */
static bool text_to_integer(struct str text, int base, int64_t *value)
{
    char plain[80];
    size_t len = 0;
    char *end;

    text = text_strip_right(text_strip_left(text, STR_NONE), STR_NONE);
    for (size_t i = 0; i < text.len; i++) {
        if (len == sizeof plain - 1 || isspace((unsigned char)text.at[i]))
            return false;
        if (text.at[i] != '_')
            plain[len++] = text.at[i];
    }
    plain[len] = 0;
    *value = strtoll(plain, &end, base);
    return len > 0 && *end == 0 && *value != INT64_MAX && *value != INT64_MIN;
}

static bool text_to_float(struct str text, double *value)
{
    text = text_strip_right(text_strip_left(text, STR_NONE), STR_NONE);
    return !(text.len > 1 && (text.at[1] | 32) == 'x') && str_to_double(text, value);
}

static bool filter_int(struct run *run, struct call *call, struct value *result)
{
    struct value input = call->input;
    int64_t base, integer = 0;
    double number = 0;
    bool ok = false;

    if (!arg_int(run, call, 1, 10, &base) ||
        (base != 0 && (base < 2 || base > 36) && !run_fail(run, "int() base must be 0 or 2 to 36")))
        return false;
    if (input.type == VALUE_UNDEFINED)
        return value_fail_undefined(run, input);
    if (value_is_integer(input)) {
        integer = value_integer(input);
        ok = true;
    } else if (input.type == VALUE_STRING && text_to_integer(input.text, (int)base, &integer)) {
        ok = true;
    } else if (input.type == VALUE_FLOAT || (input.type == VALUE_STRING && text_to_float(input.text, &number))) {
        number = input.type == VALUE_FLOAT ? input.number : number;
        ok = isfinite(number) && fabs(number) < 9.2e18;
        integer = ok ? (int64_t)number : 0;
    }
    *result = ok ? value_int(integer) : arg_is_given(call, 0) ? call->arg[0] : value_int(0);
    return true;
}

static bool filter_float(struct run *run, struct call *call, struct value *result)
{
    double number = 0;

    if (call->input.type == VALUE_UNDEFINED)
        return value_fail_undefined(run, call->input);
    *result = arg_is_given(call, 0) ? call->arg[0] : value_float(0);
    if (value_is_number(call->input))
        *result = value_float(value_number(call->input));
    else if (call->input.type == VALUE_STRING && text_to_float(call->input.text, &number))
        *result = value_float(number);
    return true;
}

static bool filter_round(struct run *run, struct call *call, struct value *result)
{
    struct str method;
    int64_t precision;
    double number, scale;

    if (!arg_int(run, call, 0, 0, &precision) || !arg_text(run, call, 1, STR("common"), &method))
        return false;
    if (!value_is_number(call->input))
        return run_fail(run, "a %s cannot be rounded", value_type_name(call->input));
    if (precision < -300 || precision > 300)
        return run_fail_limit(run, "round() takes a precision up to 300");
    number = value_number(call->input);
    scale = pow(10, (double)precision);
    if (str_is(method, "ceil"))
        number = ceil(number * scale) / scale;
    else if (str_is(method, "floor"))
        number = floor(number * scale) / scale;
    else if (!str_is(method, "common"))
        return run_fail(run, "method must be common, ceil or floor");
    else if (precision >= 0 && precision <= 20) { /* the correctly rounded decimal, as Python does */
        struct builder out = {0};
        char format[8];
        snprintf(format, sizeof format, "%%.%df", (int)precision);
        if (!format_percent(run, str_of(format), value_float(number), &out) ||
            !text_to_float(builder_view(&out), &number))
            return false;
    } else {
        number = nearbyint(number * scale) / scale;
    }
    *result =
        value_is_integer(call->input) && str_is(method, "common") ? value_int((int64_t)number) : value_float(number);
    return true;
}

static const struct builtin filters[] = {
    {"abs", filter_abs, ""},
    {"attr", filter_attr, "name"},
    {"batch", filter_batch, "linecount fill_with?"},
    {"capitalize", filter_method, ""},
    {"center", filter_method, "width?"},
    {"count", filter_length, ""},
    {"d", filter_default, "default_value? boolean?"},
    {"default", filter_default, "default_value? boolean?"},
    {"dictsort", filter_dictsort, "case_sensitive? by? reverse?"},
    {"e", filter_escape, ""},
    {"escape", filter_escape, ""},
    {"first", filter_first, ""},
    {"float", filter_float, "default?"},
    {"format", filter_format, "*"},
    {"groupby", filter_groupby, "attribute default? case_sensitive?"},
    {"indent", filter_indent, "width? first? blank?"},
    {"int", filter_int, "default? base?"},
    {"items", filter_items, ""},
    {"join", filter_join, "d? attribute?"},
    {"last", filter_last, ""},
    {"length", filter_length, ""},
    {"list", filter_list, ""},
    {"lower", filter_method, ""},
    {"map", filter_map, "*"},
    {"max", filter_extreme, "case_sensitive? attribute?"},
    {"min", filter_extreme, "case_sensitive? attribute?"},
    {"reject", filter_select, "*"},
    {"rejectattr", filter_select, "*"},
    {"replace", filter_method, "old new count?"},
    {"reverse", filter_reverse, ""},
    {"round", filter_round, "precision? method?"},
    {"safe", filter_safe, ""},
    {"select", filter_select, "*"},
    {"selectattr", filter_select, "*"},
    {"sort", filter_sort, "reverse? case_sensitive? attribute?"},
    {"string", filter_string, ""},
    {"sum", filter_sum, "attribute? start?"},
    {"title", filter_title, ""},
    {"tojson", filter_tojson, "ensure_ascii? indent? separators? sort_keys?"},
    {"trim", filter_method, "chars?"},
    {"unique", filter_unique, "case_sensitive? attribute?"},
    {"upper", filter_method, ""},
    {"wordcount", filter_wordcount, ""},
};
const struct builtin_table jinja_filters = {filters, sizeof filters / sizeof *filters};
