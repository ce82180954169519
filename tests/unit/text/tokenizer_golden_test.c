/* Every golden of the shared data: ids and decoded text identical to the reference's. */
#include "goldens.h"

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
        identical += check_records(&family, text, false);
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
