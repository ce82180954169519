#include "http/lines.h"

#include <string.h>
#include <strings.h>

enum line_result line_next(struct line_scan *scan, struct str bytes, struct str *line)
{
    for (; scan->at < bytes.len; scan->at++) {
        char c = bytes.at[scan->at];
        bool is_after_cr = scan->at > scan->line_start && bytes.at[scan->at - 1] == '\r';

        if (is_after_cr != (c == '\n'))
            return LINE_BAD;
        if (c != '\n')
            continue;
        *line = str_slice(bytes, scan->line_start, scan->at - 1);
        scan->line_start = ++scan->at;
        return LINE_READY;
    }
    return LINE_MORE;
}

bool is_token_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != 0 && strchr("!#$%&'*+-.^_`|~", c));
}

bool is_token(struct str text)
{
    for (size_t i = 0; i < text.len; i++)
        if (!is_token_char(text.at[i]))
            return false;
    return text.len > 0;
}

bool is_value_char(char c)
{
    return ((unsigned char)c >= 0x20 && c != 0x7f) || c == '\t';
}

bool str_equal_nocase(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || strncasecmp(a.at, b.at, a.len) == 0);
}

static struct str trim_blanks(struct str s)
{
    while (s.len > 0 && (s.at[0] == ' ' || s.at[0] == '\t'))
        s = str_slice(s, 1, s.len);
    while (s.len > 0 && (s.at[s.len - 1] == ' ' || s.at[s.len - 1] == '\t'))
        s.len--;
    return s;
}

bool header_parse(struct str line, struct http_header *header, struct err *err)
{
    ptrdiff_t colon = str_find(line, STR(":"), 0);

    if (line.len > 0 && (line.at[0] == ' ' || line.at[0] == '\t'))
        return err_set(err, ERR_INPUT, "a header line is folded");
    if (colon < 0)
        return err_set(err, ERR_INPUT, "a header line has no colon");
    header->name = str_slice(line, 0, (size_t)colon);
    if (!is_token(header->name))
        return err_set(err, ERR_INPUT, "a header's name is empty or holds a character that names cannot have");
    header->value = trim_blanks(str_slice(line, (size_t)colon + 1, line.len));
    for (size_t i = 0; i < header->value.len; i++)
        if (!is_value_char(header->value.at[i]))
            return err_set(err, ERR_INPUT, "the value of header %.*s holds a control character",
                           STR_ARG(str_slice(header->name, 0, 64)));
    return true;
}

/* rest begins behind the opening quote; afterwards behind the closing one. */
static bool quoted_value(struct arena *arena, struct str *rest, struct str *value, struct err *err)
{
    char *out = arena_alloc(arena, rest->len + 1);
    size_t len = 0;

    for (size_t i = 0; i < rest->len; i++) {
        char c = rest->at[i];
        if (c == '"') {
            *value = (struct str){out, len};
            *rest = str_slice(*rest, i + 1, rest->len);
            return true;
        }
        if (c == '\\' && i + 1 < rest->len && (rest->at[i + 1] == '"' || rest->at[i + 1] == '\\'))
            c = rest->at[++i];
        out[len++] = c;
    }
    return err_set(err, ERR_INPUT, "a quoted parameter is not closed");
}

static struct str take_token(struct str *rest)
{
    size_t len = 0;
    struct str token;

    while (len < rest->len && is_token_char(rest->at[len]))
        len++;
    token = str_slice(*rest, 0, len);
    *rest = str_slice(*rest, len, rest->len);
    return token;
}

bool parameter_next(struct arena *arena, struct str *rest, struct str *name, struct str *value, bool *is_end,
                    struct err *err)
{
    *rest = trim_blanks(*rest);
    *is_end = rest->len == 0;
    if (*is_end)
        return true;
    if (rest->at[0] != ';')
        return err_set(err, ERR_INPUT, "a parameter is followed by something other than a semicolon");
    *rest = trim_blanks(str_slice(*rest, 1, rest->len));
    *is_end = rest->len == 0; /* a last semicolon without a parameter is harmless */
    if (*is_end)
        return true;
    *name = take_token(rest);
    if (name->len == 0 || rest->len == 0 || rest->at[0] != '=')
        return err_set(err, ERR_INPUT, "a parameter is not written as name=value");
    *rest = str_slice(*rest, 1, rest->len);
    if (rest->len > 0 && rest->at[0] == '"') {
        *rest = str_slice(*rest, 1, rest->len);
        return quoted_value(arena, rest, value, err);
    }
    *value = take_token(rest);
    if (value->len == 0)
        return err_set(err, ERR_INPUT, "the parameter %.*s has no value", STR_ARG(str_slice(*name, 0, 64)));
    return true;
}
