#include "model/fixture.h"
#include "infer/generate.h"
#include "infer/kept.h"

enum { VOCAB = 37, STEP_TOKENS = 16, REPLY_MAX = 24, REQUESTS = 5, KEPT_BYTES = 1 << 20 };

static struct pool *pool;
static struct arena arena;

static int set_up(void **state)
{
    pool = pool_new(2);
    return 0;
}

static int tear_down(void **state)
{
    pool_free(pool);
    arena_deinit(&arena);
    return fixture_clean(state);
}

static struct model *open_tiny(const struct backend *backend)
{
    struct model_options options = fixture_options(PROFILE_F32, backend, pool);

    options.is_trained = false;
    options.row_tokens = options.tokens_wanted = STEP_TOKENS;
    options.positions = 64;
    options.head_rows = SEQUENCES_MAX;
    return fixture_open(fixture_model(&arena, pool, true, "float32"), &options);
}

struct reply {
    int32_t id[REPLY_MAX];
    double logprob[REPLY_MAX];
    int count, wanted; /* wanted: ends itself after so many; 0: never */
    bool has_last;
};

static bool keep(void *context, const struct sequence_token *token, bool is_last)
{
    struct reply *reply = context;

    assert_true(reply->count < REPLY_MAX && !reply->has_last);
    reply->logprob[reply->count] = token->logprob;
    reply->id[reply->count++] = token->id;
    reply->has_last = is_last;
    return reply->count != reply->wanted;
}

/* Prompts of 1 to 40 tokens (longer than a step), greedy and drawn. */
static struct sequence_request request_number(int number)
{
    static const int32_t lengths[REQUESTS] = {1, 40, 7, 16, 17};
    int32_t *prompt = arena_new_array(&arena, int32_t, (size_t)lengths[number]);

    for (int32_t t = 0; t < lengths[number]; t++)
        prompt[t] = (t * 7 + number * 11 + 3) % VOCAB;
    return (struct sequence_request){.prompt = prompt,
                                     .prompt_count = lengths[number],
                                     .max_tokens = 6 + number * 4,
                                     .sampling = {.temperature = number % 2 ? 1.3 : 0,
                                                  .top_p = number == 3 ? 0.7 : 1,
                                                  .seed = 5,
                                                  .sequence = (uint32_t)number},
                                     .logprobs = 1};
}

static void check_same(const struct reply *reply, const struct reply *expected, int number)
{
    assert_int_equal(reply->count, expected->count);
    for (int i = 0; i < reply->count; i++)
        if (reply->id[i] != expected->id[i] || fabs(reply->logprob[i] - expected->logprob[i]) > 1e-5)
            fail_msg("request %d, token %d: %d at %g together, %d at %g alone", number, i, reply->id[i],
                     reply->logprob[i], expected->id[i], expected->logprob[i]);
}

static void check_together_is_alone(const struct backend *backend, int32_t prompt_tokens)
{
    struct model *model = open_tiny(backend);
    struct generator *generator = generator_new(model, STEP_TOKENS, prompt_tokens, 0);
    struct reply alone[REQUESTS] = {0}, together[REQUESTS] = {0};

    for (int i = 0; i < REQUESTS; i++) {
        struct sequence_request request = request_number(i);
        assert_non_null(generator_add(generator, &request, keep, &alone[i]));
        while (generator_step(generator))
            ;
        assert_int_equal(alone[i].count, request.max_tokens);
        assert_true(alone[i].has_last);
    }
    for (int i = 0; i < REQUESTS; i++) {
        struct sequence_request request = request_number(i);
        assert_non_null(generator_add(generator, &request, keep, &together[i]));
        generator_step(generator); /* each arrives while the others run */
    }
    while (generator_step(generator))
        ;
    for (int i = 0; i < REQUESTS; i++)
        check_same(&together[i], &alone[i], i);
    generator_free(generator);
    model_close(model);
}

static void replies_together_are_the_replies_alone(void **state)
{
    check_together_is_alone(&backend_ref, STEP_TOKENS);
    check_together_is_alone(&backend_cpu, STEP_TOKENS);
    check_together_is_alone(&backend_cpu, 5);
}

static void sequences_end_when_told_and_leave_the_others_alone(void **state)
{
    struct model *model = open_tiny(&backend_ref);
    struct generator *generator = generator_new(model, STEP_TOKENS, STEP_TOKENS, 0);
    struct sequence_request request = request_number(1);
    struct reply alone = {0}, beside = {0}, ended = {.wanted = 2}, removed = {0};
    struct sequence *sequence;

    generator_add(generator, &request, keep, &alone);
    while (generator_step(generator))
        ;
    generator_add(generator, &request, keep, &ended);
    generator_add(generator, &request, keep, &beside);
    sequence = generator_add(generator, &request, keep, &removed);
    while (ended.count < 1)
        generator_step(generator);
    generator_remove(generator, sequence);
    while (generator_step(generator))
        ;
    assert_int_equal(ended.count, 2);
    assert_true(removed.count < alone.count);
    check_same(&beside, &alone, 1);
    generator_free(generator);
    model_close(model);
}

static void a_full_generator_takes_no_more(void **state)
{
    struct model *model = open_tiny(&backend_ref);
    struct generator *generator = generator_new(model, STEP_TOKENS, STEP_TOKENS, 0);
    struct sequence_request request = request_number(0);
    struct reply reply[SEQUENCES_MAX + 1] = {0};

    request.max_tokens = 3;
    for (int i = 0; i < SEQUENCES_MAX; i++)
        assert_non_null(generator_add(generator, &request, keep, &reply[i]));
    assert_null(generator_add(generator, &request, keep, &reply[SEQUENCES_MAX]));
    while (generator_step(generator))
        ;
    for (int i = 0; i < SEQUENCES_MAX; i++)
        assert_int_equal(reply[i].count, 3); /* 32 share steps of 16: nobody waits for ever */
    assert_int_equal(generator_count(generator), 0);
    assert_false(generator_step(generator));
    generator_free(generator);
    model_close(model);
}

static void prompts_are_answered_one_after_the_other_while_replies_go_on(void **state)
{
    struct model *model = open_tiny(&backend_cpu);
    struct generator *generator = generator_new(model, STEP_TOKENS, 8, 0);
    struct sequence_request request = request_number(1); /* of 40 tokens */
    struct reply reply[3] = {0};

    for (int i = 0; i < 3; i++)
        generator_add(generator, &request, keep, &reply[i]);
    for (int step = 1; step <= 8; step++) {
        generator_step(generator);
        assert_int_equal(reply[0].count, step < 5 ? 0 : step - 4);
        assert_int_equal(reply[1].count, 0);
    }
    generator_step(generator);
    generator_step(generator);
    assert_int_equal(reply[0].count, 6);
    assert_int_equal(reply[1].count, 1);
    assert_int_equal(reply[2].count, 0);
    generator_free(generator);
    model_close(model);
}

static void a_short_prompt_passes_a_long_one_but_does_not_keep_it_waiting_for_ever(void **state)
{
    struct model *model = open_tiny(&backend_cpu);
    struct generator *generator = generator_new(model, STEP_TOKENS, 8, 0);
    struct sequence_request longer = request_number(1), shorter = request_number(2); /* of 40 and of 7 tokens */
    struct reply first = {0}, passing[REPLY_MAX] = {0};

    shorter.max_tokens = 1;
    generator_add(generator, &longer, keep, &first);
    generator_step(generator);
    for (int step = 0; step < 20 && first.count == 0; step++) {
        generator_add(generator, &shorter, keep, &passing[step]);
        generator_step(generator);
        assert_true(step > 0 || passing[0].count == 1);
    }
    assert_int_equal(first.count, 1);
    generator_free(generator);
    model_close(model);
}

static void the_rest_of_a_prompt_comes_along_where_it_is_small(void **state)
{
    struct model *model = open_tiny(&backend_cpu);
    struct generator *generator = generator_new(model, STEP_TOKENS, 8, 0);
    struct sequence_request request = request_number(1);
    struct reply reply = {0};

    request.prompt_count = 10; /* a quarter more than a step's */
    generator_add(generator, &request, keep, &reply);
    generator_step(generator);
    assert_int_equal(reply.count, 1);
    generator_free(generator);
    model_close(model);
}

/* A sequence that is asked how much it shared while it draws. */
struct asked {
    struct reply reply;
    struct sequence *sequence;
    int32_t shared;
};

static bool keep_asked(void *context, const struct sequence_token *token, bool is_last)
{
    struct asked *asked = context;

    asked->shared = sequence_shared(asked->sequence);
    return keep(&asked->reply, token, is_last);
}

static void add_asked(struct generator *generator, const struct sequence_request *request, struct asked *asked)
{
    asked->sequence = generator_add(generator, request, keep_asked, asked);
    assert_non_null(asked->sequence);
}

static struct asked ask(struct generator *generator, const struct sequence_request *request)
{
    struct asked asked = {0};

    add_asked(generator, request, &asked);
    while (generator_step(generator))
        ;
    return asked;
}

static void check_bits(const struct asked *asked, const struct asked *expected, int32_t shared)
{
    assert_int_equal(asked->shared, shared);
    assert_int_equal(asked->reply.count, expected->reply.count);
    assert_memory_equal(asked->reply.id, expected->reply.id, sizeof asked->reply.id);
    assert_memory_equal(asked->reply.logprob, expected->reply.logprob, sizeof asked->reply.logprob);
}

/* The next message of a chat: what was asked, what was answered, and more. */
static struct sequence_request next_message(const struct sequence_request *request, const struct reply *reply,
                                            int32_t more)
{
    struct sequence_request next = *request;
    int32_t *prompt = arena_new_array(&arena, int32_t, (size_t)(request->prompt_count + reply->count + more));

    memcpy(prompt, request->prompt, (size_t)request->prompt_count * sizeof *prompt);
    memcpy(prompt + request->prompt_count, reply->id, (size_t)reply->count * sizeof *prompt);
    next.prompt = prompt;
    next.prompt_count = request->prompt_count + reply->count + more;
    for (int32_t i = 0; i < more; i++)
        prompt[request->prompt_count + reply->count + i] = (i * 5 + 1) % VOCAB;
    return next;
}

static void check_chat_goes_on(struct model *model, bool is_in_company)
{
    struct generator *plain = generator_new(model, STEP_TOKENS, 8, 0),
                     *sharing = generator_new(model, STEP_TOKENS, 8, KEPT_BYTES);
    struct sequence_request first = request_number(4), second; /* 17 tokens and a reply of 20 */
    struct asked alone = ask(plain, &first), shared, expected;

    first.max_tokens = 20;
    alone = ask(plain, &first);
    second = next_message(&first, &alone.reply, 9);
    second.max_tokens = 10;
    expected = ask(plain, &second);
    first.scope = second.scope = "a";
    if (is_in_company) { /* another that ends later runs beside it */
        struct sequence_request other = request_number(1);
        struct reply reply = {0};
        other.scope = "a";
        generator_add(sharing, &other, keep, &reply);
        shared = ask(sharing, &first);
    } else {
        shared = ask(sharing, &first);
    }
    check_bits(&shared, &alone, 0);
    shared = ask(sharing, &second);
    check_bits(&shared, &expected, 36); /* the reply's last token was never run */
    shared = ask(sharing, &second);
    check_bits(&shared, &expected, second.prompt_count - 1);
    generator_free(plain);
    generator_free(sharing);
}

static void a_chat_that_goes_on_runs_what_is_new_and_has_the_same_bits(void **state)
{
    static const struct backend *const backends[] = {&backend_ref, &backend_cpu};

    for (int i = 0; i < 2; i++) {
        struct model *model = open_tiny(backends[i]);
        check_chat_goes_on(model, false);
        check_chat_goes_on(model, true);
        model_close(model);
    }
}

/* positions: 64, or 256. */
static struct model *open_family(const struct tiny_family *family, int32_t positions)
{
    char *config = arena_printf(&arena, "%s", family->config), *at = strstr(config, "embeddings\":64");
    struct tiny_family longer = {family->name, config};
    struct model_options options = fixture_options(PROFILE_F32, &backend_cpu, pool);

    options.is_trained = false;
    options.row_tokens = options.tokens_wanted = STEP_TOKENS;
    options.positions = positions;
    options.head_rows = SEQUENCES_MAX;
    if (positions > 64)
        longer.config = arena_printf(&arena, "%.*sembeddings\":%d%s", (int)(at - config), config, positions,
                                     at + strlen("embeddings\":64"));
    return fixture_open(fixture_weights(&arena, pool, fixture_family(&arena, &longer)), &options);
}

/* Without any cache: the whole text again for every token. phi3 turns by other factors from the ninth token on. */
static void check_cache_changes_nothing(struct model *model, int32_t prompt_tokens)
{
    struct generator *generator = generator_new(model, STEP_TOKENS, prompt_tokens, 0);
    struct sequence_request request = request_number(2);
    struct reply reply = {0};
    int32_t tok[STEP_TOKENS + 1], pos[STEP_TOKENS];
    uint64_t order[2 * VOCAB];
    float logits[VOCAB];

    request.max_tokens = STEP_TOKENS - request.prompt_count;
    generator_add(generator, &request, keep, &reply);
    while (generator_step(generator))
        ;
    memcpy(tok, request.prompt, (size_t)request.prompt_count * sizeof *tok);
    for (int32_t i = 0; i < reply.count; i++) {
        int32_t T = request.prompt_count + i, cu[2] = {0, T}, row = T - 1;
        struct sample_alternative top;
        for (int32_t t = 0; t < T; t++)
            pos[t] = t;
        model_forward(model, &(struct batch){.T = T, .doc_count = 1, .cu_seqlens = cu, .tok = tok, .pos = pos}, NULL,
                      NULL, &row, 1, logits);
        tok[T] = sample_token(logits, VOCAB, &request.sampling, (uint32_t)i, order);
        assert_int_equal(reply.id[i], tok[T]);
        assert_float_equal(reply.logprob[i], sample_logprobs(logits, VOCAB, tok[T], 1, &top), 1e-5);
    }
    generator_free(generator);
}

static void the_cache_changes_nothing(void **state)
{
    for (size_t i = 0; i < TINY_FAMILY_COUNT; i++) {
        struct model *model = open_family(&tiny_families[i], 64);
        check_cache_changes_nothing(model, STEP_TOKENS);
        check_cache_changes_nothing(model, 3);
        model_close(model);
    }
}

static void every_family_shares(void **state)
{
    for (size_t i = 0; i < TINY_FAMILY_COUNT; i++) {
        struct model *model = open_family(&tiny_families[i], 64);
        check_chat_goes_on(model, false);
        model_close(model);
    }
}

/* Windows of three behind rings of 64 positions: those of more than 64 have gone round. */
static void a_ring_that_went_round_is_shared_while_the_window_is_there(void **state)
{
    for (size_t i = 0; i < TINY_FAMILY_COUNT; i++) {
        struct model *model = open_family(&tiny_families[i], 256);
        struct generator *plain = generator_new(model, STEP_TOKENS, 8, 0),
                         *sharing = generator_new(model, STEP_TOKENS, 8, KEPT_BYTES);
        bool has_window = model_config(model)->layer[0].window > 0 || model_config(model)->layer[1].window > 0;
        struct sequence_request first = request_number(0), second, early;
        int32_t prompt[130];
        struct asked asked, expected;

        for (int32_t t = 0; t < 130; t++)
            prompt[t] = t * 11 % VOCAB;
        first.prompt = prompt;
        first.prompt_count = 130;
        first.max_tokens = 10;
        asked = ask(plain, &first);
        second = next_message(&first, &asked.reply, 20);
        early = first;
        early.prompt_count = 60; /* far before the end of what is there */
        first.scope = second.scope = early.scope = "a";
        ask(sharing, &first);
        asked = ask(sharing, &second);
        expected = ask(plain, &second);
        check_bits(&asked, &expected, 139);
        asked = ask(sharing, &early);
        expected = ask(plain, &early);
        check_bits(&asked, &expected, has_window ? 0 : 59);
        generator_free(plain);
        generator_free(sharing);
        model_close(model);
    }
}

static void requests_that_come_together_share_what_the_first_has_run(void **state)
{
    struct model *model = open_tiny(&backend_cpu);
    struct generator *plain = generator_new(model, STEP_TOKENS, 8, 0),
                     *sharing = generator_new(model, STEP_TOKENS, 8, 0);
    struct sequence_request request = request_number(1); /* 40 tokens */
    struct asked alone = ask(plain, &request), asked[3] = {0};

    request.scope = "a";
    for (int i = 0; i < 3; i++)
        add_asked(sharing, &request, &asked[i]);
    while (generator_step(sharing))
        ;
    check_bits(&asked[0], &alone, 0);
    check_bits(&asked[1], &alone, 39);
    check_bits(&asked[2], &alone, 39);
    generator_free(plain);
    generator_free(sharing);
    model_close(model);
}

static void other_scopes_and_other_beginnings_share_nothing(void **state)
{
    struct model *model = open_tiny(&backend_cpu);
    struct generator *generator = generator_new(model, STEP_TOKENS, 8, KEPT_BYTES);
    struct sequence_request request = request_number(1), other = request_number(1);
    int32_t prompt[40];
    struct asked first, asked;

    request.scope = "a";
    first = ask(generator, &request);
    request.scope = "b";
    asked = ask(generator, &request);
    check_bits(&asked, &first, 0);
    request.scope = NULL;
    asked = ask(generator, &request);
    check_bits(&asked, &first, 0);
    memcpy(prompt, other.prompt, sizeof prompt);
    prompt[KEPT_TOKENS_MIN - 1]++; /* one too few are the same */
    other.prompt = prompt;
    other.scope = "a";
    asked = ask(generator, &other);
    assert_int_equal(asked.shared, 0);
    generator_free(generator);
    model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_together_are_the_replies_alone),
        cmocka_unit_test(the_cache_changes_nothing),
        cmocka_unit_test(sequences_end_when_told_and_leave_the_others_alone),
        cmocka_unit_test(a_full_generator_takes_no_more),
        cmocka_unit_test(prompts_are_answered_one_after_the_other_while_replies_go_on),
        cmocka_unit_test(a_short_prompt_passes_a_long_one_but_does_not_keep_it_waiting_for_ever),
        cmocka_unit_test(the_rest_of_a_prompt_comes_along_where_it_is_small),
        cmocka_unit_test(a_chat_that_goes_on_runs_what_is_new_and_has_the_same_bits),
        cmocka_unit_test(every_family_shares),
        cmocka_unit_test(a_ring_that_went_round_is_shared_while_the_window_is_there),
        cmocka_unit_test(requests_that_come_together_share_what_the_first_has_run),
        cmocka_unit_test(other_scopes_and_other_beginnings_share_nothing),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
