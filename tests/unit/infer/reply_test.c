#include "test.h"
#include "infer/reply.h"

#include <string.h>

/* Byte-level: Ã is the byte C3, © the byte A9; together they are é. */
#define TOKENIZER                                                                                                      \
    "{\"added_tokens\":[{\"id\":10,\"content\":\"<end>\",\"single_word\":false,\"lstrip\":false,"                      \
    "\"rstrip\":false,\"normalized\":false,\"special\":true}],\"decoder\":{\"type\":\"ByteLevel\","                    \
    "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\","                \
    "\"vocab\":{\"h\":0,\"e\":1,\"l\":2,\"o\":3,\"st\":4,\"op\":5,\"\304\240\":6,\"\303\203\":7,"                      \
    "\"\302\251\":8,\"x\":9},\"merges\":[]}}"

enum { h, e, l, o, st, op, space, byte_c3, byte_a9, x, end };

static struct tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
    struct err err = {0};

    tokenizer = tokenizer_parse(STR(TOKENIZER), STR_NONE, &err);
    assert_ok(tokenizer, err);
    return 0;
}

static int close_tokenizer(void **state)
{
    tokenizer_free(tokenizer);
    return 0;
}

/* Pieces with their numbers of tokens, and why it ended: "h/1 e/1 stop". The last id is the last allowed. */
static void run(const int32_t *ids, int count, const char *const *stops, struct strbuf *out)
{
    static const int32_t stop_ids[] = {end};
    struct reply_options options = {
        .tokenizer = tokenizer, .stop_ids = stop_ids, .stop_id_count = 1, .has_tokens = true};
    struct reply *reply;
    const char *finish = NULL;

    while (options.stop_count < REPLY_STOPS_MAX && stops[options.stop_count]) {
        options.stop[options.stop_count] = str_of(stops[options.stop_count]);
        options.stop_count++;
    }
    reply = reply_new(&options);
    for (int i = 0; i < count && !finish; i++) {
        struct reply_piece piece;
        finish = reply_add(reply, &(struct sequence_token){.id = ids[i]}, i == count - 1, &piece);
        strbuf_printf(out, "%.*s/%zu ", STR_ARG(piece.text), piece.token_count);
    }
    strbuf_add_text(out, finish ? finish : "open");
    reply_free(reply);
}

static void pieces_are_what_is_certain(void **state)
{
    static const struct {
        const char *what;
        int32_t ids[6];
        int count;
        const char *stops[REPLY_STOPS_MAX];
        const char *expected;
    } cases[] = {
        {"every token is a piece", {h, e, l, l, o}, 5, {0}, "h/1 e/1 l/1 l/1 o/1 length"},
        {"a stop token has no text", {h, e, end, o}, 4, {0}, "h/1 e/1 /0 stop"},
        {"a stop token may come first", {end}, 1, {0}, "/0 stop"},
        {"a stop string is cut off across pieces", {x, st, op, x}, 4, {"stop"}, "x/1 /0 /0 stop"},
        {"text before a stop string stays", {x, st, op, x}, 4, {"top"}, "x/1 s/1 /0 stop"},
        {"what only began like one comes later", {st, x, st, op}, 4, {"stop"}, "/0 stx/2 /0 /0 stop"},
        {"its own beginning again is held back again", {l, l, l, x}, 4, {"llx"}, "/0 /0 l/3 /0 stop"},
        {"the first place wins", {st, op}, 2, {"p", "op"}, "st/1 /0 stop"},
        {"the longest held back wins", {st, x}, 2, {"tx!", "stx?"}, "/0 stx/2 length"},
        {"held text comes with the last token", {h, st}, 2, {"stop"}, "h/1 st/1 length"},
        {"held text comes with a stop token", {st, end}, 2, {"stop"}, "/0 st/1 stop"},
        {"a stop string in the last token stops", {h, st, op}, 3, {"stop"}, "h/1 /0 /0 stop"},
        {"a character waits for its bytes", {h, byte_c3, byte_a9, x}, 4, {0}, "h/1 /1 \303\251/1 x/1 length"},
        {"half a character ends as U+FFFD", {h, byte_c3}, 2, {0}, "h/1 \357\277\275/1 length"},
        {"half a character before a stop token, too", {byte_c3, end}, 2, {0}, "/1 \357\277\275/0 stop"},
        {"a stop string of many bytes", {x, byte_c3, byte_a9, h}, 4, {"\303\251"}, "x/1 /1 /0 stop"},
        {"a space is text", {h, space, o}, 3, {" o"}, "h/1 /0 /0 stop"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct strbuf out = {0};
        run(cases[i].ids, cases[i].count, cases[i].stops, &out);
        if (strcmp(out.at, cases[i].expected) != 0)
            fail_msg("%s: '%s', not '%s'", cases[i].what, out.at, cases[i].expected);
        strbuf_deinit(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pieces_are_what_is_certain)};

    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
