#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { DEPTH_DEFAULT = 64, DEPTH_MAX = 1024, PAIRS_MAX = 8 };

struct level {
    struct json *parent, *last;
};

struct reader {
    struct arena *arena;
    const char *start, *at, *end;
    struct json_limits limits;
    struct level *levels;
    struct json *chunk; /* nodes are taken from runs: one arena call for many */
    uint32_t chunk_left;
    struct err *err;
};

static bool fail(struct reader *r, const char *at, const char *what)
{
    size_t line = 1, column = 1;

    for (const char *p = r->start; p < at; p++) {
        column++;
        if (*p == '\n') {
            line++;
            column = 1;
        }
    }
    return err_set(r->err, ERR_INPUT, "JSON, line %zu column %zu: %s", line, column, what);
}

static struct json *new_node(struct reader *r)
{
    if (r->chunk_left == 0) {
        r->chunk_left = r->end - r->at > 4096 ? 256 : 8;
        r->chunk = arena_new_array(r->arena, struct json, r->chunk_left);
    }
    r->chunk_left--;
    return r->chunk++;
}

static void skip_space(struct reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t'))
        r->at++;
}

#ifdef __SSE2__
enum { STRIDE = 16 };

/* How many of the sixteen bytes come before the first quote, backslash, control character or byte past ASCII. */
static size_t plain_bytes(const char *at)
{
    __m128i v = _mm_loadu_si128((const __m128i *)at);
    __m128i stops = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
    __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);
    unsigned mask = (unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(stops, control), v));

    return mask ? (size_t)__builtin_ctz(mask) : STRIDE;
}
#else
enum { STRIDE = 8 };

/* The same of eight bytes, but less precise: 0 or 8. Bytes past 0x7f may give false alarms, never misses: the caller
 * looks closer one by one. */
static size_t plain_bytes(const char *at)
{
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    uint64_t v, quote, backslash;

    memcpy(&v, at, 8);
    quote = v ^ (ones * '"');
    backslash = v ^ (ones * '\\');
    return (((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) | (v - ones * 0x20) | v) & highs ? 0 : STRIDE;
}
#endif

static bool read_hex4(struct reader *r, const char *at, uint32_t *value)
{
    *value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = at + i < r->end ? hex_value(at[i]) : -1;
        if (digit < 0)
            return fail(r, at, "\\u needs four hexadecimal digits");
        *value = *value << 4 | (uint32_t)digit;
    }
    return true;
}

/* r->at is behind the backslash. Appends the decoded character at *out. */
static bool read_escape(struct reader *r, char **out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *start = r->at - 1, *found;
    uint32_t codepoint, low;

    if (r->at == r->end)
        return fail(r, start, "the string ends inside an escape");
    if (*r->at != 'u') {
        found = *r->at ? strchr(from, *r->at) : NULL;
        if (!found)
            return fail(r, start, "unknown escape in a string");
        *(*out)++ = to[found - from];
        r->at++;
        return true;
    }
    if (!read_hex4(r, r->at + 1, &codepoint))
        return false;
    r->at += 5;
    if (codepoint >= 0xdc00 && codepoint <= 0xdfff)
        return fail(r, start, "a low surrogate without a high one before it");
    if (codepoint >= 0xd800 && codepoint <= 0xdbff) {
        if (r->end - r->at < 6 || r->at[0] != '\\' || r->at[1] != 'u')
            return fail(r, start, "a high surrogate without a low one behind it");
        if (!read_hex4(r, r->at + 2, &low))
            return false;
        if (low < 0xdc00 || low > 0xdfff)
            return fail(r, start, "a high surrogate without a low one behind it");
        r->at += 6;
        codepoint = 0x10000 + ((codepoint - 0xd800) << 10) + (low - 0xdc00);
    }
    *out += utf8_encode(codepoint, *out);
    return true;
}

/* r->at is behind the opening quote. Runs over plain characters; stops at a quote or a backslash. */
static bool skip_plain(struct reader *r)
{
    for (;;) {
        unsigned char c;
        for (size_t plain = STRIDE; plain == STRIDE && r->end - r->at >= STRIDE; r->at += plain)
            plain = plain_bytes(r->at);
        if (r->at == r->end)
            return fail(r, r->at, "the string does not end");
        c = (unsigned char)*r->at;
        if (c == '"' || c == '\\')
            return true;
        if (c < 0x20)
            return fail(r, r->at, "a control character in a string must be escaped");
        if (c < 0x80) {
            r->at++;
        } else {
            uint32_t codepoint;
            size_t len = utf8_decode((struct str){r->at, (size_t)(r->end - r->at)}, &codepoint);
            if (len == 0)
                return fail(r, r->at, "not valid UTF-8");
            r->at += len;
        }
    }
}

/* Decodes a string with escapes: `start` is behind the opening quote, r->at at the first backslash. */
static bool read_escaped(struct reader *r, const char *start, struct str *string)
{
    const char *close = r->at;
    char *decoded, *out;

    while (close < r->end && *close != '"') /* the closing quote bounds the decoded length */
        close += *close == '\\' ? 2 : 1;
    if (close >= r->end)
        return fail(r, r->end, "the string does not end");
    out = decoded = arena_alloc(r->arena, (size_t)(close - start) + 1);
    for (;;) {
        memcpy(out, start, (size_t)(r->at - start));
        out += r->at - start;
        if (*r->at == '"')
            break;
        r->at++;
        if (!read_escape(r, &out))
            return false;
        start = r->at;
        if (!skip_plain(r))
            return false;
    }
    *string = (struct str){decoded, (size_t)(out - decoded)};
    return true;
}

static bool read_string(struct reader *r, struct str *string)
{
    const char *start = ++r->at;

    if (!skip_plain(r))
        return false;
    if (*r->at == '"')
        *string = (struct str){start, (size_t)(r->at - start)};
    else if (!read_escaped(r, start, string))
        return false;
    r->at++;
    if (r->limits.string_bytes && string->len > r->limits.string_bytes)
        return fail(r, start, "the string is longer than allowed here");
    return true;
}

static bool skip_digits(struct reader *r)
{
    const char *start = r->at;

    while (r->at < r->end && *r->at >= '0' && *r->at <= '9')
        r->at++;
    return r->at > start;
}

/* Text of a number to its value. Up to 15 digits and small powers of ten are exact in double arithmetic;
 * everything else goes to strtod, which is correctly rounded. */
static double number_of(struct str text)
{
    char small[64];
    char *copy = text.len < sizeof small ? small : mem_alloc(text.len + 1);
    double value;

    memcpy(copy, text.at, text.len);
    copy[text.len] = 0;
    value = strtod(copy, NULL);
    if (copy != small)
        free(copy);
    return value;
}

static bool read_number(struct reader *r, struct json *node)
{
    const char *start = r->at;
    bool is_plain = true;

    if (*r->at == '-')
        r->at++;
    if (r->at < r->end && *r->at == '0')
        r->at++;
    else if (!skip_digits(r))
        return fail(r, start, "a number needs a digit here");
    if (r->at < r->end && *r->at == '.') {
        is_plain = false;
        r->at++;
        if (!skip_digits(r))
            return fail(r, r->at, "a fraction needs a digit");
    }
    if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
        is_plain = false;
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-'))
            r->at++;
        if (!skip_digits(r))
            return fail(r, r->at, "an exponent needs a digit");
    }
    node->type = JSON_NUMBER;
    node->string = (struct str){start, (size_t)(r->at - start)};
    if (is_plain && str_to_i64(node->string, &node->integer))
        node->is_integer = true;
    else
        node->number = number_of(node->string);
    return true;
}

static bool read_word(struct reader *r, struct json *node)
{
    static const struct {
        struct str text;
        enum json_type type;
        bool boolean;
    } words[] = {
        {{"true", 4}, JSON_BOOL, true},
        {{"false", 5}, JSON_BOOL, false},
        {{"null", 4}, JSON_NULL, false},
    };

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        struct str rest = {r->at, (size_t)(r->end - r->at)};
        if (str_starts(rest, words[i].text)) {
            node->type = (uint8_t)words[i].type;
            node->boolean = words[i].boolean;
            r->at += words[i].text.len;
            return true;
        }
    }
    return fail(r, r->at, "expected a value");
}

static bool read_scalar(struct reader *r, struct json *node)
{
    if (*r->at == '"') {
        node->type = JSON_STRING;
        node->raw = r->at + 1;
        return read_string(r, &node->string);
    }
    if (*r->at == '-' || (*r->at >= '0' && *r->at <= '9'))
        return read_number(r, node);
    return read_word(r, node);
}

static bool read_key(struct reader *r, struct str *key)
{
    skip_space(r);
    if (r->at == r->end || *r->at != '"')
        return fail(r, r->at, "expected a member name in double quotes");
    if (!read_string(r, key))
        return false;
    skip_space(r);
    if (r->at == r->end || *r->at != ':')
        return fail(r, r->at, "expected ':' behind the member name");
    r->at++;
    return true;
}

/* One value of any kind. Levels are an explicit stack, so depth costs no C stack. */
static struct json *read_tree(struct reader *r)
{
    struct json *root = NULL;
    uint32_t depth = 0;
    struct str key = STR_NONE;

    for (;;) {
        struct json *node;
        bool opened = false;

        skip_space(r);
        if (r->at == r->end)
            return fail(r, r->at, "expected a value, found the end"), NULL;
        node = new_node(r);
        node->key = key;
        if (depth == 0) {
            root = node;
        } else {
            struct level *level = &r->levels[depth - 1];
            if (level->last)
                level->last->next = node;
            else
                level->parent->first = node;
            level->last = node;
            level->parent->count++;
            if (r->limits.members && level->parent->count > r->limits.members)
                return fail(r, r->at, "more members than allowed here"), NULL;
        }
        if (*r->at == '{' || *r->at == '[') {
            node->type = *r->at == '{' ? JSON_OBJECT : JSON_ARRAY;
            if (depth == r->limits.depth)
                return fail(r, r->at, "nested too deeply"), NULL;
            r->levels[depth++] = (struct level){.parent = node};
            r->at++;
            opened = true;
        } else if (!read_scalar(r, node)) {
            return NULL;
        }
        /* Close what ends here, then find the next value's place. */
        for (;;) {
            struct json *parent;
            char close;

            if (depth == 0)
                return root;
            parent = r->levels[depth - 1].parent;
            close = parent->type == JSON_OBJECT ? '}' : ']';
            skip_space(r);
            if (r->at == r->end)
                return fail(r, r->at, "the text ends before everything is closed"), NULL;
            if (*r->at == close) {
                r->at++;
                depth--;
                opened = false;
                continue;
            }
            if (!opened) {
                if (*r->at != ',')
                    return fail(r, r->at, parent->type == JSON_OBJECT ? "expected ',' or '}'" : "expected ',' or ']'"),
                           NULL;
                r->at++;
            }
            key = STR_NONE;
            if (parent->type == JSON_OBJECT && !read_key(r, &key))
                return NULL;
            break;
        }
    }
}

struct json *json_parse(struct arena *arena, struct str text, const struct json_limits *limits, struct err *err)
{
    struct level levels[DEPTH_DEFAULT];
    struct reader r = {.arena = arena, .start = text.at, .at = text.at, .end = text.at + text.len, .err = err};
    struct json *root;

    if (limits)
        r.limits = *limits;
    if (r.limits.depth == 0)
        r.limits.depth = DEPTH_DEFAULT;
    ASSERT(r.limits.depth <= DEPTH_MAX);
    r.levels = r.limits.depth <= DEPTH_DEFAULT ? levels : arena_new_array(arena, struct level, r.limits.depth);
    root = read_tree(&r);
    if (!root)
        return NULL;
    skip_space(&r);
    if (r.at != r.end)
        return fail(&r, r.at, "more text behind the value"), NULL;
    return root;
}

struct json *json_find(const struct json *object, struct str name)
{
    struct json *found = NULL;

    if (!json_has_type(object, JSON_OBJECT))
        return NULL;
    json_each(member, object)
        if (str_equal(member->key, name))
            found = member;
    return found;
}

struct json *json_at(const struct json *array, size_t index)
{
    json_each(item, array)
        if (index-- == 0)
            return item;
    return NULL;
}

static int compare_keys(const void *a, const void *b)
{
    return str_compare((*(struct json *const *)a)->key, (*(struct json *const *)b)->key);
}

static struct str duplicate_of_few(const struct json *object)
{
    json_each(member, object)
        for (const struct json *before = object->first; before != member; before = before->next)
            if (str_equal(before->key, member->key))
                return member->key;
    return STR_NONE;
}

struct str json_duplicate(const struct json *object)
{
    struct json **members;
    struct str found = STR_NONE;
    size_t count = 0;

    if (!json_has_type(object, JSON_OBJECT) || object->count < 2)
        return found;
    if (object->count <= PAIRS_MAX)
        return duplicate_of_few(object);
    members = mem_alloc(object->count * sizeof(struct json *));
    json_each(member, object)
        members[count++] = member;
    qsort(members, count, sizeof *members, compare_keys);
    for (size_t i = 1; i < count && !found.at; i++)
        if (str_equal(members[i - 1]->key, members[i]->key))
            found = members[i]->key;
    free(members);
    return found;
}

bool json_is_null(const struct json *value)
{
    return !value || value->type == JSON_NULL;
}

const char *json_type_name(const struct json *value)
{
    static const char *const names[] = {"null", "a boolean", "a number", "a string", "an array", "an object"};

    return value ? names[value->type] : "nothing";
}

struct str json_string_raw(const struct json *value)
{
    const char *end = value->raw;

    while (*end != '"')
        end += *end == '\\' ? 2 : 1;
    return (struct str){value->raw, (size_t)(end - value->raw)};
}

struct str json_string_or(const struct json *value, struct str fallback)
{
    return json_has_type(value, JSON_STRING) ? value->string : fallback;
}

double json_number(const struct json *value)
{
    return value->is_integer ? (double)value->integer : value->number;
}

static bool has_same_value(const struct json *a, const struct json *b)
{
    switch (a->type) {
    case JSON_BOOL:
        return a->boolean == b->boolean;
    case JSON_NUMBER:
        return a->is_integer && b->is_integer ? a->integer == b->integer : json_number(a) == json_number(b);
    case JSON_STRING:
        return str_equal(a->string, b->string);
    default:
        return a->type == JSON_NULL || a->count == b->count;
    }
}

bool json_equal(const struct json *a, const struct json *b)
{
    const struct json *y;

    if (a->type != b->type || !has_same_value(a, b))
        return false;
    if (a->type != JSON_ARRAY && a->type != JSON_OBJECT)
        return true;
    y = b->first;
    json_each(x, a) {
        if ((a->type == JSON_OBJECT && !str_equal(x->key, y->key)) || !json_equal(x, y))
            return false;
        y = y->next;
    }
    return true;
}

double json_number_or(const struct json *value, double fallback)
{
    return json_has_type(value, JSON_NUMBER) ? json_number(value) : fallback;
}

int64_t json_integer_or(const struct json *value, int64_t fallback)
{
    return json_has_type(value, JSON_NUMBER) && value->is_integer ? value->integer : fallback;
}

bool json_bool_or(const struct json *value, bool fallback)
{
    return json_has_type(value, JSON_BOOL) ? value->boolean : fallback;
}
