/* The reader accepts exactly what a plain recursive one accepts, and what was written from a tree reads as the same
 * tree. */
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 64 };

static bool skip(const char **at, const char *text)
{
    size_t len = strlen(text);
    bool is_there = strncmp(*at, text, len) == 0;

    *at += is_there ? len : 0;
    return is_there;
}

static void skip_space(const char **at)
{
    *at += strspn(*at, " \t\r\n");
}

static bool skip_digits(const char **at)
{
    size_t count = strspn(*at, "0123456789");

    *at += count;
    return count > 0;
}

static bool is_number(const char **at)
{
    skip(at, "-");
    if (!skip(at, "0") && !skip_digits(at))
        return false;
    if (skip(at, ".") && !skip_digits(at))
        return false;
    if (!skip(at, "e") && !skip(at, "E"))
        return true;
    if (!skip(at, "+"))
        skip(at, "-");
    return skip_digits(at);
}

/* Behind "\u": a code unit, or 0x10000 when four digits are not there. */
static unsigned unit(const char **at)
{
    char digits[5] = {0};

    strncpy(digits, *at, 4);
    if (strspn(digits, "0123456789abcdefABCDEF") != 4)
        return 0x10000;
    *at += 4;
    return (unsigned)strtoul(digits, NULL, 16);
}

static bool is_string(const char **at)
{
    if (!skip(at, "\""))
        return false;
    while (**at != '"') {
        if ((unsigned char)**at < 0x20)
            return false;
        if (!skip(at, "\\"))
            (*at)++;
        else if (skip(at, "u")) {
            unsigned first = unit(at);
            if (first > 0xffff || (first >= 0xdc00 && first < 0xe000))
                return false;
            if (first >= 0xd800 && first < 0xdc00 &&
                (!skip(at, "\\u") || (first = unit(at)) < 0xdc00 || first > 0xdfff))
                return false;
        } else if (!**at || !strchr("\"\\/bfnrt", *(*at)++))
            return false;
    }
    return skip(at, "\"");
}

static bool is_value(const char **at, int depth);

static bool is_list(const char **at, int depth, bool is_object)
{
    const char *close = is_object ? "}" : "]";

    skip_space(at);
    if (depth == DEPTH_MAX)
        return false;
    if (skip(at, close))
        return true;
    do {
        skip_space(at);
        if (is_object && !is_string(at))
            return false;
        skip_space(at);
        if (is_object && !skip(at, ":"))
            return false;
        if (!is_value(at, depth + 1))
            return false;
    } while (skip(at, ","));
    return skip(at, close);
}

static bool is_value(const char **at, int depth)
{
    bool ok;

    skip_space(at);
    if (skip(at, "{"))
        ok = is_list(at, depth, true);
    else if (skip(at, "["))
        ok = is_list(at, depth, false);
    else if (**at == '"')
        ok = is_string(at);
    else
        ok = skip(at, "true") || skip(at, "false") || skip(at, "null") || is_number(at);
    skip_space(at);
    return ok;
}

static bool same(const struct json *a, const struct json *b)
{
    bool has_text = a->type == JSON_STRING || a->type == JSON_NUMBER;

    if (a->type != b->type || a->boolean != b->boolean || a->is_integer != b->is_integer || a->count != b->count ||
        !str_equal(a->key, b->key) || (has_text && !str_equal(a->string, b->string)))
        return false;
    if (a->type == JSON_NUMBER && memcmp(&a->number, &b->number, sizeof a->number) != 0)
        return false;
    for (const struct json *x = has_text ? NULL : a->first, *y = has_text ? NULL : b->first; x;
         x = x->next, y = y->next)
        if (!same(x, y))
            return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct str text = {(const char *)data, size};
    const char *plain = str_copy(&arena, text);
    struct json *root = json_parse(&arena, text, NULL, NULL), *again;
    bool is_accepted = is_value(&plain, 0) && !*plain && !memchr(data, 0, size) && utf8_is_valid(text);

    ASSERT((root != NULL) == is_accepted);
    for (int way = 0; root && way < 3; way++) {
        struct strbuf out = {0};
        struct json_writer writer = {.buf = &out, .indent = way == 1 ? 2 : 0, .ascii = way == 2};
        json_write_value(&writer, root);
        again = json_parse(&arena, strbuf_view(&out), NULL, NULL);
        ASSERT(again && same(root, again));
        strbuf_deinit(&out);
    }
    arena_deinit(&arena);
    return 0;
}
