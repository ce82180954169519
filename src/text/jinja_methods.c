/* Methods of str, dict and list. */
#include "text/jinja_builtin.h"
#include "text/jinja_text.h"

#include <string.h>

static bool give_text(struct value *result, struct str text)
{
    *result = value_string(text);
    return true;
}

/* str */

static bool str_strip(struct run *run, struct call *call, struct value *result)
{
    struct str set = STR_NONE, text = call->input.text;
    const char *name = call->builtin->name;

    if (call->arg[0].type != VALUE_NONE && !arg_text(run, call, 0, STR_NONE, &set))
        return false;
    if (!run_charge_text(run, text.len * (1 + set.len)))
        return false;
    if (name[0] != 'r')
        text = text_strip_left(text, set);
    if (name[0] != 'l')
        text = text_strip_right(text, set);
    *result = call->input;
    result->text = text;
    return true;
}

bool text_recase(struct run *run, struct str text, int to, struct value *result)
{
    struct builder out = {0};
    bool in_word = false;
    uint32_t codepoint;
    size_t len;
    char mapped[8];

    if (!run_charge_text(run, text.len * 8))
        return false;
    for (; (len = utf8_decode(text, &codepoint)); text = str_slice(text, len, text.len)) {
        enum text_case how = to != TEXT_TITLE ? (enum text_case)to : in_word ? TEXT_LOWER : TEXT_TITLE;
        if (!builder_add(run, &out, (struct str){mapped, text_map_case(codepoint, how, mapped)}))
            return false;
        in_word = text_is_cased(codepoint);
    }
    return give_text(result, builder_view(&out));
}

static bool str_case(struct run *run, struct call *call, struct value *result)
{
    static const struct {
        const char *name;
        enum text_case to;
    } cases[] = {{"upper", TEXT_UPPER},
                 {"lower", TEXT_LOWER},
                 {"casefold", TEXT_LOWER},
                 {"title", TEXT_TITLE},
                 {"swapcase", TEXT_SWAP}};
    int to = TEXT_UPPER;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (strcmp(call->builtin->name, cases[i].name) == 0)
            to = cases[i].to;
    return text_recase(run, call->input.text, to, result);
}

static bool str_capitalize(struct run *run, struct call *call, struct value *result)
{
    struct str text = call->input.text;
    struct value first, rest;
    size_t one = text_offset(text, 1);

    return text_recase(run, str_slice(text, 0, one), TEXT_TITLE, &first) &&
           text_recase(run, str_slice(text, one, text.len), TEXT_LOWER, &rest) &&
           value_binary(run, '+', first, rest, result);
}

/* startswith, endswith: of one string or of any in a tuple. */
static bool str_affix(struct run *run, struct call *call, struct value *result)
{
    struct list single = {.count = 1, .items = &call->arg[0]}, *list = &single;
    bool is_start = call->builtin->name[0] == 's', holds = false;

    if (value_is_list(call->arg[0], LIST_TUPLE))
        list = call->arg[0].list;
    for (size_t i = 0; i < list->count && !holds; i++) {
        if (list->items[i].type != VALUE_STRING)
            return run_fail(run, "%s first arg must be str or a tuple of str, not %s", call->builtin->name,
                            value_type_name(list->items[i]));
        holds = is_start ? str_starts(call->input.text, list->items[i].text)
                         : str_ends(call->input.text, list->items[i].text);
    }
    *result = value_bool(holds);
    return run_charge(run, list->count / 16);
}

static bool str_remove_affix(struct run *run, struct call *call, struct value *result)
{
    struct str text = call->input.text, affix;
    bool is_start = call->builtin->name[6] == 'p';

    if (!arg_text(run, call, 0, STR_NONE, &affix))
        return false;
    if (is_start && str_starts(text, affix))
        text = str_slice(text, affix.len, text.len);
    else if (!is_start && str_ends(text, affix))
        text.len -= affix.len;
    return give_text(result, text);
}

static bool list_push(struct run *run, struct list *list, size_t *cap, struct value value)
{
    if (list->count == *cap) {
        size_t more_cap = *cap ? *cap * 2 : 8;
        struct value *more = run_alloc(run, more_cap, sizeof *more);
        if (!more)
            return false;
        if (list->count)
            memcpy(more, list->items, list->count * sizeof *more);
        list->items = more;
        *cap = more_cap;
    }
    list->items[list->count++] = value;
    return run_charge(run, 1);
}

/* From the left: runs of white space separate, and none stands at the ends. */
static bool split_space(struct run *run, struct str text, int64_t max, struct list *list, size_t *cap)
{
    text = text_strip_left(text, STR_NONE);
    while (text.len) {
        size_t end = 0, len;
        uint32_t codepoint;
        while (max != 0 && (len = utf8_decode(str_slice(text, end, text.len), &codepoint)) && !text_is_space(codepoint))
            end += len;
        if (max == 0)
            end = text.len;
        if (!list_push(run, list, cap, value_string(str_slice(text, 0, end))))
            return false;
        text = text_strip_left(str_slice(text, end, text.len), STR_NONE);
        max -= max > 0;
    }
    return true;
}

static bool split_at(struct run *run, struct str text, struct str separator, int64_t max, struct list *list,
                     size_t *cap)
{
    ptrdiff_t at;

    while (max != 0 && (at = str_find(text, separator, 0)) >= 0) {
        if (!list_push(run, list, cap, value_string(str_slice(text, 0, (size_t)at))))
            return false;
        text = str_slice(text, (size_t)at + separator.len, text.len);
        max -= max > 0;
    }
    return list_push(run, list, cap, value_string(text));
}

static ptrdiff_t find_last(struct str text, struct str needle)
{
    for (size_t at = text.len - needle.len + 1; needle.len <= text.len && at-- > 0;)
        if (memcmp(text.at + at, needle.at, needle.len) == 0)
            return (ptrdiff_t)at;
    return -1;
}

/* With a bound on the count, rsplit cuts from the right; without one it is split. */
static bool rsplit_at(struct run *run, struct str text, struct str separator, int64_t max, struct list *list,
                      size_t *cap)
{
    ptrdiff_t at;

    while (max-- != 0 && (at = find_last(text, separator)) >= 0) {
        if (!list_push(run, list, cap, value_string(str_slice(text, (size_t)at + separator.len, text.len))))
            return false;
        text.len = (size_t)at;
    }
    if (!list_push(run, list, cap, value_string(text)))
        return false;
    for (size_t i = 0; i < list->count / 2; i++) {
        struct value swap = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swap;
    }
    return true;
}

static bool str_split(struct run *run, struct call *call, struct value *result)
{
    struct list *list = list_new(run, LIST_LIST, 0);
    bool is_right = call->builtin->name[0] == 'r', has_separator = call->arg[0].type == VALUE_STRING, ok;
    struct str separator = call->arg[0].text, text = call->input.text;
    int64_t max;
    size_t cap = 0;

    if (!list || !arg_int(run, call, 1, -1, &max) || !run_charge_text(run, text.len))
        return false;
    if (!has_separator && call->arg[0].type != VALUE_NONE && arg_is_given(call, 0))
        return run_fail(run, "must be str or None, not %s", value_type_name(call->arg[0]));
    if (has_separator && separator.len == 0)
        return run_fail(run, "empty separator");
    if (!has_separator && is_right && max >= 0)
        return run_fail(run, "rsplit() by white space with a maximum is not supported");
    if (!has_separator)
        ok = split_space(run, text, max, list, &cap);
    else if (is_right && max >= 0)
        ok = rsplit_at(run, text, separator, max, list, &cap);
    else
        ok = split_at(run, text, separator, max, list, &cap);
    *result = value_list(list);
    return ok;
}

static bool str_partition(struct run *run, struct call *call, struct value *result)
{
    struct list *list = list_new(run, LIST_TUPLE, 3);
    struct str text = call->input.text, separator;
    bool is_right = call->builtin->name[0] == 'r';
    ptrdiff_t at;

    if (!list || !arg_text(run, call, 0, STR_NONE, &separator) || !run_charge_text(run, text.len))
        return false;
    if (separator.len == 0)
        return run_fail(run, "empty separator");
    at = is_right ? find_last(text, separator) : str_find(text, separator, 0);
    for (int i = 0; i < 3; i++)
        list->items[i] = value_string(STR(""));
    list->items[is_right && at < 0 ? 2 : 0].text = at < 0 ? text : str_slice(text, 0, (size_t)at);
    if (at >= 0) {
        list->items[1].text = separator;
        list->items[2].text = str_slice(text, (size_t)at + separator.len, text.len);
    }
    *result = value_list(list);
    return true;
}

static bool str_splitlines(struct run *run, struct call *call, struct value *result)
{
    struct list *list = list_new(run, LIST_LIST, 0);
    struct str text = call->input.text;
    bool keeps_ends = arg_bool(call, 0, false);
    size_t cap = 0;

    if (!list || !run_charge_text(run, text.len))
        return false;
    while (text.len) {
        size_t end = 0, next;
        while (end < text.len && text.at[end] != '\n' && text.at[end] != '\r')
            end++;
        next = end < text.len ? end + 1 : end;
        next += end + 1 < text.len && text.at[end] == '\r' && text.at[end + 1] == '\n';
        if (!list_push(run, list, &cap, value_string(str_slice(text, 0, keeps_ends ? next : end))))
            return false;
        text = str_slice(text, next, text.len);
    }
    *result = value_list(list);
    return true;
}

static bool str_replace(struct run *run, struct call *call, struct value *result)
{
    struct builder out = {0};
    struct str from, to, text = call->input.text;
    int64_t max;

    if (!arg_text(run, call, 0, STR_NONE, &from) || !arg_text(run, call, 1, STR_NONE, &to) ||
        !arg_int(run, call, 2, -1, &max))
        return false;
    while (max != 0) {
        ptrdiff_t at = str_find(text, from, 0);
        size_t skip = from.len;
        if (at < 0)
            break;
        if (!run_charge(run, 1) || !builder_add(run, &out, str_slice(text, 0, (size_t)at)) ||
            !builder_add(run, &out, to))
            return false;
        max -= max > 0;
        if (from.len == 0) { /* between all characters and at both ends */
            if (text.len == 0)
                break;
            skip = text_offset(text, 1);
            if (!builder_add(run, &out, str_slice(text, 0, skip)))
                return false;
        }
        text = str_slice(text, (size_t)at + skip, text.len);
    }
    return builder_add(run, &out, text) && give_text(result, builder_view(&out));
}

static bool str_find_method(struct run *run, struct call *call, struct value *result)
{
    struct str text = call->input.text, needle;
    bool is_right = call->builtin->name[0] == 'r';
    ptrdiff_t at;

    if (!arg_text(run, call, 0, STR_NONE, &needle) || !run_charge_text(run, text.len))
        return false;
    at = is_right ? find_last(text, needle) : str_find(text, needle, 0);
    if (at < 0 && strstr(call->builtin->name, "index"))
        return run_fail(run, "substring not found");
    *result = value_int(at < 0 ? -1 : (int64_t)utf8_length(str_slice(text, 0, (size_t)at)));
    return true;
}

static bool str_count(struct run *run, struct call *call, struct value *result)
{
    struct str text = call->input.text, needle;
    int64_t count = 0;
    ptrdiff_t at = 0;

    if (!arg_text(run, call, 0, STR_NONE, &needle) || !run_charge_text(run, text.len))
        return false;
    if (needle.len == 0)
        count = (int64_t)utf8_length(text) + 1;
    for (; needle.len && (at = str_find(text, needle, (size_t)at)) >= 0; at += (ptrdiff_t)needle.len)
        count++;
    *result = value_int(count);
    return true;
}

static bool str_join(struct run *run, struct call *call, struct value *result)
{
    struct builder out = {0};
    struct list *items;

    if (!value_iterate(run, call->arg[0], &items))
        return false;
    for (size_t i = 0; i < items->count; i++) {
        if (items->items[i].type != VALUE_STRING)
            return run_fail(run, "sequence item %zu: expected str instance, %s found", i,
                            value_type_name(items->items[i]));
        if ((i && !builder_add(run, &out, call->input.text)) || !builder_add(run, &out, items->items[i].text))
            return false;
    }
    return give_text(result, builder_view(&out));
}

static bool str_format(struct run *run, struct call *call, struct value *result)
{
    struct builder out = {0};

    return format_braces(run, call->input.text, &call->arguments, &out) && give_text(result, builder_view(&out));
}

/* center, ljust, rjust, zfill */
static bool str_pad(struct run *run, struct call *call, struct value *result)
{
    struct builder out = {0};
    struct str text = call->input.text, fill;
    char how = call->builtin->name[0];
    bool has_sign = how == 'z' && text.len && strchr("+-", text.at[0]);
    int64_t width;
    size_t len = utf8_length(text), missing, left;

    if (!arg_int(run, call, 0, 80, &width) || !arg_text(run, call, 1, how == 'z' ? STR("0") : STR(" "), &fill))
        return false;
    if (width > (int64_t)run->limits.output_bytes)
        return run_fail_limit(run, "'%s' is too wide", call->builtin->name);
    missing = width > (int64_t)len ? (size_t)width - len : 0;
    left = how == 'l' ? 0 : how == 'c' ? missing / 2 + (missing & (size_t)width & 1) : missing;
    if (has_sign && !builder_add(run, &out, str_slice(text, 0, 1)))
        return false;
    for (size_t i = 0; i < missing; i++)
        if ((i == left && !builder_add(run, &out, text)) || !builder_add(run, &out, fill))
            return false;
    if (left >= missing && !builder_add(run, &out, str_slice(text, has_sign, text.len)))
        return false;
    return run_charge(run, missing / 16) && give_text(result, builder_view(&out));
}

static bool is_wanted(const char *name, uint32_t c)
{
    switch (name[2]) {
    case 's':
        return text_is_space(c);
    case 'd':
    case 'n':
        return text_is_digit(c); /* isdigit, isdecimal, isnumeric */
    default:
        return text_is_alpha(c) || (name[4] == 'n' && text_is_digit(c)); /* isalpha, isalnum */
    }
}

static bool str_is_kind(struct run *run, struct call *call, struct value *result)
{
    struct str text = call->input.text;
    bool holds = text.len > 0;
    uint32_t codepoint;
    size_t len;

    for (; holds && (len = utf8_decode(text, &codepoint)); text = str_slice(text, len, text.len))
        holds = is_wanted(call->builtin->name, codepoint);
    *result = value_bool(holds);
    return run_charge_text(run, call->input.text.len * 8);
}

static bool str_is_case(struct run *run, struct call *call, struct value *result)
{
    bool holds;

    if (!test_call(run, str_of(call->builtin->name + 2), call->input, NULL, &holds))
        return false;
    *result = value_bool(holds);
    return true;
}

static const struct builtin str_methods[] = {
    {"strip", str_strip, "chars?"},
    {"lstrip", str_strip, "chars?"},
    {"rstrip", str_strip, "chars?"},
    {"upper", str_case, ""},
    {"lower", str_case, ""},
    {"casefold", str_case, ""},
    {"title", str_case, ""},
    {"swapcase", str_case, ""},
    {"capitalize", str_capitalize, ""},
    {"startswith", str_affix, "prefix"},
    {"endswith", str_affix, "suffix"},
    {"removeprefix", str_remove_affix, "prefix"},
    {"removesuffix", str_remove_affix, "suffix"},
    {"split", str_split, "sep? maxsplit?"},
    {"rsplit", str_split, "sep? maxsplit?"},
    {"partition", str_partition, "sep"},
    {"rpartition", str_partition, "sep"},
    {"splitlines", str_splitlines, "keepends?"},
    {"replace", str_replace, "old new count?"},
    {"find", str_find_method, "sub"},
    {"rfind", str_find_method, "sub"},
    {"index", str_find_method, "sub"},
    {"rindex", str_find_method, "sub"},
    {"count", str_count, "sub"},
    {"join", str_join, "iterable"},
    {"format", str_format, "*"},
    {"center", str_pad, "width fillchar?"},
    {"ljust", str_pad, "width fillchar?"},
    {"rjust", str_pad, "width fillchar?"},
    {"zfill", str_pad, "width"},
    {"isspace", str_is_kind, ""},
    {"isdigit", str_is_kind, ""},
    {"isdecimal", str_is_kind, ""},
    {"isnumeric", str_is_kind, ""},
    {"isalpha", str_is_kind, ""},
    {"isalnum", str_is_kind, ""},
    {"isupper", str_is_case, ""},
    {"islower", str_is_case, ""},
};
const struct builtin_table jinja_str_methods = {str_methods, sizeof str_methods / sizeof *str_methods};

/* dict */

static bool dict_view(struct run *run, struct call *call, struct value *result)
{
    const struct dict *dict = call->input.dict;
    char what = call->builtin->name[0];
    struct list *list = list_new(run, what == 'k' ? LIST_KEYS : what == 'v' ? LIST_VALUES : LIST_ITEMS, dict->count);

    if (!list)
        return false;
    for (size_t i = 0; i < dict->count; i++) {
        if (what == 'i') {
            struct list *pair = list_pair(run, dict->pairs[i].key, dict->pairs[i].value);
            if (!pair)
                return false;
            list->items[i] = value_list(pair);
        } else {
            list->items[i] = what == 'k' ? dict->pairs[i].key : dict->pairs[i].value;
        }
    }
    *result = value_list(list);
    return true;
}

static bool dict_get_method(struct run *run, struct call *call, struct value *result)
{
    struct value *found;

    if (!dict_get(run, call->input.dict, call->arg[0], &found))
        return false;
    *result = found ? *found : arg_is_given(call, 1) ? call->arg[1] : value_none();
    return true;
}

/* Values do not change, so a copy is the value. */
static bool copy_method(struct run *run, struct call *call, struct value *result)
{
    *result = call->input;
    return true;
}

static const struct builtin dict_methods[] = {
    {"get", dict_get_method, "key default?"},
    {"items", dict_view, ""},
    {"keys", dict_view, ""},
    {"values", dict_view, ""},
    {"copy", copy_method, ""},
};
const struct builtin_table jinja_dict_methods = {dict_methods, sizeof dict_methods / sizeof *dict_methods};

/* list and tuple */

static bool list_find(struct run *run, struct call *call, struct value *result)
{
    const struct list *list = call->input.list;
    bool counts = call->builtin->name[0] == 'c', is_equal;
    int64_t count = 0;

    for (size_t i = 0; i < list->count; i++) {
        if (!value_equal(run, list->items[i], call->arg[0], &is_equal))
            return false;
        count += is_equal;
        if (is_equal && !counts) {
            *result = value_int((int64_t)i);
            return true;
        }
    }
    *result = value_int(count);
    return (counts || run_fail(run, "the value is not in the list")) && run_charge(run, list->count / 16);
}

static const struct builtin list_methods[] = {
    {"index", list_find, "value"},
    {"count", list_find, "value"},
    {"copy", copy_method, ""},
};
const struct builtin_table jinja_list_methods = {list_methods, sizeof list_methods / sizeof *list_methods};

bool builtin_is_unsafe(struct value object, struct str name)
{
    static const char *const of_list[] = {"append", "clear",   "extend", "insert", "pop",
                                          "remove", "reverse", "sort",   NULL};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    const char *const *names = object.type == VALUE_DICT ? of_dict : value_is_list(object, LIST_LIST) ? of_list : NULL;

    for (; names && *names; names++)
        if (str_is(name, *names))
            return true;
    return false;
}
