/* base/json.h - strict JSON (RFC 8259), read into an arena and written into a buffer.
 *
 * Reading: json_parse turns bytes into a tree of nodes in the caller's arena. It accepts exactly the
 * grammar (no comments, no NaN, no trailing comma, no lone surrogate, valid UTF-8 only), to a depth of
 * limits.depth, without recursion. Strings without escapes are views into the input, so the input must live
 * as long as the tree; others are decoded into the arena and may hold NUL. Members keep their order;
 * duplicate keys are kept too, json_get finds the last, and json_duplicate names one for callers that refuse
 * them. Numbers keep their text; integers that fit are exact in `integer`.
 *
 * Errors carry line and column (both from 1) of the offending byte.
 *
 * Writing: a struct json_writer appends to a strbuf and places commas by itself. */
#pragma once

#include "base/err.h"
#include "base/str.h"

enum json_type { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
    uint8_t type;       /* enum json_type */
    bool boolean;       /* JSON_BOOL */
    bool is_integer;    /* JSON_NUMBER written without fraction and exponent that fits int64_t */
    uint32_t count;     /* items of an array, members of an object */
    struct str key;     /* name, when the parent is an object */
    union {
        struct str string; /* JSON_STRING: content; JSON_NUMBER: its text */
        struct json *first;
    };
    union {
        int64_t integer;
        double number;  /* JSON_NUMBER that is not is_integer */
        const char *raw; /* JSON_STRING: where its text begins in the input, behind the quote */
    };
    struct json *next;  /* sibling */
};

struct json_limits {
    uint32_t depth;       /* 0: 64 */
    uint32_t members;     /* per object; 0: no limit */
    size_t string_bytes;  /* per string; 0: no limit */
};

/* Parses the whole input (white space around is allowed). NULL with err set on failure. */
struct json *json_parse(struct arena *arena, struct str text, const struct json_limits *limits, struct err *err);

/* NULL when `object` is NULL, is not an object or lacks the member. */
struct json *json_find(const struct json *object, struct str key);
static inline struct json *json_get(const struct json *object, const char *key)
{
    return json_find(object, str_of(key));
}
struct json *json_at(const struct json *array, size_t index);
/* Name of a member that occurs twice at this level, or an empty view. */
struct str json_duplicate(const struct json *object);

bool json_is_null(const struct json *value); /* absent (C NULL) or JSON null */
const char *json_type_name(const struct json *value); /* "an object", "a number", … for messages */
/* Both are false when value is absent (C NULL). */
static inline bool json_has_type(const struct json *value, enum json_type type)
{
    return value && value->type == type;
}
static inline bool json_is(const struct json *value, const char *text) /* a string, and this one */
{
    return json_has_type(value, JSON_STRING) && str_is(value->string, text);
}
/* Same type and value; numbers by value, objects with the same members in the same order. */
bool json_equal(const struct json *a, const struct json *b);
/* Value or the fallback when absent, null or of another type. */
struct str json_string_or(const struct json *value, struct str fallback);
double json_number_or(const struct json *value, double fallback);
int64_t json_integer_or(const struct json *value, int64_t fallback);
bool json_bool_or(const struct json *value, bool fallback);
/* The text of a string as it stands in the input, escapes and all. */
struct str json_string_raw(const struct json *value);
/* Number of any spelling as double. value must be JSON_NUMBER. */
double json_number(const struct json *value);

/* The first item of an array or member of an object; NULL when there is none, or `parent` is neither or NULL. */
static inline struct json *json_first(const struct json *parent)
{
    return json_has_type(parent, JSON_ARRAY) || json_has_type(parent, JSON_OBJECT) ? parent->first : NULL;
}
/* json_each(item, parent) { … } */
#define json_each(item, parent) for (struct json *item = json_first(parent); item; item = item->next)

struct json_writer {
    struct strbuf *buf;
    bool need_comma;
    int indent;      /* spaces per level, 0 for one line */
    int depth;
    bool ascii;      /* escape everything past U+007F */
};

void json_write_begin_object(struct json_writer *writer);
void json_write_end_object(struct json_writer *writer);
void json_write_begin_array(struct json_writer *writer);
void json_write_end_array(struct json_writer *writer);
void json_write_key(struct json_writer *writer, const char *key);
void json_write_key_str(struct json_writer *writer, struct str key);
void json_write_string(struct json_writer *writer, struct str text);
void json_write_text(struct json_writer *writer, const char *text); /* NULL writes null */
void json_write_integer(struct json_writer *writer, int64_t value);
void json_write_number(struct json_writer *writer, double value); /* shortest that reads back; null if not finite */
void json_write_bool(struct json_writer *writer, bool value);
void json_write_null(struct json_writer *writer);
void json_write_raw(struct json_writer *writer, struct str json); /* already JSON */
void json_write_value(struct json_writer *writer, const struct json *value);

/* key and value in one call */
#define json_put_text(w, k, v)    (json_write_key((w), (k)), json_write_text((w), (v)))
#define json_put_str(w, k, v)     (json_write_key((w), (k)), json_write_string((w), (v)))
#define json_put_integer(w, k, v) (json_write_key((w), (k)), json_write_integer((w), (v)))
#define json_put_number(w, k, v)  (json_write_key((w), (k)), json_write_number((w), (v)))
#define json_put_bool(w, k, v)    (json_write_key((w), (k)), json_write_bool((w), (v)))
#define json_put_null(w, k)       (json_write_key((w), (k)), json_write_null((w)))
#define json_put_value(w, k, v)   (json_write_key((w), (k)), json_write_value((w), (v)))

/* Shortest decimal text that reads back as the same double (like Python's repr without its ".0"). */
size_t json_format_number(double value, char out[32]);
