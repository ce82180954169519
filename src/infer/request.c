#include "infer/worker_int.h"

#include <stdlib.h>

static void free_request(struct request *r)
{
    for (int i = 0; i < r->choice_count; i++) {
        if (r->running[i])
            generator_remove(r->worker->generator, r->running[i]);
        reply_free(r->reply[i]);
    }
    if (r->seat)
        seats_give_back(r->worker->seats, r->seat);
    token_list_deinit(&r->prompt);
    arena_deinit(&r->arena);
    free(r);
}

void request_drop(struct worker *w, struct request *request)
{
    for (struct request **at = &w->requests; *at; at = &(*at)->next) {
        if (*at == request) {
            *at = request->next;
            free_request(request);
            return;
        }
    }
}

struct choice {
    struct request *request;
    int index;
};

static bool on_token(void *context, const struct sequence_token *token, bool is_last)
{
    struct choice *choice = context;
    struct request *r = choice->request;
    struct reply_piece piece;
    const char *finish;

    r->completion_tokens++;
    if (choice->index == 0)
        r->cached_tokens = sequence_shared(r->running[0]);
    finish = reply_add(r->reply[choice->index], token, is_last, &piece);
    say_piece(r, choice->index, &piece);
    if (!finish)
        return true;
    say_finish(r, choice->index, finish);
    r->running[choice->index] = NULL;
    r->ended_count++;
    return false;
}

/* The one with the fewest choices running, the oldest of those: a request for many does not keep the others waiting. */
static struct request *next_to_start(struct worker *w)
{
    struct request *next = NULL;

    for (struct request *r = w->requests; r; r = r->next)
        if (r->started_count < r->choice_count &&
            (!next || r->started_count - r->ended_count < next->started_count - next->ended_count))
            next = r;
    return next;
}

/* A device that runs nothing and yet has no room will never have any. */
static void refuse_size(struct request *r)
{
    struct worker *w = r->worker;
    struct err err;

    err_set(&err, ERR_LIMIT, "the device has no room for the keys and values of %d tokens: ask for fewer (max_tokens)",
            r->sequence.prompt_count + r->sequence.max_tokens);
    say_error(w, r->id, "error", &err);
    request_drop(w, r);
}

void requests_start(struct worker *w)
{
    struct request *r;

    while ((r = next_to_start(w))) {
        int index = r->started_count;
        struct choice *choice = arena_new(&r->arena, struct choice);
        *choice = (struct choice){r, index};
        r->sequence.sampling.sequence = (uint32_t)index;
        r->running[index] = generator_add(w->generator, &r->sequence, on_token, choice);
        if (!r->running[index]) {
            if (generator_count(w->generator) > 0)
                return;
            refuse_size(r);
            continue;
        }
        r->started_count++;
    }
}

void requests_end(struct worker *w)
{
    for (struct request *r = w->requests, *next; r; r = next) {
        next = r->next;
        if (r->ended_count == r->choice_count) {
            say_done(r);
            request_drop(w, r);
        }
    }
}

static bool check_ids(const struct worker *w, const struct token_list *tokens, struct err *err)
{
    int32_t vocab = model_config(w->model)->vocab;

    for (size_t i = 0; i < tokens->count; i++)
        if (tokens->ids[i] < 0 || tokens->ids[i] >= vocab)
            return err_set(err, ERR_INPUT, "token %d is outside the model's vocabulary of %d", tokens->ids[i], vocab);
    return true;
}

static bool read_ids(const struct json *ids, struct arena *arena, struct token_list *tokens, struct err *err)
{
    size_t count = 0;

    tokens->ids = mem_alloc((ids->count + 1) * sizeof *tokens->ids);
    tokens->spans = mem_alloc_zero(ids->count + 1, sizeof *tokens->spans);
    tokens->cap = ids->count + 1;
    json_each(id, ids) {
        if (id->type != JSON_NUMBER || !id->is_integer || id->integer < 0 || id->integer > INT32_MAX)
            return err_set(err, ERR_INPUT, "prompt token %zu is not a token id", count);
        tokens->ids[count++] = (int32_t)id->integer;
    }
    tokens->count = count;
    return true;
}

/* An empty list is no tools. */
static const struct json *tools_of(const struct json *line)
{
    const struct json *tools = json_get(line, "tools");

    return json_has_type(tools, JSON_ARRAY) && tools->count > 0 ? tools : NULL;
}

static bool read_prompt(struct worker *w, const struct json *line, struct voice *voice, struct arena *arena,
                        struct token_list *tokens, struct err *err)
{
    const struct json *messages = json_get(line, "messages"), *ids = json_get(line, "prompt_ids"),
                      *prompt = json_get(line, "prompt");
    struct chat_input input;
    struct str text;

    if (json_has_type(ids, JSON_ARRAY))
        return read_ids(ids, arena, tokens, err) && check_ids(w, tokens, err);
    if (json_has_type(prompt, JSON_STRING))
        return tokenizer_encode(voice->format.tokenizer, voice->scratch, prompt->string, true, tokens, err) &&
               check_ids(w, tokens, err);
    if (!messages)
        return err_set(err, ERR_INPUT, "a request needs messages, prompt or prompt_ids");
    return chat_format_input(&voice->format, messages, tools_of(line), &input, err) &&
           chat_render_prompt(&input, arena, &text, err) &&
           tokenizer_encode(voice->format.tokenizer, voice->scratch, text, false, tokens, err) &&
           check_ids(w, tokens, err);
}

static bool fit_context(const struct worker *w, struct request *r, int64_t max_tokens, struct err *err)
{
    int64_t room = w->context_length - (int64_t)r->prompt.count;

    if (r->prompt.count == 0)
        return err_set(err, ERR_INPUT, "the prompt has no tokens");
    if (room < 1)
        return err_set(err, ERR_INPUT, "the prompt has %zu tokens; the model takes %d with the reply", r->prompt.count,
                       w->context_length);
    r->sequence.prompt = r->prompt.ids;
    r->sequence.prompt_count = (int32_t)r->prompt.count;
    r->sequence.max_tokens = (int32_t)(max_tokens > 0 && max_tokens < room ? max_tokens : room);
    return true;
}

/* Askers share with themselves, and requests with the same adapter. */
static void read_scope(const struct json *line, struct request *r)
{
    struct str scope = json_string_or(json_get(line, "scope"), STR_NONE);

    if (scope.at)
        r->sequence.scope = arena_printf(&r->arena, "%llu %.*s", r->seat ? (unsigned long long)seat_number(r->seat) : 0,
                                         STR_ARG(scope));
}

static void read_sampling(struct worker *w, const struct json *line, struct request *r)
{
    r->sequence.sampling = (struct sample_options){.temperature = json_number_or(json_get(line, "temperature"), 1),
                                                   .top_p = json_number_or(json_get(line, "top_p"), 1),
                                                   .seed = (uint64_t)json_integer_or(json_get(line, "seed"), 0)};
    r->sequence.logprobs = (int)json_integer_or(json_get(line, "logprobs"), -1);
    if (r->sequence.logprobs > SAMPLE_TOP_MAX)
        r->sequence.logprobs = SAMPLE_TOP_MAX;
    r->reply_options = (struct reply_options){.tokenizer = r->voice->format.tokenizer,
                                              .stop_ids = r->voice->stop_ids,
                                              .stop_id_count = r->voice->stop_id_count,
                                              .has_tokens = r->sequence.logprobs >= 0};
    json_each(stop, json_get(line, "stop"))
        if (stop->type == JSON_STRING && stop->string.len > 0 && r->reply_options.stop_count < REPLY_STOPS_MAX) {
            char *copy = str_copy(&r->arena, stop->string);
            r->reply_options.stop[r->reply_options.stop_count++] = (struct str){copy, stop->string.len};
        }
}

bool request_make(struct worker *w, const struct json *line, int64_t id, struct seat *seat, struct arena *arena,
                         struct err *err)
{
    struct request *r = mem_alloc_zero(1, sizeof *r), **end = &w->requests;
    int64_t n = json_integer_or(json_get(line, "n"), 1);

    r->id = id;
    r->worker = w;
    r->seat = seat;
    r->voice = seat && seat_voice(seat) ? seat_voice(seat) : w->voice;
    r->sequence.adapter = seat ? seat_adapter(seat) : NULL;
    if (n < 1 || n > CHOICES_MAX)
        err_set(err, ERR_INPUT, "n must be from 1 to %d", CHOICES_MAX);
    else if (read_prompt(w, line, r->voice, arena, &r->prompt, err) &&
             fit_context(w, r, json_integer_or(json_get(line, "max_tokens"), 0), err)) {
        read_sampling(w, line, r);
        read_scope(line, r);
        r->choice_count = (int)n;
        for (int i = 0; i < r->choice_count; i++)
            r->reply[i] = reply_new(&r->reply_options);
        while (*end)
            end = &(*end)->next;
        *end = r;
        return true;
    }
    free_request(r);
    return false;
}

bool request_logits(struct worker *w, const struct json *line, int64_t id, struct arena *arena, struct err *err)
{
    struct token_list tokens = {0};
    int32_t vocab = model_config(w->model)->vocab;
    const struct json *ids = json_get(line, "ids");
    struct json_writer writer;
    struct batch batch;
    bool ok = false;

    if (!json_has_type(ids, JSON_ARRAY))
        return err_set(err, ERR_INPUT, "logits needs ids");
    if (!read_ids(ids, arena, &tokens, err) || !check_ids(w, &tokens, err))
        goto out;
    if (tokens.count == 0 || tokens.count > STEP_TOKENS || (int32_t)tokens.count > w->context_length) {
        err_set(err, ERR_LIMIT, "logits takes 1 to %d ids", STEP_TOKENS);
        goto out;
    }
    int32_t *pos = arena_new_array(arena, int32_t, tokens.count), cu[2] = {0, (int32_t)tokens.count}, row = cu[1] - 1;
    float *logits = arena_new_array(arena, float, (size_t)vocab);
    for (int32_t t = 0; t < cu[1]; t++)
        pos[t] = t;
    batch = (struct batch){.T = cu[1], .doc_count = 1, .cu_seqlens = cu, .tok = tokens.ids, .pos = pos};
    model_forward(w->model, &batch, NULL, NULL, &row, 1, logits);
    writer = say_begin(w, id);
    json_write_key(&writer, "logits");
    json_write_begin_array(&writer);
    for (int32_t i = 0; i < vocab; i++)
        json_write_number(&writer, (double)logits[i]);
    json_write_end_array(&writer);
    say_end(w, &writer);
    ok = true;
out:
    token_list_deinit(&tokens);
    return ok;
}
