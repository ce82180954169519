/* "%05.2f" % value and "{:>8}".format(value): Python's two ways to format. */
#include "text/jinja_builtin.h"
#include "text/jinja_text.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define FORMAT_WIDTH_MAX     1000
#define FORMAT_PRECISION_MAX 100

struct spec {
    char conversion, align, sign; /* align: '<' '>' '^' '='; sign: '+', ' ' or 0 */
    struct str fill;
    bool is_alternate, has_precision, has_thousands;
    int width, precision;
};

static bool pad(struct run *run, struct builder *out, struct str fill, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!builder_add(run, out, fill))
            return false;
    return true;
}

/* text to spec->width; a number's sign (sign_len bytes) stays in front of '=' padding. */
static bool add_padded(struct run *run, struct builder *out, const struct spec *spec, struct str text, size_t sign_len)
{
    size_t len = utf8_length(text), missing = (size_t)spec->width > len ? (size_t)spec->width - len : 0;
    size_t left = spec->align == '^' ? missing / 2 : spec->align == '<' ? 0 : missing;

    if (spec->align == '=')
        return builder_add(run, out, str_slice(text, 0, sign_len)) && pad(run, out, spec->fill, missing) &&
               builder_add(run, out, str_slice(text, sign_len, text.len));
    return pad(run, out, spec->fill, left) && builder_add(run, out, text) && pad(run, out, spec->fill, missing - left);
}

static bool format_integer(struct run *run, struct builder *out, const struct spec *spec, int64_t value)
{
    char digits[72], text[200];
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    unsigned base = strchr("xX", spec->conversion) ? 16
                    : spec->conversion == 'o'      ? 8
                    : spec->conversion == 'b'      ? 2
                                                   : 10;
    const char *set = spec->conversion == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    size_t count = 0, len = 0, sign_len;

    do {
        digits[count++] = set[rest % base];
        rest /= base;
    } while (rest);
    if (value < 0 || spec->sign)
        text[len++] = value < 0 ? '-' : spec->sign;
    if (spec->is_alternate && base != 10) {
        text[len++] = '0';
        text[len++] = spec->conversion;
    }
    sign_len = len;
    for (size_t i = count; spec->has_precision && i < (size_t)spec->precision; i++)
        text[len++] = '0';
    while (count) {
        text[len++] = digits[--count];
        if (spec->has_thousands && count && count % 3 == 0)
            text[len++] = ',';
    }
    return add_padded(run, out, spec, (struct str){text, len}, sign_len);
}

static bool format_float(struct run *run, struct builder *out, const struct spec *spec, double value)
{
    char text[512], format[16];
    int len;

    snprintf(format, sizeof format, "%%%s%s.*%c",
             spec->sign == '+' ? "+"
             : spec->sign      ? " "
                               : "",
             spec->is_alternate ? "#" : "", spec->conversion == '%' ? 'f' : spec->conversion);
    len = snprintf(text, sizeof text - 1, format, spec->has_precision ? spec->precision : 6,
                   spec->conversion == '%' ? value * 100 : value);
    if (len < 0 || (size_t)len >= sizeof text - 1)
        return run_fail(run, "a formatted number is too long");
    if (spec->conversion == '%')
        text[len++] = '%';
    return add_padded(run, out, spec, (struct str){text, (size_t)len}, !isdigit((unsigned char)text[0]));
}

static bool format_number(struct run *run, struct builder *out, const struct spec *spec, struct value value)
{
    if (!value_is_number(value))
        return run_fail(run, "a number is needed to format with '%c', not %s", spec->conversion,
                        value_type_name(value));
    if (strchr("eEfFgG%", spec->conversion))
        return format_float(run, out, spec, value_number(value));
    if (value.type == VALUE_FLOAT && (!isfinite(value.number) || fabs(value.number) > 9e18))
        return run_fail(run, "a float does not fit an integer");
    return format_integer(run, out, spec, value.type == VALUE_FLOAT ? (int64_t)value.number : value_integer(value));
}

static bool format_text(struct run *run, struct builder *out, const struct spec *spec, struct value value, bool is_repr)
{
    struct builder own = {0};
    struct str text;

    if (is_repr ? !value_print_repr(run, &own, value) : !value_text(run, value, &text))
        return false;
    if (is_repr)
        text = builder_view(&own);
    if (spec->has_precision)
        text = str_slice(text, 0, text_offset(text, (size_t)spec->precision));
    return add_padded(run, out, spec, text, 0);
}

static int take_number(struct str *rest, int max)
{
    int value = 0;

    for (; rest->len && isdigit((unsigned char)rest->at[0]); *rest = str_slice(*rest, 1, rest->len))
        value = value > max ? value : value * 10 + rest->at[0] - '0';
    return value;
}

static bool take_char(struct str *rest, const char *set, char *c)
{
    if (!rest->len || !rest->at[0] || !strchr(set, rest->at[0]))
        return false;
    *c = rest->at[0];
    *rest = str_slice(*rest, 1, rest->len);
    return true;
}

/* Width and precision as digits; both ways write them alike. */
static bool take_sizes(struct run *run, struct str *rest, struct spec *spec)
{
    char c;

    spec->width = take_number(rest, FORMAT_WIDTH_MAX);
    spec->has_thousands = take_char(rest, ",", &c);
    if (take_char(rest, ".", &c)) {
        spec->has_precision = true;
        spec->precision = take_number(rest, FORMAT_PRECISION_MAX);
    }
    return (spec->width <= FORMAT_WIDTH_MAX && spec->precision <= FORMAT_PRECISION_MAX) ||
           run_fail_limit(run, "a format is wider than %d or more precise than %d", FORMAT_WIDTH_MAX,
                          FORMAT_PRECISION_MAX);
}

/* Where the next value of "%" comes from. */
struct percent_values {
    struct value all;
    size_t next;
};

static bool next_value(struct run *run, struct percent_values *values, struct str key, struct value *value)
{
    struct value *found;

    if (key.at) {
        if (values->all.type != VALUE_DICT)
            return run_fail(run, "format requires a mapping");
        if (!dict_get_text(run, values->all.dict, key, &found))
            return false;
        if (!found)
            return run_fail(run, "format needs the key '%.*s'", STR_ARG(key));
        *value = *found;
        values->next = 1;
        return true;
    }
    if (value_is_list(values->all, LIST_TUPLE)) {
        if (values->next >= values->all.list->count)
            return run_fail(run, "not enough arguments for format string");
        *value = values->all.list->items[values->next++];
        return true;
    }
    *value = values->all;
    return values->next++ == 0 || run_fail(run, "not enough arguments for format string");
}

/* One conversion behind its '%'. */
static bool format_one(struct run *run, struct str *rest, struct percent_values *values, struct builder *out)
{
    struct spec spec = {.align = '>', .fill = STR(" ")};
    struct str key = STR_NONE;
    struct value value;
    ptrdiff_t end;
    char c;

    if (take_char(rest, "(", &c)) {
        if ((end = str_find(*rest, STR(")"), 0)) < 0)
            return run_fail(run, "incomplete format key");
        key = str_slice(*rest, 0, (size_t)end);
        *rest = str_slice(*rest, (size_t)end + 1, rest->len);
    }
    while (take_char(rest, "-+ #0", &c)) {
        spec.align = c == '-' ? '<' : c == '0' && spec.align != '<' ? '=' : spec.align;
        spec.sign = c == '+' || (c == ' ' && !spec.sign) ? c : spec.sign;
        spec.is_alternate |= c == '#';
    }
    spec.fill = spec.align == '=' ? STR("0") : STR(" ");
    if (!take_sizes(run, rest, &spec))
        return false;
    if (!take_char(rest, "srdiuxXoeEfFgGc%", &spec.conversion))
        return run_fail(run, "unsupported format character");
    if (spec.conversion == '%')
        return builder_add_char(run, out, '%');
    if (!next_value(run, values, key, &value))
        return false;
    if (strchr("src", spec.conversion)) {
        spec.align = spec.align == '=' ? '>' : spec.align;
        spec.fill = STR(" ");
        return format_text(run, out, &spec, value, spec.conversion == 'r');
    }
    return format_number(run, out, &spec, value);
}

bool format_percent(struct run *run, struct str format, struct value values, struct builder *out)
{
    struct percent_values source = {.all = values};
    struct str rest = format;

    while (rest.len) {
        ptrdiff_t at = str_find(rest, STR("%"), 0);
        size_t plain = at < 0 ? rest.len : (size_t)at;
        if (!builder_add(run, out, str_slice(rest, 0, plain)))
            return false;
        rest = str_slice(rest, plain + 1, rest.len);
        if (at >= 0 && (!run_charge(run, 1) || !format_one(run, &rest, &source, out)))
            return false;
    }
    if (value_is_list(values, LIST_TUPLE) ? source.next < values.list->count
                                          : source.next == 0 && values.type != VALUE_DICT && values.type != VALUE_LIST)
        return run_fail(run, "not all arguments converted during string formatting");
    return true;
}

/* {name!r:spec}: finds the value by position or name. */
static bool brace_value(struct run *run, struct str name, const struct arguments *arguments, size_t *next,
                        struct value *value)
{
    int64_t index = (int64_t)*next;

    if (name.len == 0)
        (*next)++;
    else if (!str_to_i64(name, &index))
        index = -1;
    if (index >= 0 && (size_t)index < arguments->positional_count) {
        *value = arguments->at[index].value;
        return true;
    }
    for (size_t i = arguments->positional_count; index < 0 && i < arguments->count; i++)
        if (str_equal(arguments->at[i].name, name)) {
            *value = arguments->at[i].value;
            return true;
        }
    return run_fail(run, "format() has no argument for '{%.*s}'", STR_ARG(name));
}

static bool parse_brace_spec(struct run *run, struct str rest, struct spec *spec, bool *is_explicit)
{
    uint32_t codepoint;
    size_t len = utf8_decode(rest, &codepoint);
    char c;

    if (len && len < rest.len && strchr("<>^=", rest.at[len]) && rest.at[len]) {
        spec->fill = str_slice(rest, 0, len);
        rest = str_slice(rest, len, rest.len);
    }
    *is_explicit = take_char(&rest, "<>^=", &spec->align);
    if (take_char(&rest, "+- ", &c) && c != '-')
        spec->sign = c;
    spec->is_alternate = take_char(&rest, "#", &c);
    if (rest.len && rest.at[0] == '0' && !*is_explicit) {
        spec->align = '=';
        spec->fill = STR("0");
        *is_explicit = true;
    }
    if (!take_sizes(run, &rest, spec))
        return false;
    take_char(&rest, "sdxXobeEfFgG%", &spec->conversion);
    return rest.len == 0 || run_fail(run, "format() does not support this specification");
}

static bool format_field(struct run *run, struct str field, const struct arguments *arguments, size_t *next,
                         struct builder *out)
{
    struct spec spec = {.align = '>', .fill = STR(" ")};
    ptrdiff_t colon = str_find(field, STR(":"), 0);
    struct str name = colon < 0 ? field : str_slice(field, 0, (size_t)colon);
    bool is_explicit, is_repr = str_ends(name, STR("!r"));
    struct value value;

    if (is_repr || str_ends(name, STR("!s")))
        name.len -= 2;
    if (!brace_value(run, name, arguments, next, &value))
        return false;
    if (!parse_brace_spec(run, colon < 0 ? STR("") : str_slice(field, (size_t)colon + 1, field.len), &spec,
                          &is_explicit))
        return false;
    if (!value_is_number(value) || is_repr || (!spec.conversion && value.type != VALUE_INT) || spec.conversion == 's') {
        spec.align = is_explicit ? spec.align : value_is_number(value) ? '>' : '<';
        return format_text(run, out, &spec, value, is_repr);
    }
    spec.conversion = spec.conversion ? spec.conversion : 'd';
    return format_number(run, out, &spec, value);
}

bool format_braces(struct run *run, struct str format, const struct arguments *arguments, struct builder *out)
{
    size_t next = 0, i = 0;

    while (i < format.len) {
        char c = format.at[i];
        ptrdiff_t end;
        if ((c == '{' || c == '}') && i + 1 < format.len && format.at[i + 1] == c) {
            i++;
        } else if (c == '{') {
            if ((end = str_find(format, STR("}"), i)) < 0)
                return run_fail(run, "format() finds a '{' without '}'");
            if (!run_charge(run, 1) || !format_field(run, str_slice(format, i + 1, (size_t)end), arguments, &next, out))
                return false;
            i = (size_t)end + 1;
            continue;
        } else if (c == '}') {
            return run_fail(run, "format() finds a '}' without '{'");
        }
        if (!builder_add(run, out, str_slice(format, i, i + 1)))
            return false;
        i++;
    }
    return true;
}
