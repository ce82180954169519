#include "infer/worker.h"
#include "base/json.h"
#include "compute/device.h"
#include "infer/generate.h"
#include "infer/reply.h"
#include "infer/seats.h"
#include "os/file.h"

#include <stdlib.h>
#include <string.h>

enum {
    LINE_BYTES_MAX = 16 << 20,
    STEP_TOKENS = 512,
    DEVICE_STEP_TOKENS = 2048,
    PROMPT_TOKENS = 128, /* in a step on the processor, whose products are no faster for more */
    CONTEXT_MAX = 8192,
    CHOICES_MAX = 128,
    ADAPTER_BYTES = 256 << 20
};

/* One request and its choices. */
struct request {
    int64_t id;
    struct worker *worker;
    struct seat *seat;   /* NULL: the base, or the worker's own adapter */
    struct voice *voice; /* of the seat or the worker */
    struct token_list prompt;
    struct sequence_request sequence;
    struct reply_options reply_options;
    struct arena arena; /* stop strings */
    struct reply *reply[CHOICES_MAX];
    struct sequence *running[CHOICES_MAX];
    int choice_count, started_count, ended_count;
    int64_t completion_tokens, cached_tokens; /* cached_tokens: of the prompt, that the first choice took from others */
    struct request *next;
};

/* A line that waits until the adapters that others use leave room for its own. */
struct waiting {
    int64_t id;
    struct str line;
    struct waiting *next;
};

struct worker {
    struct model *model;
    struct pool *pool;
    struct generator *generator;
    struct voice *voice;
    struct seats *seats; /* NULL: the worker's model has an adapter of its own */
    int32_t context_length;
    struct request *requests; /* in order of arrival */
    struct waiting *waiting;  /* likewise */
    uint64_t tried_at;        /* seats_change when the waiting were tried last */
    struct strbuf in, out;
    int out_fd;
    bool is_broken; /* nobody reads any more */
};

/* --- lines out --- */

static struct json_writer begin_line(struct worker *w, int64_t id)
{
    struct json_writer writer = {.buf = &w->out};

    strbuf_clear(&w->out);
    json_write_begin_object(&writer);
    if (id >= 0)
        json_put_integer(&writer, "id", id);
    return writer;
}

static void end_line(struct worker *w, struct json_writer *writer)
{
    json_write_end_object(writer);
    strbuf_add_char(&w->out, '\n');
    if (!w->is_broken && !fd_write_all(w->out_fd, w->out.at, w->out.len, "the answer's pipe", NULL))
        w->is_broken = true;
}

static void say_error(struct worker *w, int64_t id, const char *member, const struct err *err)
{
    struct json_writer writer = begin_line(w, id);

    json_write_key(&writer, member);
    json_write_begin_object(&writer);
    json_put_text(&writer, "code", err_code_name(err->code));
    json_put_text(&writer, "message", err->text);
    json_put_null(&writer, "param");
    json_write_end_object(&writer);
    end_line(w, &writer);
}

static void put_token(const struct voice *voice, struct json_writer *writer, int32_t id, double logprob)
{
    struct strbuf text = {0};

    tokenizer_decode(voice->format.tokenizer, &id, 1, false, &text);
    json_put_str(writer, "token", strbuf_view(&text));
    json_put_number(writer, "logprob", logprob);
    json_write_key(writer, "bytes");
    json_write_begin_array(writer);
    for (size_t i = 0; i < text.len; i++)
        json_write_integer(writer, (unsigned char)text.at[i]);
    json_write_end_array(writer);
    strbuf_deinit(&text);
}

static void put_tokens(const struct voice *voice, struct json_writer *writer, const struct reply_piece *piece)
{
    json_write_key(writer, "tokens");
    json_write_begin_array(writer);
    for (size_t i = 0; i < piece->token_count; i++) {
        const struct sequence_token *token = &piece->tokens[i];
        json_write_begin_object(writer);
        put_token(voice, writer, token->id, token->logprob);
        json_write_key(writer, "top");
        json_write_begin_array(writer);
        for (int k = 0; k < token->top_count; k++) {
            json_write_begin_object(writer);
            put_token(voice, writer, token->top[k].id, token->top[k].logprob);
            json_write_end_object(writer);
        }
        json_write_end_array(writer);
        json_write_end_object(writer);
    }
    json_write_end_array(writer);
}

static void say_piece(struct request *r, int choice, const struct reply_piece *piece)
{
    struct json_writer writer;

    if (piece->text.len == 0 && piece->token_count == 0)
        return;
    writer = begin_line(r->worker, r->id);
    json_put_integer(&writer, "choice", choice);
    json_put_str(&writer, "text", piece->text);
    if (r->sequence.logprobs >= 0)
        put_tokens(r->voice, &writer, piece);
    end_line(r->worker, &writer);
}

static void say_finish(struct request *r, int choice, const char *reason)
{
    struct json_writer writer = begin_line(r->worker, r->id);

    json_put_integer(&writer, "choice", choice);
    json_put_text(&writer, "finish_reason", reason);
    end_line(r->worker, &writer);
}

static void say_done(struct request *r)
{
    struct json_writer writer = begin_line(r->worker, r->id);

    json_put_bool(&writer, "done", true);
    json_put_integer(&writer, "prompt_tokens", (int64_t)r->prompt.count);
    json_put_integer(&writer, "cached_tokens", r->cached_tokens);
    json_put_integer(&writer, "completion_tokens", r->completion_tokens);
    end_line(r->worker, &writer);
}

/* --- requests --- */

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

static void drop_request(struct worker *w, struct request *request)
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
    drop_request(w, r);
}

/* Starts choices while the generator has room. */
static void start_waiting(struct worker *w)
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

static void end_finished(struct worker *w)
{
    for (struct request *r = w->requests, *next; r; r = next) {
        next = r->next;
        if (r->ended_count == r->choice_count) {
            say_done(r);
            drop_request(w, r);
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
    for json_each (id, ids) {
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

    return tools && tools->type == JSON_ARRAY && tools->count > 0 ? tools : NULL;
}

static bool read_prompt(struct worker *w, const struct json *line, struct voice *voice, struct arena *arena,
                        struct token_list *tokens, struct err *err)
{
    const struct json *messages = json_get(line, "messages"), *ids = json_get(line, "prompt_ids"),
                      *prompt = json_get(line, "prompt");
    struct chat_input input;
    struct str text;

    if (ids && ids->type == JSON_ARRAY)
        return read_ids(ids, arena, tokens, err) && check_ids(w, tokens, err);
    if (prompt && prompt->type == JSON_STRING)
        return tokenizer_encode(voice->format.tokenizer, voice->scratch, prompt->string, true, tokens, err) &&
               check_ids(w, tokens, err);
    if (!messages)
        return err_set(err, ERR_INPUT, "a request needs messages, prompt or prompt_ids");
    return chat_format_input(&voice->format, messages, tools_of(line), &input, err) &&
           chat_render_prompt(&input, arena, &text, err) &&
           tokenizer_encode(voice->format.tokenizer, voice->scratch, text, false, tokens, err) && check_ids(w, tokens, err);
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
        r->sequence.scope = arena_printf(&r->arena, "%llu %.*s", r->seat ? (unsigned long long)seat_number(r->seat) : 0, STR_ARG(scope));
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
    for json_each (stop, json_get(line, "stop"))
        if (stop->type == JSON_STRING && stop->string.len > 0 && r->reply_options.stop_count < REPLY_STOPS_MAX) {
            char *copy = str_copy(&r->arena, stop->string);
            r->reply_options.stop[r->reply_options.stop_count++] = (struct str){copy, stop->string.len};
        }
}

/* Owns the seat from here on. */
static bool make_request(struct worker *w, const struct json *line, int64_t id, struct seat *seat, struct arena *arena,
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

/* Logits of the last token, for comparisons with other implementations. */
static bool say_logits(struct worker *w, const struct json *line, int64_t id, struct arena *arena, struct err *err)
{
    struct token_list tokens = {0};
    int32_t vocab = model_config(w->model)->vocab;
    const struct json *ids = json_get(line, "ids");
    struct json_writer writer;
    struct batch batch;
    bool ok = false;

    if (!ids || ids->type != JSON_ARRAY)
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
    writer = begin_line(w, id);
    json_write_key(&writer, "logits");
    json_write_begin_array(&writer);
    for (int32_t i = 0; i < vocab; i++)
        json_write_number(&writer, (double)logits[i]);
    json_write_end_array(&writer);
    end_line(w, &writer);
    ok = true;
out:
    token_list_deinit(&tokens);
    return ok;
}

static void say_alone(struct worker *w, int64_t id)
{
    struct json_writer writer = begin_line(w, id);

    json_put_bool(&writer, "alone", true);
    end_line(w, &writer);
}

static void add_waiting(struct worker *w, int64_t id, struct str text)
{
    struct waiting *waiting = mem_alloc_zero(1, sizeof *waiting), **end = &w->waiting;
    char *copy = mem_alloc(text.len + 1);

    memcpy(copy, text.at, text.len);
    *waiting = (struct waiting){.id = id, .line = {copy, text.len}};
    while (*end)
        end = &(*end)->next;
    *end = waiting;
}

static void free_waiting(struct waiting *waiting)
{
    free((char *)(uintptr_t)waiting->line.at);
    free(waiting);
}

/* A request with an adapter takes its seat first; *waits when there is no room for it now. */
static bool take_request(struct worker *w, const struct json *line, int64_t id, struct arena *arena, bool *waits, struct err *err)
{
    struct str folder = json_string_or(json_get(line, "adapter"), STR_NONE);
    struct seat *seat;

    *waits = false;
    if (folder.len == 0)
        return make_request(w, line, id, NULL, arena, err);
    if (!w->seats)
        return err_set(err, ERR_INPUT, "this worker has an adapter of its own");
    seat = seats_take(w->seats, str_copy(arena, folder), err);
    if (seat)
        return make_request(w, line, id, seat, arena, err);
    *waits = err->code == ERR_NO_SPACE;
    if (err->code == ERR_UNSUPPORTED)
        say_alone(w, id);
    return *waits || err->code == ERR_UNSUPPORTED;
}

/* Once a seat became free: those that were first are first. */
static void try_waiting(struct worker *w)
{
    struct waiting **at = &w->waiting;

    if (!w->waiting || w->tried_at == seats_change(w->seats))
        return;
    w->tried_at = seats_change(w->seats);
    while (*at) {
        struct waiting *waiting = *at;
        struct arena arena = {0};
        struct err err = {0};
        bool waits;
        if (!take_request(w, json_parse(&arena, waiting->line, NULL, NULL), waiting->id, &arena, &waits, &err))
            say_error(w, waiting->id, "error", &err);
        if (waits) {
            at = &waiting->next;
        } else {
            *at = waiting->next;
            free_waiting(waiting);
        }
        arena_deinit(&arena);
    }
}

static void cancel(struct worker *w, int64_t id)
{
    for (struct request *r = w->requests, *next; r; r = next) {
        next = r->next;
        if (r->id == id)
            drop_request(w, r);
    }
    for (struct waiting **at = &w->waiting; *at;) {
        struct waiting *waiting = *at;
        if (waiting->id == id) {
            *at = waiting->next;
            free_waiting(waiting);
        } else {
            at = &waiting->next;
        }
    }
}

static void take_line(struct worker *w, struct str text)
{
    struct arena arena = {0};
    struct err err = {0};
    const struct json *line = json_parse(&arena, text, NULL, &err);
    int64_t id = json_integer_or(json_get(line, "id"), -1);
    bool ok = false, waits = false;

    if (line && id < 0) {
        err_set(&err, ERR_INPUT, "a request needs an id");
    } else if (line && json_bool_or(json_get(line, "cancel"), false)) {
        cancel(w, id);
        ok = true;
    } else if (line && json_bool_or(json_get(line, "logits"), false)) {
        ok = say_logits(w, line, id, &arena, &err);
    } else if (line) {
        ok = take_request(w, line, id, &arena, &waits, &err);
    }
    if (!ok)
        say_error(w, id, "error", &err);
    if (waits)
        add_waiting(w, id, text);
    arena_deinit(&arena);
}

/* --- the loop --- */

static bool take_lines(struct worker *w, struct err *err)
{
    size_t from = 0;
    ptrdiff_t end;

    while ((end = str_find(strbuf_view(&w->in), STR("\n"), from)) >= 0) {
        struct str line = str_slice(strbuf_view(&w->in), from, (size_t)end);
        if (str_trim(line).len > 0)
            take_line(w, line);
        from = (size_t)end + 1;
    }
    memmove(w->in.at, w->in.at + from, w->in.len - from);
    w->in.len -= from;
    return w->in.len <= LINE_BYTES_MAX ||
           err_set(err, ERR_LIMIT, "a request line has more than %d bytes", LINE_BYTES_MAX);
}

static bool serve(struct worker *w, int in, struct err *err)
{
    bool is_open = true;

    while (!w->is_broken && (is_open || w->requests)) {
        char bytes[65536];
        while (is_open && fd_wait_readable(in, generator_count(w->generator) > 0 ? 0 : -1)) {
            long got = fd_read_some(in, bytes, sizeof bytes);
            is_open = got > 0 || got == -1;
            if (got > 0) {
                strbuf_add(&w->in, bytes, (size_t)got);
                if (!take_lines(w, err))
                    return false;
            }
            if (w->requests)
                break;
        }
        start_waiting(w);
        generator_step(w->generator);
        end_finished(w);
        try_waiting(w); /* before the loop may sleep again */
        start_waiting(w);
    }
    return true;
}

/* What "auto" is depends on where products run. */
static bool choose_profile(const char *dtype, const struct backend *backend, enum model_profile *profile, struct err *err)
{
    if (backend->memory && strcmp(dtype, "auto") == 0)
        dtype = "bfloat16";
    return model_profile_choose(dtype, profile, err);
}

static bool open_model(struct worker *w, const struct worker_options *options, struct err *err)
{
    int device = 0;
    const struct backend *backend = strcmp(options->device, "ref") == 0 ? &backend_ref : device_find(options->device, &device, err);
    int32_t step_tokens = backend && backend->memory ? DEVICE_STEP_TOKENS : STEP_TOKENS;
    struct arena arena = {0};
    struct model_config config;
    struct model_options open;
    bool ok = false;

    if (!backend || !config_read(&arena, options->model, &config, err))
        goto out;
    w->context_length = config.positions_max < CONTEXT_MAX ? config.positions_max : CONTEXT_MAX;
    if (options->context_length > 0 && options->context_length < w->context_length)
        w->context_length = (int32_t)options->context_length;
    w->pool = pool_new(options->threads);
    open = (struct model_options){.adapter_folder = options->adapter,
                                  .slot_rank = options->adapter ? 0 : SEAT_RANK_MAX,
                                  .backend = backend,
                                  .device = device,
                                  .pool = w->pool,
                                  .row_tokens = w->context_length < step_tokens ? w->context_length : step_tokens,
                                  .tokens_wanted = step_tokens,
                                  .positions = w->context_length,
                                  .head_rows = SEQUENCES_MAX};
    if (!choose_profile(options->dtype, backend, &open.profile, err) || !model_open(&w->model, options->model, &open, err))
        goto out;
    ok = true;
out:
    arena_deinit(&arena);
    return ok;
}

/* A folder of an adapter may have no tokenizer: then it speaks as its base. */
static bool open_voice(struct worker *w, const struct worker_options *options, struct err *err)
{
    const struct model_config *config = model_config(w->model);

    if (options->adapter)
        w->voice = voice_open(options->adapter, options->model, config->eos_ids, config->eos_count, options->now, NULL);
    if (!w->voice)
        w->voice = voice_open(options->model, options->model, config->eos_ids, config->eos_count, options->now, err);
    return w->voice != NULL;
}

static void close_worker(struct worker *w)
{
    while (w->requests)
        drop_request(w, w->requests);
    while (w->waiting)
        cancel(w, w->waiting->id);
    generator_free(w->generator);
    seats_free(w->seats);
    voice_close(w->voice);
    model_close(w->model);
    pool_free(w->pool);
    strbuf_deinit(&w->in);
    strbuf_deinit(&w->out);
}

bool worker_run(const struct worker_options *options, int in, int out, struct err *err)
{
    struct worker w = {.out_fd = out};
    struct json_writer writer;
    bool ok = false;

    if (!open_model(&w, options, err) || !open_voice(&w, options, err))
        goto out;
    if (!options->adapter)
        w.seats = seats_new(w.model, options->adapter_bytes ? (uint64_t)options->adapter_bytes : ADAPTER_BYTES, options->now);
    w.generator = generator_new(w.model, model_plan_used(w.model)->tokens,
                                model_backend(w.model)->memory ? DEVICE_STEP_TOKENS : PROMPT_TOKENS,
                                (uint64_t)options->prefix_bytes);
    writer = begin_line(&w, -1);
    json_put_bool(&writer, "ready", true);
    json_put_integer(&writer, "context_length", w.context_length);
    end_line(&w, &writer);
    ok = serve(&w, in, err);
out:
    if (!ok)
        say_error(&w, -1, "fatal", err);
    close_worker(&w);
    return ok;
}
