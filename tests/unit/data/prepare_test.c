#include "test.h"
#include "data/prepare.h"
#include "os/file.h"

#include <stdarg.h>
#include <string.h>

#define MODEL "tests/fixtures/tiny-model"

struct world {
    struct arena arena;
    struct pool *pool;
    struct encoder *encoder;
    const char *dir, *file, *cache;
};

static int open_world(void **state)
{
    struct world *w = mem_alloc_zero(1, sizeof *w);
    struct encoder_options options = {.folder = MODEL, .vocab = 262, .eos_id = 0};
    char template[] = "/tmp/attune-prepare-XXXXXX";

    w->dir = arena_printf(&w->arena, "%s", mkdtemp(template));
    w->file = path_join(&w->arena, w->dir, "train.jsonl");
    w->cache = path_join(&w->arena, w->dir, "cache");
    w->pool = pool_new(2);
    w->encoder = encoder_open(&options, NULL);
    *state = w;
    return !w->encoder;
}

static int close_world(void **state)
{
    struct world *w = *state;

    dir_remove(w->dir, NULL);
    encoder_free(w->encoder);
    pool_free(w->pool);
    arena_deinit(&w->arena);
    free(w);
    return 0;
}

static bool prepare(struct world *w, const char *text, uint32_t length, enum over_length policy, const char **folder,
                    struct jsonl_report *report, struct err *err)
{
    struct prepare_options options = {
        .encoder = w->encoder, .context_length = length, .policy = policy, .pool = w->pool};

    assert_true(file_replace(w->file, str_of(text), NULL));
    return prepare_file(w->file, "train.jsonl", w->cache, &options, &w->arena, folder, report, err);
}

static void examples_come_out_in_order_with_their_lines(void **state)
{
    struct world *w = *state;
    struct dataset data;
    struct err err = {0};
    const char *folder;
    struct strbuf text = {0};

    for (int i = 0; i < 100; i++)
        strbuf_printf(&text, "%s{\"token_ids\":[%d,%d,7],\"labels\":[-100,%d,-100]}\r\n", i % 10 == 3 ? "\n" : "", i,
                      i + 1, i + 1);
    assert_ok(prepare(w, text.at, 16, OVER_LENGTH_DROP, &folder, NULL, &err), err);
    assert_ok(dataset_open(&data, folder, &err), err);
    assert_int_equal(data.count, 100);
    assert_int_equal(data.summary.lines, 110);
    assert_int_equal(data.summary.tokens, 300);
    assert_int_equal(data.summary.trained_tokens, 100);
    assert_int_equal(data.summary.kind, EXAMPLE_TOKENS);
    for (uint32_t i = 0; i < 100; i++) {
        const uint32_t *token = data.tokens + data.entry[i].start;
        assert_int_equal(data.entry[i].line, i + 1 + (i + 7) / 10);
        assert_int_equal(token[0], i);
        assert_int_equal(token[1], (i + 1) | DATASET_TRAINS);
        assert_int_equal(token[2], 7);
    }
    dataset_close(&data);
    strbuf_deinit(&text);
}

static void the_same_input_is_prepared_once(void **state)
{
    struct world *w = *state;
    const char *first, *second, *other, *longer;
    struct err err = {0};
    char **names;
    size_t count;

    assert_ok(prepare(w, "{\"text\":\"abc\"}", 16, OVER_LENGTH_DROP, &first, NULL, &err), err);
    assert_ok(prepare(w, "{\"text\":\"abc\"}", 16, OVER_LENGTH_DROP, &second, NULL, &err), err);
    assert_ok(prepare(w, "{\"text\":\"abd\"}", 16, OVER_LENGTH_DROP, &other, NULL, &err), err);
    assert_ok(prepare(w, "{\"text\":\"abd\"}", 17, OVER_LENGTH_DROP, &longer, NULL, &err), err);
    assert_string_equal(first, second);
    assert_string_not_equal(first, other);
    assert_string_not_equal(other, longer);
    assert_ok(dir_list(&w->arena, w->cache, &names, &count, &err), err);
    assert_int_equal(count, 3);
}

static void a_preference_is_two_sequences_that_stay_together(void **state)
{
    struct world *w = *state;
    struct dataset data;
    struct err err = {0};
    const char *folder;

    assert_ok(prepare(w,
                      "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"cde\"}\n"
                      "{\"prompt\":\"abcdefghijklmnop\",\"chosen\":\"b\",\"rejected\":\"c\"}\n"
                      "{\"prompt\":\"ab\",\"chosen\":\"c\",\"rejected\":\"0123456789abcdefgh\"}\n",
                      16, OVER_LENGTH_TRUNCATE, &folder, NULL, &err),
              err);
    assert_ok(dataset_open(&data, folder, &err), err);
    assert_int_equal(data.summary.kind, EXAMPLE_PREFERENCE);
    assert_int_equal(data.summary.examples, 2);
    assert_int_equal(data.count, 4);
    assert_int_equal(data.entry[0].count, 3);
    assert_int_equal(data.entry[1].count, 5);
    assert_int_equal(data.entry[1].trained_count, 4);
    assert_int_equal(data.entry[1].line, 1);
    assert_int_equal(data.entry[2].line, 3);
    assert_int_equal(data.entry[3].count, 16); /* cut: its end is gone */
    assert_int_equal(data.summary.untrained_lines, 1); /* the prompt alone fills it */
    assert_int_equal(data.summary.over_length_lines, 2);
    assert_int_equal(data.summary.turns, 4);
    assert_int_equal(data.summary.stopped_turns, 3);
    dataset_close(&data);
}

static const char *texts_of(struct world *w, int good, int overlong)
{
    struct strbuf text = {0};
    char *copy;

    for (int i = 0; i < overlong; i++)
        strbuf_add_text(&text, "{\"text\":\"0123456789abcdefghij\"}\n");
    for (int i = 0; i < good; i++)
        strbuf_add_text(&text, "{\"text\":\"abc\"}\n");
    copy = arena_copy(&w->arena, text.at, text.len);
    strbuf_deinit(&text);
    return copy;
}

static void overlong_lines_follow_the_policy(void **state)
{
    static const struct {
        int good, overlong;
        enum over_length policy;
        const char *error;
        uint64_t examples, tokens;
    } cases[] = {
        {18, 2, OVER_LENGTH_DROP, NULL, 18, 72}, /* a tenth may go */
        {17, 2, OVER_LENGTH_DROP,
         "2 of 19 lines are longer than context_length 16 (the longest has 21 tokens), the first is line 1", 0, 0},
        {19, 1, OVER_LENGTH_ERROR, "line 1: the line has 21 tokens, more than context_length 16", 0, 0},
        {1, 2, OVER_LENGTH_TRUNCATE, NULL, 3, 36},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct world *w = *state;
        struct dataset data;
        struct err err = {0};
        const char *folder;
        bool ok = prepare(w, texts_of(w, cases[i].good, cases[i].overlong), 16, cases[i].policy, &folder, NULL, &err);
        if (cases[i].error) {
            if (ok || !strstr(err.text, cases[i].error))
                fail_msg("case %zu: %s", i, err.text);
            continue;
        }
        assert_ok(ok, err);
        assert_ok(dataset_open(&data, folder, &err), err);
        assert_int_equal(data.count, cases[i].examples);
        assert_int_equal(data.summary.tokens, cases[i].tokens);
        assert_int_equal(data.summary.over_length_lines, cases[i].overlong);
        assert_int_equal(data.summary.over_length_named[1], 2);
        dataset_close(&data);
    }
}

static void wrong_lines_are_reported_and_nothing_is_written(void **state)
{
    struct world *w = *state;
    struct jsonl_report report;
    struct err err = {0};
    const char *folder;

    assert_false(prepare(w, "{\"text\":\"a\"}\n\n{\"text\":3}\n{\"prompt\":\"a\",\"completion\":\"b\"}\n{", 16,
                         OVER_LENGTH_DROP, &folder, &report, &err));
    assert_int_equal(report.error_count, 3);
    assert_int_equal(report.errors[0].line, 3);
    assert_int_equal(report.errors[1].line, 4);
    assert_int_equal(report.errors[2].line, 5);
    assert_string_equal(
        err.text, "train.jsonl: 3 wrong lines: line 3: text is a number: it must be a string; line 4: the line is of "
                  "kind prompt, the file began with text: a file is of one kind; \xe2\x80\xa6");
    assert_false(dir_exists(folder));
}

static void lines_in_which_nothing_trains_are_left_out(void **state)
{
    struct world *w = *state;
    struct dataset data;
    struct err err = {0};
    const char *folder;

    assert_ok(prepare(w, "{\"token_ids\":[1,2]}\n{\"token_ids\":[1,2],\"labels\":[1,-100]}\n", 16, OVER_LENGTH_DROP,
                      &folder, NULL, &err),
              err);
    assert_ok(dataset_open(&data, folder, &err), err);
    assert_int_equal(data.count, 1);
    assert_int_equal(data.summary.untrained_lines, 1);
    assert_int_equal(data.summary.untrained_named[0], 2);
    dataset_close(&data);
    assert_false(prepare(w, "{\"token_ids\":[1,2],\"labels\":[1,-100]}\n", 16, OVER_LENGTH_DROP, &folder, NULL, &err));
    assert_string_equal(err.text, "train.jsonl: nothing in the file trains");
}

static bool refuse(void *context, uint64_t done, uint64_t total)
{
    return false;
}

static void preparing_can_be_cancelled(void **state)
{
    struct world *w = *state;
    struct prepare_options options = {
        .encoder = w->encoder, .context_length = 16, .pool = w->pool, .on_progress = refuse};
    struct err err = {0};
    const char *folder;

    assert_true(file_replace(w->file, STR("{\"text\":\"a\"}"), NULL));
    assert_false(prepare_file(w->file, "t", w->cache, &options, &w->arena, &folder, NULL, &err));
    assert_int_equal(err.code, ERR_CANCELLED);
}

/* More lines than one block takes at once: order and counts still hold. */
static void many_tiny_lines_are_prepared_in_blocks(void **state)
{
    struct world *w = *state;
    struct strbuf text = {0};
    struct dataset data;
    struct err err = {0};
    const char *folder;

    for (int i = 0; i < 40000; i++)
        strbuf_printf(&text, "{\"token_ids\":[%d,%d]}\n", i % 256, i / 256);
    assert_ok(prepare(w, text.at, 16, OVER_LENGTH_DROP, &folder, NULL, &err), err);
    assert_ok(dataset_open(&data, folder, &err), err);
    assert_int_equal(data.count, 40000);
    for (uint32_t i = 0; i < data.count; i++)
        if (data.tokens[2 * i] != i % 256 || data.tokens[2 * i + 1] != (i / 256 | DATASET_TRAINS) ||
            data.entry[i].line != i + 1)
            fail_msg("example %u", i);
    dataset_close(&data);
    strbuf_deinit(&text);
}

static void a_damaged_dataset_is_refused(void **state)
{
    struct world *w = *state;
    struct dataset data;
    struct err err = {0};
    const char *folder;

    assert_ok(prepare(w, "{\"token_ids\":[1,2]}\n", 16, OVER_LENGTH_DROP, &folder, NULL, &err), err);
    assert_true(file_replace(path_join(&w->arena, folder, "tokens.bin"), STR("abcd"), NULL));
    assert_false(dataset_open(&data, folder, &err));
    assert_non_null(strstr(err.text, "the sizes of its files do not fit its summary"));
}

#define world_test(name) cmocka_unit_test_setup_teardown(name, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        world_test(examples_come_out_in_order_with_their_lines),
        world_test(a_preference_is_two_sequences_that_stay_together),
        world_test(the_same_input_is_prepared_once),
        world_test(overlong_lines_follow_the_policy),
        world_test(wrong_lines_are_reported_and_nothing_is_written),
        world_test(lines_in_which_nothing_trains_are_left_out),
        world_test(preparing_can_be_cancelled),
        world_test(many_tiny_lines_are_prepared_in_blocks),
        world_test(a_damaged_dataset_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
