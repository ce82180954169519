#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void new_line(struct json_writer *w)
{
    if (!w->indent)
        return;
    strbuf_add_char(w->buf, '\n');
    for (int i = 0; i < w->indent * w->depth; i++)
        strbuf_add_char(w->buf, ' ');
}

static void before_value(struct json_writer *w)
{
    if (w->need_comma) {
        strbuf_add_text(w->buf, w->indent ? "," : ", ");
        new_line(w);
    }
    w->need_comma = true;
}

static void begin(struct json_writer *w, char open)
{
    before_value(w);
    strbuf_add_char(w->buf, open);
    w->depth++;
    w->need_comma = false;
}

static void end(struct json_writer *w, char close)
{
    char last = w->buf->at[w->buf->len - 1];

    w->depth--;
    if (w->need_comma || (last != '{' && last != '['))
        new_line(w);
    strbuf_add_char(w->buf, close);
    w->need_comma = true;
}

/* The first value of a level goes onto a line of its own when there is an indent. */
static void open_line(struct json_writer *w)
{
    if (!w->need_comma && w->depth > 0 && w->indent) {
        char last = w->buf->at[w->buf->len - 1];
        if (last == '{' || last == '[')
            new_line(w);
    }
}

void json_write_begin_object(struct json_writer *w)
{
    open_line(w);
    begin(w, '{');
}

void json_write_end_object(struct json_writer *w)
{
    end(w, '}');
}

void json_write_begin_array(struct json_writer *w)
{
    open_line(w);
    begin(w, '[');
}

void json_write_end_array(struct json_writer *w)
{
    end(w, ']');
}

static void add_quoted(struct json_writer *w, struct str text)
{
    size_t plain = 0;

    strbuf_add_char(w->buf, '"');
    for (size_t i = 0; i < text.len;) {
        unsigned char c = (unsigned char)text.at[i];
        uint32_t codepoint = c;
        size_t len = 1;
        if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x80 || !w->ascii)) {
            i++;
            continue;
        }
        strbuf_add(w->buf, text.at + plain, i - plain);
        if (c >= 0x80) {
            len = utf8_decode(str_slice(text, i, text.len), &codepoint);
            if (len == 0) {
                len = 1;
                codepoint = 0xfffd;
            }
        }
        if (codepoint == '"' || codepoint == '\\')
            strbuf_printf(w->buf, "\\%c", (int)codepoint);
        else if (codepoint == '\n')
            strbuf_add_text(w->buf, "\\n");
        else if (codepoint == '\r')
            strbuf_add_text(w->buf, "\\r");
        else if (codepoint == '\t')
            strbuf_add_text(w->buf, "\\t");
        else if (codepoint == '\b')
            strbuf_add_text(w->buf, "\\b");
        else if (codepoint == '\f')
            strbuf_add_text(w->buf, "\\f");
        else if (codepoint < 0x10000)
            strbuf_printf(w->buf, "\\u%04x", codepoint);
        else
            strbuf_printf(w->buf, "\\u%04x\\u%04x", 0xd800 + ((codepoint - 0x10000) >> 10),
                          0xdc00 + ((codepoint - 0x10000) & 0x3ff));
        i += len;
        plain = i;
    }
    strbuf_add(w->buf, text.at + plain, text.len - plain);
    strbuf_add_char(w->buf, '"');
}

void json_write_key_str(struct json_writer *w, struct str key)
{
    open_line(w);
    before_value(w);
    add_quoted(w, key);
    strbuf_add_text(w->buf, ": ");
    w->need_comma = false;
}

void json_write_key(struct json_writer *w, const char *key)
{
    json_write_key_str(w, str_of(key));
}

void json_write_string(struct json_writer *w, struct str text)
{
    open_line(w);
    before_value(w);
    add_quoted(w, text);
}

void json_write_raw(struct json_writer *w, struct str json)
{
    open_line(w);
    before_value(w);
    strbuf_add_str(w->buf, json);
}

void json_write_text(struct json_writer *w, const char *text)
{
    if (text)
        json_write_string(w, str_of(text));
    else
        json_write_null(w);
}

void json_write_integer(struct json_writer *w, int64_t value)
{
    char text[32];

    json_write_raw(w, (struct str){text, (size_t)snprintf(text, sizeof text, "%lld", (long long)value)});
}

size_t json_format_number(double value, char out[32])
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, value);
        if (strtod(out, NULL) == value)
            break;
    }
    return strlen(out);
}

void json_write_number(struct json_writer *w, double value)
{
    char text[32];

    if (!isfinite(value))
        json_write_null(w);
    else
        json_write_raw(w, (struct str){text, json_format_number(value, text)});
}

void json_write_bool(struct json_writer *w, bool value)
{
    json_write_raw(w, value ? STR("true") : STR("false"));
}

void json_write_null(struct json_writer *w)
{
    json_write_raw(w, STR("null"));
}

/* Depth is bounded by the reader that made the tree. */
void json_write_value(struct json_writer *w, const struct json *value)
{
    if (!value || value->type == JSON_NULL) {
        json_write_null(w);
    } else if (value->type == JSON_BOOL) {
        json_write_bool(w, value->boolean);
    } else if (value->type == JSON_NUMBER) {
        json_write_raw(w, value->string);
    } else if (value->type == JSON_STRING) {
        json_write_string(w, value->string);
    } else if (value->type == JSON_ARRAY) {
        json_write_begin_array(w);
        json_each(item, value)
            json_write_value(w, item);
        json_write_end_array(w);
    } else {
        json_write_begin_object(w);
        json_each(member, value) {
            json_write_key_str(w, member->key);
            json_write_value(w, member);
        }
        json_write_end_object(w);
    }
}
