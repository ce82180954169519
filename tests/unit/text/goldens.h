/* tests/unit/text/goldens.h - records of the reference library: {tokenizer, text, add_special_tokens, ids, decoded}. */
#pragma once

#include "test.h"

#include "base/json.h"
#include "os/file.h"
#include "text/tokenizer.h"

#include <string.h>

struct family {
    const char *name;
    struct tokenizer *tok;
    struct tokenizer_scratch *scratch;
};

static inline void close_family(struct family *family)
{
    tokenizer_scratch_free(family->scratch);
    tokenizer_free(family->tok);
}

/* The spans of neighbours never go back, and lie in the text. */
static inline void check_spans(const struct token_list *list, struct str text)
{
    uint32_t start = 0;

    for (size_t i = 0; i < list->count; i++) {
        assert_true(list->spans[i].start >= start);
        assert_true(list->spans[i].end >= list->spans[i].start);
        assert_true(list->spans[i].end <= text.len);
        start = list->spans[i].start;
    }
}

static inline void check_ids(const struct family *family, struct str text, const struct token_list *got,
                             const int32_t *want, size_t count)
{
    for (size_t i = 0; i < count || i < got->count; i++)
        if (i >= count || i >= got->count || got->ids[i] != want[i])
            fail_msg("%s: token %zu of \"%.*s\" is %d, expected %d (%zu tokens, expected %zu)", family->name, i,
                     STR_ARG(text), i < got->count ? got->ids[i] : -1, i < count ? want[i] : -1, got->count, count);
}

static inline void check_stream(const struct family *family, const struct token_list *list, bool skip_special,
                         struct str decoded)
{
    struct tokenizer_stream stream;
    struct strbuf out = {0};

    tokenizer_stream_init(&stream, family->tok, skip_special);
    for (size_t i = 0; i < list->count; i++) {
        tokenizer_stream_push(&stream, list->ids[i], &out);
        assert_true(utf8_is_valid(strbuf_view(&out)));
    }
    tokenizer_stream_finish(&stream, &out);
    if (!str_equal(strbuf_view(&out), decoded))
        fail_msg("%s: streamed \"%.*s\", expected \"%.*s\"", family->name, STR_ARG(strbuf_view(&out)),
                 STR_ARG(decoded));
    strbuf_deinit(&out);
}

/* skip_special: records with added special tokens were decoded without them. */
static inline void check_record(const struct family *family, const struct json *record, bool skip_special)
{
    struct str text = json_string_or(json_get(record, "text"), STR_NONE);
    struct str decoded = json_string_or(json_get(record, "decoded"), STR_NONE);
    const struct json *ids = json_get(record, "ids");
    int32_t *want = mem_alloc((ids->count + 1) * sizeof *want);
    struct token_list got = {0};
    struct strbuf out = {0};
    struct err err = {0};
    size_t count = 0;

    json_each(id, ids)
        want[count++] = (int32_t)id->integer;
    assert_ok(tokenizer_encode(family->tok, family->scratch, text,
                               json_bool_or(json_get(record, "add_special_tokens"), false), &got, &err), err);
    check_ids(family, text, &got, want, count);
    check_spans(&got, text);
    tokenizer_decode(family->tok, got.ids, got.count, skip_special, &out);
    if (!str_equal(strbuf_view(&out), decoded))
        fail_msg("%s: decoded \"%.*s\", expected \"%.*s\"", family->name, STR_ARG(strbuf_view(&out)), STR_ARG(decoded));
    check_stream(family, &got, skip_special, decoded);
    strbuf_deinit(&out);
    token_list_deinit(&got);
    free(want);
}

/* Checks the records of a JSON Lines text that name the family; how many there were. */
static inline size_t check_records(const struct family *family, struct str text, bool special_is_skipped)
{
    size_t checked = 0;

    for (size_t at = 0; at < text.len;) {
        size_t end = (size_t)str_find(text, STR("\n"), at);
        struct arena arena = {0};
        struct err err = {0};
        struct json *record = json_parse(&arena, str_slice(text, at, end), NULL, &err);

        assert_ok(record, err);
        if (json_is(json_get(record, "tokenizer"), family->name)) {
            check_record(family, record,
                         special_is_skipped && json_bool_or(json_get(record, "add_special_tokens"), false));
            checked++;
        }
        arena_deinit(&arena);
        at = end + 1;
    }
    return checked;
}
