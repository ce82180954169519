#include "goldens.h"

static struct family open_fixture(const char *name)
{
    struct family family = {.name = name};
    struct err err = {0};
    char path[512];

    snprintf(path, sizeof path, FIXTURES "/tokenizers/%s.json", name);
    family.tok = tokenizer_open(path, &err);
    assert_ok(family.tok, err);
    family.scratch = tokenizer_scratch_new(family.tok);
    return family;
}

static void every_fixture_gives_what_the_reference_gave(void **state)
{
    static const char *const names[] = {
        "roberta",        "qwen2_added",  "llama3_ignore_merges", "tekken",         "o200k",          "deepseek",
        "smollm",         "digits_punctuation", "regex_previous", "regex_next",     "regex_contiguous", "regex_invert",
        "spm_legacy",     "spm_first",    "spm_always_unk",       "spm_never_fuse", "gemma",          "bert"};
    struct arena arena = {0};
    struct err err = {0};
    struct str text;
    size_t checked = 0, lines = 0;

    assert_ok(file_read(&arena, FIXTURES "/tokenizers/cases.jsonl", 1 << 20, &text, &err), err);
    for (size_t i = 0; i < text.len; i++)
        lines += text.at[i] == '\n';
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct family family = open_fixture(names[i]);

        checked += check_records(&family, text, true);
        close_family(&family);
    }
    print_message("tokenizer fixtures: %zu identical of %zu\n", checked, lines);
    assert_int_equal(checked, lines);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fixture_gives_what_the_reference_gave),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
