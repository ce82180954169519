/* Every golden of the shared data: ids and decoded text identical to the reference's. */
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

static const char *folder_of(const char *name)
{
    char path[256];

    if (strcmp(name, "stories260K") == 0)
        return shared_path("stories260K/hf");
    snprintf(path, sizeof path, "tokenizers/%s", name);
    return shared_path(path);
}

static bool open_family(struct family *family, const char *name)
{
    const char *folder = folder_of(name);
    struct err err = {0};

    *family = (struct family){.name = name};
    if (!folder)
        return false;
    family->tok = tokenizer_open(folder, &err);
    assert_ok(family->tok, err);
    family->scratch = tokenizer_scratch_new(family->tok);
    return true;
}

static void close_family(struct family *family)
{
    tokenizer_scratch_free(family->scratch);
    tokenizer_free(family->tok);
}

/* The spans of neighbours never go back, and lie in the text. */
static void check_spans(const struct token_list *list, struct str text)
{
    uint32_t start = 0;

    for (size_t i = 0; i < list->count; i++) {
        assert_true(list->spans[i].start >= start);
        assert_true(list->spans[i].end >= list->spans[i].start);
        assert_true(list->spans[i].end <= text.len);
        start = list->spans[i].start;
    }
}

static void check_ids(const struct family *family, struct str text, const struct token_list *got, const int32_t *want,
                      size_t count)
{
    for (size_t i = 0; i < count || i < got->count; i++)
        if (i >= count || i >= got->count || got->ids[i] != want[i])
            fail_msg("%s: token %zu of \"%.*s\" is %d, expected %d (%zu tokens, expected %zu)", family->name, i,
                     STR_ARG(text), i < got->count ? got->ids[i] : -1, i < count ? want[i] : -1, got->count, count);
}

static void check_stream(const struct family *family, const struct token_list *list, struct str decoded)
{
    struct tokenizer_stream stream;
    struct strbuf out = {0};

    tokenizer_stream_init(&stream, family->tok, false);
    for (size_t i = 0; i < list->count; i++) {
        tokenizer_stream_push(&stream, list->ids[i], &out);
        assert_true(utf8_is_valid(strbuf_view(&out)));
    }
    tokenizer_stream_finish(&stream, &out);
    if (!str_equal(strbuf_view(&out), decoded))
        fail_msg("%s: streamed \"%.*s\", expected \"%.*s\"", family->name, STR_ARG(strbuf_view(&out)), STR_ARG(decoded));
    strbuf_deinit(&out);
}

static void check_record(const struct family *family, const struct json *record)
{
    struct str text = json_string_or(json_get(record, "text"), STR_NONE);
    struct str decoded = json_string_or(json_get(record, "decoded"), STR_NONE);
    const struct json *ids = json_get(record, "ids");
    int32_t *want = mem_alloc((ids->count + 1) * sizeof *want);
    struct token_list got = {0};
    struct strbuf out = {0};
    struct err err = {0};
    size_t count = 0;

    for json_each(id, ids)
        want[count++] = (int32_t)id->integer;
    assert_ok(tokenizer_encode(family->tok, family->scratch, text,
                               json_bool_or(json_get(record, "add_special_tokens"), false), &got, &err), err);
    check_ids(family, text, &got, want, count);
    check_spans(&got, text);
    tokenizer_decode(family->tok, got.ids, got.count, false, &out);
    if (!str_equal(strbuf_view(&out), decoded))
        fail_msg("%s: decoded \"%.*s\", expected \"%.*s\"", family->name, STR_ARG(strbuf_view(&out)), STR_ARG(decoded));
    check_stream(family, &got, decoded);
    strbuf_deinit(&out);
    token_list_deinit(&got);
    free(want);
}

static void every_golden_record_gives_the_same_ids_and_text(void **state)
{
    static const char *const names[] = {"llama2", "llama3", "phi-3-mini", "qwen2.5", "stories260K", "torchtitan-test",
                                        "torchtune-tiny-bpe"};
    const char *path = shared_path("tokenizers/golden_ids.jsonl");
    struct arena arena = {0};
    struct err err = {0};
    struct str text;
    size_t identical = 0, lines = 0;

    if (!path)
        skip();
    assert_ok(file_read(&arena, path, 64 << 20, &text, &err), err);
    for (size_t i = 0; i < text.len; i++)
        lines += text.at[i] == '\n';
    for (size_t f = 0; f < sizeof names / sizeof *names; f++) {
        struct family family;

        if (!open_family(&family, names[f]))
            continue;
        for (size_t at = 0; at < text.len;) {
            ptrdiff_t end = str_find(text, STR("\n"), at);
            struct arena line = {0};
            struct json *record = json_parse(&line, str_slice(text, at, (size_t)end), NULL, &err);

            assert_ok(record, err);
            if (str_is(json_string_or(json_get(record, "tokenizer"), STR("")), names[f])) {
                check_record(&family, record);
                identical++;
            }
            arena_deinit(&line);
            at = (size_t)end + 1;
        }
        close_family(&family);
    }
    print_message("tokenizer goldens: %zu identical of %zu\n", identical, lines);
    assert_int_equal(identical, lines);
    arena_deinit(&arena);
}

static size_t parse_ids(struct str line, int32_t *ids, size_t cap)
{
    size_t count = 0, at = 0;

    while (at < line.len && count < cap) {
        size_t end = at;
        int64_t id;

        while (end < line.len && line.at[end] != ' ')
            end++;
        if (str_to_i64(str_slice(line, at, end), &id))
            ids[count++] = (int32_t)id;
        at = end + 1;
    }
    return count;
}

static size_t check_cases(const struct family *family, struct str cases, struct str answers)
{
    static const struct str mark = {"\n__ggml_vocab_test__\n", 21};
    struct token_list got = {0};
    struct err err = {0};
    size_t done = 0, line = 0;

    for (size_t at = 0; at <= cases.len; done++) {
        ptrdiff_t found = str_find(cases, mark, at);
        size_t end = found < 0 ? cases.len : (size_t)found;
        struct str text = str_slice(cases, at, end);
        ptrdiff_t stop = str_find(answers, STR("\n"), line);
        int32_t want[4096];
        size_t count;

        if (stop < 0) /* the last case is empty, and so is its answer */
            stop = (ptrdiff_t)answers.len;
        count = parse_ids(str_slice(answers, line, (size_t)stop), want, 4096);
        token_list_clear(&got);
        assert_ok(tokenizer_encode(family->tok, family->scratch, text, false, &got, &err), err);
        check_ids(family, text, &got, want, count);
        line = (size_t)stop + 1;
        at = end + mark.len;
    }
    token_list_deinit(&got);
    return done;
}

static void every_vocabulary_case_gives_the_same_ids(void **state)
{
    static const char *const pairs[][2] = {
        {"llama-bpe", "llama3"}, {"qwen2", "qwen2.5"}, {"llama-spm", "llama2"}, {"phi-3", "phi-3-mini"}};
    size_t identical = 0;

    if (!shared_path("gguf-vocab"))
        skip();
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct arena arena = {0};
        struct family family;
        struct err err = {0};
        struct str cases, answers;
        char name[256];

        if (!open_family(&family, pairs[i][1]))
            continue;
        snprintf(name, sizeof name, "gguf-vocab/ggml-vocab-%s.gguf.inp", pairs[i][0]);
        assert_ok(file_read(&arena, shared_path(name), 1 << 20, &cases, &err), err);
        snprintf(name, sizeof name, "gguf-vocab/ggml-vocab-%s.gguf.out", pairs[i][0]);
        assert_ok(file_read(&arena, shared_path(name), 1 << 20, &answers, &err), err);
        identical += check_cases(&family, cases, answers);
        close_family(&family);
        arena_deinit(&arena);
    }
    print_message("vocabulary cases: %zu identical\n", identical);
    assert_true(identical >= 4 * 47);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_golden_record_gives_the_same_ids_and_text),
        cmocka_unit_test(every_vocabulary_case_gives_the_same_ids),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
