#include "test.h"
#include "base/arena.h"
#include "data/preview.h"

#include <string.h>

#define MODEL "tests/fixtures/tiny-model"

static const char file_text[] =
    "{\"text\": \"ab\"}\n"
    "\n"
    "{\"token_ids\": [97, 98, 99], \"labels\": [-100, -100, 99]}\n"
    "{\"text\": 3}\n"
    "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n"
    "{\"text\": \"\xc3\xa9\"}";

struct world {
    struct encoder *encoder;
    char path[64];
    struct strbuf out;
};

static int open_world(void **state)
{
    struct world *w = mem_alloc_zero(1, sizeof *w);
    struct encoder_options options = {.folder = MODEL, .vocab = 262, .eos_id = 0};
    struct err err = {0};
    int fd;

    strcpy(w->path, "/tmp/attune-preview-XXXXXX");
    fd = mkstemp(w->path);
    assert_true(fd >= 0 && write(fd, file_text, sizeof file_text - 1) == sizeof file_text - 1 && close(fd) == 0);
    w->encoder = encoder_open(&options, &err);
    assert_ok(w->encoder, err);
    *state = w;
    return 0;
}

static int close_world(void **state)
{
    struct world *w = *state;

    unlink(w->path);
    encoder_free(w->encoder);
    strbuf_deinit(&w->out);
    free(w);
    return 0;
}

static void add_line(void *context, struct str json)
{
    struct world *w = context;

    strbuf_add_str(&w->out, json);
    strbuf_add_char(&w->out, '\n');
}

/* The lines that a preview gives, parsed, as a list. */
static const struct json *preview(struct world *w, struct arena *arena, const struct preview_options *wanted)
{
    struct preview_options options = *wanted;
    struct strbuf list = {0};
    const struct json *json;
    struct err err = {0};

    options.encoder = w->encoder;
    options.on_line = add_line;
    options.context = w;
    strbuf_clear(&w->out);
    assert_ok(preview_file(w->path, &options, &err), err);
    strbuf_add_char(&list, '[');
    for (size_t i = 0; i < w->out.len; i++)
        strbuf_add_char(&list, w->out.at[i] == '\n' && i + 1 < w->out.len ? ',' : w->out.at[i]);
    strbuf_add_char(&list, ']');
    json = json_parse(arena, str_of(str_copy(arena, strbuf_view(&list))), NULL, &err);
    assert_ok(json, err);
    strbuf_deinit(&list);
    return json;
}

static const struct json *item(const struct json *list, int index)
{
    json_each(value, list)
        if (index-- == 0)
            return value;
    fail_msg("the list is too short");
    return NULL;
}

static void lines_keep_their_numbers_and_blank_ones_are_passed_over(void **state)
{
    static const int64_t numbers[] = {1, 3, 4, 5, 6};
    struct arena arena = {0};
    const struct json *all = preview(*state, &arena, &(struct preview_options){.first = 1, .count = UINT64_MAX});
    const struct json *some = preview(*state, &arena, &(struct preview_options){.first = 2, .count = 3});

    assert_int_equal(all->count, 5);
    for (int i = 0; i < 5; i++)
        assert_int_equal(json_integer_or(json_get(item(all, i), "line"), 0), numbers[i]);
    assert_int_equal(some->count, 2);
    assert_int_equal(json_integer_or(json_get(item(some, 1), "line"), 0), 4);
    assert_int_equal(preview(*state, &arena, &(struct preview_options){.first = 7, .count = 1})->count, 0);
    arena_deinit(&arena);
}

static void every_token_has_its_text_and_says_whether_it_trains(void **state)
{
    struct arena arena = {0};
    const struct preview_options options = {.form = PREVIEW_TOKENS, .first = 3, .count = 1};
    const struct json *line = item(preview(*state, &arena, &options), 0), *tokens = json_get(line, "tokens");

    assert_true(json_is(json_get(line, "kind"), "token_ids"));
    assert_int_equal(json_integer_or(json_get(line, "token_count"), 0), 3);
    assert_int_equal(json_integer_or(json_get(line, "trained_count"), 0), 1);
    assert_int_equal(tokens->count, 3);
    assert_int_equal(json_integer_or(json_get(item(tokens, 2), "id"), 0), 99);
    assert_true(json_bool_or(json_get(item(tokens, 2), "trained"), false));
    assert_false(json_bool_or(json_get(item(tokens, 1), "trained"), true));
    assert_true(json_get(item(tokens, 0), "text")->string.len > 0);
    arena_deinit(&arena);
}

static void a_bad_line_has_its_error_and_the_next_is_shown(void **state)
{
    struct arena arena = {0};
    const struct preview_options options = {.form = PREVIEW_TOKENS, .first = 4, .count = 2};
    const struct json *lines = preview(*state, &arena, &options), *pair = item(lines, 1);

    assert_true(str_find(json_get(item(lines, 0), "error")->string, STR("text"), 0) >= 0);
    assert_null(json_get(item(lines, 0), "tokens"));
    assert_true(json_integer_or(json_get(json_get(pair, "chosen"), "trained_count"), 0) > 0);
    assert_true(json_integer_or(json_get(json_get(pair, "rejected"), "trained_count"), 0) > 0);
    arena_deinit(&arena);
}

static void a_text_ends_early_at_the_bound_on_tokens(void **state)
{
    struct arena arena = {0};
    const struct preview_options options = {.form = PREVIEW_TOKENS, .first = 1, .count = 3, .tokens_max = 2};
    const struct json *lines = preview(*state, &arena, &options);

    assert_int_equal(json_get(item(lines, 0), "tokens")->count, 2);
    assert_int_equal(json_get(item(lines, 1), "tokens")->count, 0);
    assert_int_equal(json_integer_or(json_get(item(lines, 1), "token_count"), 0), 3);
    arena_deinit(&arena);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_keep_their_numbers_and_blank_ones_are_passed_over),
        cmocka_unit_test(every_token_has_its_text_and_says_whether_it_trains),
        cmocka_unit_test(a_bad_line_has_its_error_and_the_next_is_shown),
        cmocka_unit_test(a_text_ends_early_at_the_bound_on_tokens),
    };

    return cmocka_run_group_tests(tests, open_world, close_world);
}
