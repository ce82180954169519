#include "test.h"
#include "data/encode.h"
#include "text/tokenizer.h"

#include <string.h>

#define MODEL "tests/fixtures/tiny-model"

static struct encoder *open_tiny(const char *folder)
{
    struct encoder_options options = {.folder = folder, .vocab = 262, .eos_id = 0};
    struct err err = {0};
    struct encoder *encoder = encoder_open(&options, &err);

    if (!encoder)
        fail_msg("%s", err.text);
    return encoder;
}

/* The tokens' texts, those that train in [brackets] around each run. */
static char *marked(struct arena *arena, const struct encoder *encoder, const struct encoded *e)
{
    struct strbuf text = {0};
    char *copy;

    for (uint32_t i = 0; i < e->count; i++) {
        bool before = i > 0 && e->trains[i - 1], after = i + 1 < e->count && e->trains[i + 1];
        if (e->trains[i] && !before)
            strbuf_add_char(&text, '[');
        tokenizer_decode(encoder_tokenizer(encoder), &e->ids[i], 1, false, &text);
        if (e->trains[i] && !after)
            strbuf_add_char(&text, ']');
    }
    copy = arena_copy(arena, text.at, text.len);
    strbuf_deinit(&text);
    return copy;
}

static bool encode_line(const struct encoder *encoder, struct encoder_scratch *scratch, struct arena *arena,
                        const char *line, struct encoded *encoded, struct err *err)
{
    struct example example;

    return example_parse(arena, str_of(line), &example, err) &&
           encode_example(encoder, scratch, &example, encoded, err);
}

static void the_right_tokens_train(void **state)
{
    static const struct {
        const char *line, *expected;
        uint32_t turns, stopped;
    } cases[] = {
        /* every assistant turn with its end-of-turn token, not the newline behind it */
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"the b\"},"
         "{\"role\":\"user\",\"content\":\"c\"},{\"role\":\"assistant\",\"content\":\"d\"}]}",
         "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[the b<|im_end|>]\n<|im_start|>user\nc<|im_end|>\n"
         "<|im_start|>assistant\n[d<|im_end|>]\n",
         2, 2},
        /* weight 0 masks a turn */
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\",\"weight\":0},"
         "{\"role\":\"user\",\"content\":\"c\"},{\"role\":\"assistant\",\"content\":\"d\",\"weight\":1}]}",
         "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
         "<|im_start|>assistant\n[d<|im_end|>]\n",
         1, 1},
        {"{\"prompt\":\"ab\",\"completion\":\" the\"}", "ab[ the<|endoftext|>]", 1, 1},
        /* an end that is already there is not added again */
        {"{\"prompt\":\"ab\",\"completion\":\"c<|endoftext|>\"}", "ab[c<|endoftext|>]", 1, 1},
        /* "t" is one token alone and part of "the" in the whole: that one is the first to train, but for the first of
         * all */
        {"{\"prompt\":\"at\",\"completion\":\"he\"}", "a[the<|endoftext|>]", 1, 1},
        {"{\"prompt\":\"t\",\"completion\":\"he\"}", "the[<|endoftext|>]", 1, 1},
        /* nothing said is an answer, too */
        {"{\"prompt\":\"ab\",\"completion\":\"\"}", "ab[<|endoftext|>]", 1, 1},
        /* the end is looked for in the completion */
        {"{\"prompt\":\"a<|endoftext|>\",\"completion\":\"\"}", "a<|endoftext|>[<|endoftext|>]", 1, 1},
        /* of messages the whole completion trains, as the template ends it */
        {"{\"prompt\":[{\"role\":\"user\",\"content\":\"a\"}],\"completion\":[{\"role\":\"assistant\","
         "\"content\":\"b\"}]}",
         "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>\n]", 1, 1},
        /* nothing predicts the first token */
        {"{\"prompt\":\"\",\"completion\":\"ab\"}", "a[b<|endoftext|>]", 1, 1},
        {"{\"text\":\"abc\"}", "a[bc<|endoftext|>]", 1, 1},
        {"{\"token_ids\":[68,69,70]}", "A[BC]", 0, 0},
        {"{\"token_ids\":[68,69,70,71],\"labels\":[-100,-100,70,-100]}", "AB[C]D", 0, 0},
        {"{\"token_ids\":[68,69],\"labels\":[68,-100]}", "AB", 0, 0},
    };
    struct encoder *encoder = open_tiny(MODEL);
    struct encoder_scratch *scratch = encoder_scratch_new(encoder);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct encoded e;
        struct err err = {0};
        assert_ok(encode_line(encoder, scratch, &arena, cases[i].line, &e, &err), err);
        assert_string_equal(marked(&arena, encoder, &e), cases[i].expected);
        assert_int_equal(e.turn_count, cases[i].turns);
        assert_int_equal(e.stopped_count, cases[i].stopped);
        arena_deinit(&arena);
    }
    encoder_scratch_free(scratch);
    encoder_free(encoder);
}

static void a_token_outside_the_vocabulary_is_refused(void **state)
{
    struct encoder *encoder = open_tiny(MODEL);
    struct encoder_scratch *scratch = encoder_scratch_new(encoder);
    struct arena arena = {0};
    struct encoded e;
    struct err err = {0};

    assert_false(encode_line(encoder, scratch, &arena, "{\"token_ids\":[1,261,262]}", &e, &err));
    assert_string_equal(err.text, "token 262 at position 2: the model has only the tokens 0 to 261");
    arena_deinit(&arena);
    encoder_scratch_free(scratch);
    encoder_free(encoder);
}

static void messages_need_a_chat_template(void **state)
{
    char folder[] = "/tmp/attune-encode-XXXXXX", command[256];
    struct encoder *encoder;
    struct encoder_scratch *scratch;
    struct arena arena = {0};
    struct encoded e;
    struct err err = {0};

    assert_non_null(mkdtemp(folder));
    snprintf(command, sizeof command, "cp " MODEL "/tokenizer*.json %s", folder);
    assert_int_equal(system(command), 0);
    encoder = open_tiny(folder);
    scratch = encoder_scratch_new(encoder);
    assert_string_equal(encoder_template_hash(encoder), "");
    assert_true(encode_line(encoder, scratch, &arena, "{\"text\":\"abc\"}", &e, &err));
    assert_false(
        encode_line(encoder, scratch, &arena, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\"}]}", &e, &err));
    assert_non_null(strstr(err.text, "the model has no chat template"));
    encoder_scratch_free(scratch);
    encoder_free(encoder);
    arena_deinit(&arena);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* The encoder's hash names the cache: it must change with what decides tokens, and with nothing else. */
static void the_hash_follows_what_decides_tokens(void **state)
{
    struct encoder_options options = {.folder = MODEL, .vocab = 262, .eos_id = 0};
    struct err err = {0};
    struct encoder *one = encoder_open(&options, &err), *later, *smaller;

    options.now = 1000000;
    later = encoder_open(&options, &err);
    options.vocab = 261;
    smaller = encoder_open(&options, &err);
    assert_string_equal(encoder_hash(one), encoder_hash(later)); /* the template does not ask for the time */
    assert_string_not_equal(encoder_hash(one), encoder_hash(smaller));
    encoder_free(one);
    encoder_free(later);
    encoder_free(smaller);
}

static void both_sequences_of_a_preference_train_from_where_they_leave_the_prompt(void **state)
{
    static const struct {
        const char *line, *chosen, *rejected;
        uint32_t stopped;
    } cases[] = {
        {"{\"prompt\":\"ab\",\"chosen\":\" the\",\"rejected\":\"c<|endoftext|>\"}", "ab[ the<|endoftext|>]",
         "ab[c<|endoftext|>]", 1},
        /* a border inside a token of one of them moves that of both */
        {"{\"prompt\":\"at\",\"chosen\":\"he\",\"rejected\":\"c\"}", "a[the<|endoftext|>]", "a[tc<|endoftext|>]", 1},
        {"{\"prompt\":\"\",\"chosen\":\"a\",\"rejected\":\"\"}", "a[<|endoftext|>]", "<|endoftext|>", 1},
        /* what the template writes behind the turn trains, too */
        {"{\"prompt\":[{\"role\":\"user\",\"content\":\"a\"}],\"chosen\":[{\"role\":\"assistant\",\"content\":\"b\"}],"
         "\"rejected\":[{\"role\":\"assistant\",\"content\":\"\"}]}",
         "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>\n]",
         "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[<|im_end|>\n]", 1},
    };
    struct encoder *encoder = open_tiny(MODEL);
    struct encoder_scratch *scratch = encoder_scratch_new(encoder);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct example example;
        struct encoded pair[2];
        struct err err = {0};
        assert_ok(example_parse(&arena, str_of(cases[i].line), &example, &err), err);
        assert_ok(encode_pair(encoder, scratch, &example, pair, &err), err);
        assert_string_equal(marked(&arena, encoder, &pair[0]), cases[i].chosen);
        assert_string_equal(marked(&arena, encoder, &pair[1]), cases[i].rejected);
        for (int which = 0; which < 2; which++) {
            assert_int_equal(pair[which].turn_count, 1);
            assert_int_equal(pair[which].stopped_count, cases[i].stopped);
        }
        arena_deinit(&arena);
    }
    encoder_scratch_free(scratch);
    encoder_free(encoder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_right_tokens_train),
        cmocka_unit_test(both_sequences_of_a_preference_train_from_where_they_leave_the_prompt),
        cmocka_unit_test(a_token_outside_the_vocabulary_is_refused),
        cmocka_unit_test(messages_need_a_chat_template),
        cmocka_unit_test(the_hash_follows_what_decides_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
