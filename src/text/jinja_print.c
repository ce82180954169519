/* Values as text: Python's str() and repr(), and json.dumps(). */
#include "text/jinja_builtin.h"
#include "text/jinja_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool add_text(struct run *run, struct builder *out, const char *text)
{
    return builder_add(run, out, str_of(text));
}

static bool print_number(struct run *run, struct builder *out, struct value value)
{
    char text[40];
    size_t len = value.type == VALUE_FLOAT ? text_float_repr(value.number, text)
                                           : (size_t)snprintf(text, sizeof text, "%lld", (long long)value.integer);

    return builder_add(run, out, (struct str){text, len});
}

static bool print_escape(struct run *run, struct builder *out, uint32_t codepoint, char quote)
{
    char text[16];

    if (codepoint == (uint32_t)quote || codepoint == '\\')
        snprintf(text, sizeof text, "\\%c", (int)codepoint);
    else if (codepoint == '\n' || codepoint == '\r' || codepoint == '\t')
        snprintf(text, sizeof text, "\\%c", codepoint == '\n' ? 'n' : codepoint == '\r' ? 'r' : 't');
    else
        snprintf(text, sizeof text,
                 codepoint < 0x100     ? "\\x%02x"
                 : codepoint < 0x10000 ? "\\u%04x"
                                       : "\\U%08x",
                 codepoint);
    return add_text(run, out, text);
}

static bool print_string_repr(struct run *run, struct builder *out, struct str text)
{
    char quote = str_find(text, STR("'"), 0) >= 0 && str_find(text, STR("\""), 0) < 0 ? '"' : '\'';
    uint32_t codepoint;
    size_t len;
    bool ok = builder_add_char(run, out, quote);

    for (; ok && (len = utf8_decode(text, &codepoint)); text = str_slice(text, len, text.len)) {
        bool is_plain = codepoint < 0x80
                            ? codepoint >= 0x20 && codepoint < 0x7f && codepoint != (uint32_t)quote && codepoint != '\\'
                            : text_is_printable(codepoint);
        ok = is_plain ? builder_add(run, out, str_slice(text, 0, len)) : print_escape(run, out, codepoint, quote);
    }
    return ok && builder_add_char(run, out, quote);
}

static bool print_items_repr(struct run *run, struct builder *out, const struct list *list)
{
    for (size_t i = 0; i < list->count; i++)
        if ((i && !add_text(run, out, ", ")) || !value_print_repr(run, out, list->items[i]))
            return false;
    return true;
}

static bool print_list_repr(struct run *run, struct builder *out, const struct list *list)
{
    static const char *const open[] = {
        "[", "(", "<generator object>", "range(", "dict_keys([", "dict_values([", "dict_items(["};
    static const char *const close[] = {"]", ")", "", ")", "])", "])", "])"};
    char text[80];

    if (!add_text(run, out, open[list->kind]))
        return false;
    if (list->kind == LIST_RANGE) {
        int64_t first = list->count ? list->items[0].integer : 0;
        int64_t step = list->count > 1 ? list->items[1].integer - first : 1;
        int64_t end = list->count ? list->items[list->count - 1].integer + step : 0;
        snprintf(text, sizeof text, step == 1 ? "%lld, %lld" : "%lld, %lld, %lld", (long long)first, (long long)end,
                 (long long)step);
        if (!add_text(run, out, text))
            return false;
    } else if (list->kind != LIST_GENERATOR && !print_items_repr(run, out, list)) {
        return false;
    }
    if (list->kind == LIST_TUPLE && list->count == 1 && !add_text(run, out, ","))
        return false;
    return add_text(run, out, close[list->kind]);
}

static bool print_dict_repr(struct run *run, struct builder *out, const struct dict *dict)
{
    if (!builder_add_char(run, out, '{'))
        return false;
    for (size_t i = 0; i < dict->count; i++)
        if ((i && !add_text(run, out, ", ")) || !value_print_repr(run, out, dict->pairs[i].key) ||
            !add_text(run, out, ": ") || !value_print_repr(run, out, dict->pairs[i].value))
            return false;
    return builder_add_char(run, out, '}');
}

static bool print_object(struct run *run, struct builder *out, struct value value)
{
    if (value.type == VALUE_LOOP) {
        char text[64];
        snprintf(text, sizeof text, "<LoopContext %zu/%zu>", value.loop->index + 1, value.loop->items->count);
        return add_text(run, out, text);
    }
    return run_fail(run, "a %s cannot be printed", value_type_name(value));
}

bool value_print_repr(struct run *run, struct builder *out, struct value value)
{
    bool ok = run_enter(run);

    if (!ok)
        return false;
    switch ((enum value_type)value.type) {
    case VALUE_STRING:
        ok = (!value.is_markup || add_text(run, out, "Markup(")) && print_string_repr(run, out, value.text) &&
             (!value.is_markup || add_text(run, out, ")"));
        break;
    case VALUE_LIST:
        ok = print_list_repr(run, out, value.list);
        break;
    case VALUE_DICT:
        ok = print_dict_repr(run, out, value.dict);
        break;
    case VALUE_NAMESPACE:
        ok = add_text(run, out, "<Namespace ") && print_dict_repr(run, out, value.dict) && add_text(run, out, ">");
        break;
    case VALUE_UNDEFINED:
        ok = add_text(run, out, "Undefined");
        break;
    default:
        ok = value_print(run, out, value);
    }
    run_leave(run);
    return ok;
}

bool value_print(struct run *run, struct builder *out, struct value value)
{
    switch ((enum value_type)value.type) {
    case VALUE_ABSENT:
    case VALUE_UNDEFINED:
        return true;
    case VALUE_NONE:
        return add_text(run, out, "None");
    case VALUE_BOOL:
        return add_text(run, out, value.boolean ? "True" : "False");
    case VALUE_INT:
    case VALUE_FLOAT:
        return print_number(run, out, value);
    case VALUE_STRING:
        return builder_add(run, out, value.text);
    case VALUE_LIST:
    case VALUE_DICT:
    case VALUE_NAMESPACE:
        return value_print_repr(run, out, value);
    default:
        return print_object(run, out, value);
    }
}

bool value_text(struct run *run, struct value value, struct str *text)
{
    struct builder out = {0};

    *text = value.text;
    if (value.type == VALUE_STRING)
        return true;
    if (!value_print(run, &out, value))
        return false;
    *text = builder_view(&out);
    return true;
}

bool print_escaped(struct run *run, struct builder *out, struct str text)
{
    static const struct {
        char from;
        const char *to;
    } entities[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};

    for (size_t i = 0; i < text.len; i++) {
        struct str piece = str_slice(text, i, i + 1);
        for (size_t j = 0; j < sizeof entities / sizeof *entities; j++)
            if (text.at[i] == entities[j].from)
                piece = str_of(entities[j].to);
        if (!builder_add(run, out, piece))
            return false;
    }
    return run_charge_text(run, text.len * 8);
}

/* json.dumps */

static bool print_json_unicode(struct run *run, struct builder *out, uint32_t codepoint)
{
    char text[16];

    if (codepoint < 0x10000)
        snprintf(text, sizeof text, "\\u%04x", codepoint);
    else
        snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd800 + ((codepoint - 0x10000) >> 10),
                 0xdc00 + ((codepoint - 0x10000) & 0x3ff));
    return add_text(run, out, text);
}

static bool print_json_string(struct run *run, struct builder *out, struct str text, const struct json_style *style)
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    uint32_t codepoint;
    size_t len, plain = 0, at = 0;

    if (!builder_add_char(run, out, '"'))
        return false;
    for (; (len = utf8_decode(str_slice(text, at, text.len), &codepoint)); at += len) {
        const char *simple = codepoint && codepoint < 0x80 ? strchr(from, (int)codepoint) : NULL;
        char escape[2] = {'\\', simple ? to[simple - from] : 0};
        bool is_plain = !simple && codepoint >= 0x20 && (codepoint < 0x7f || !style->is_ascii);
        if (is_plain)
            continue;
        if (!builder_add(run, out, str_slice(text, plain, at)) ||
            !(simple ? builder_add(run, out, (struct str){escape, 2}) : print_json_unicode(run, out, codepoint)))
            return false;
        plain = at + len;
    }
    return builder_add(run, out, str_slice(text, plain, text.len)) && builder_add_char(run, out, '"');
}

static bool print_json_number(struct run *run, struct builder *out, struct value value)
{
    if (value.type == VALUE_FLOAT && !isfinite(value.number))
        return add_text(run, out, isnan(value.number) ? "NaN" : value.number < 0 ? "-Infinity" : "Infinity");
    return print_number(run, out, value);
}

static bool print_json_line(struct run *run, struct builder *out, const struct json_style *style, uint32_t level)
{
    if (!style->has_indent)
        return true;
    if (!builder_add_char(run, out, '\n'))
        return false;
    for (uint32_t i = 0; i < level; i++)
        if (!builder_add(run, out, style->indent))
            return false;
    return true;
}

static bool print_json_key(struct run *run, struct builder *out, struct value key, const struct json_style *style)
{
    struct builder text = {0};
    bool ok;

    if (key.type == VALUE_STRING)
        return print_json_string(run, out, key.text, style);
    if (!value_is_number(key) && key.type != VALUE_NONE)
        return run_fail(run, "keys must be str, int, float, bool or None, not %s", value_type_name(key));
    ok = value_print_json(run, &text, key, style) && print_json_string(run, out, builder_view(&text), style);
    return ok;
}

static int compare_pairs(const void *a, const void *b)
{
    return str_compare(((const struct pair *)a)->key.text, ((const struct pair *)b)->key.text);
}

static bool sort_pairs(struct run *run, const struct dict *dict, struct pair **pairs)
{
    *pairs = dict->pairs;
    for (size_t i = 0; i < dict->count; i++)
        if (dict->pairs[i].key.type != VALUE_STRING)
            return dict->count == 1 || run_fail(run, "sort_keys needs keys that are all strings");
    if (!(*pairs = run_alloc(run, dict->count, sizeof **pairs)))
        return false;
    if (dict->count) {
        memcpy(*pairs, dict->pairs, dict->count * sizeof **pairs);
        qsort(*pairs, dict->count, sizeof **pairs, compare_pairs);
    }
    return run_charge(run, dict->count);
}

static bool print_json_dict(struct run *run, struct builder *out, const struct dict *dict,
                            const struct json_style *style)
{
    struct pair *pairs = dict->pairs;

    if (dict->count == 0)
        return add_text(run, out, "{}");
    if ((style->sorts_keys && !sort_pairs(run, dict, &pairs)) || !builder_add_char(run, out, '{'))
        return false;
    for (size_t i = 0; i < dict->count; i++)
        if ((i && !builder_add(run, out, style->item_separator)) ||
            !print_json_line(run, out, style, run->value_depth) || !print_json_key(run, out, pairs[i].key, style) ||
            !builder_add(run, out, style->key_separator) || !value_print_json(run, out, pairs[i].value, style))
            return false;
    return print_json_line(run, out, style, run->value_depth - 1) && builder_add_char(run, out, '}');
}

static bool print_json_list(struct run *run, struct builder *out, const struct list *list,
                            const struct json_style *style)
{
    if (list->count == 0)
        return add_text(run, out, "[]");
    if (!builder_add_char(run, out, '['))
        return false;
    for (size_t i = 0; i < list->count; i++)
        if ((i && !builder_add(run, out, style->item_separator)) ||
            !print_json_line(run, out, style, run->value_depth) || !value_print_json(run, out, list->items[i], style))
            return false;
    return print_json_line(run, out, style, run->value_depth - 1) && builder_add_char(run, out, ']');
}

bool value_print_json(struct run *run, struct builder *out, struct value value, const struct json_style *style)
{
    bool ok;

    if (!run_enter(run))
        return false;
    if (value.type == VALUE_NONE)
        ok = add_text(run, out, "null");
    else if (value.type == VALUE_BOOL)
        ok = add_text(run, out, value.boolean ? "true" : "false");
    else if (value_is_number(value))
        ok = print_json_number(run, out, value);
    else if (value.type == VALUE_STRING)
        ok = print_json_string(run, out, value.text, style);
    else if (value.type == VALUE_DICT)
        ok = print_json_dict(run, out, value.dict, style);
    else if (value_is_list(value, LIST_LIST) || value_is_list(value, LIST_TUPLE))
        ok = print_json_list(run, out, value.list, style);
    else
        ok = run_fail(run, "Object of type %s is not JSON serializable", value_type_name(value));
    run_leave(run);
    return ok;
}
