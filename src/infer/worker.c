#include "infer/worker.h"
#include "compute/device.h"
#include "infer/worker_int.h"
#include "os/file.h"

#include <stdlib.h>
#include <string.h>

enum {
    LINE_BYTES_MAX = 16 << 20,
    DEVICE_STEP_TOKENS = 2048,
    PROMPT_TOKENS = 128, /* in a step on the processor, whose products are no faster for more */
    CONTEXT_MAX = 8192,
    ADAPTER_BYTES = 256 << 20
};

static void say_alone(struct worker *w, int64_t id)
{
    struct json_writer writer = say_begin(w, id);

    json_put_bool(&writer, "alone", true);
    say_end(w, &writer);
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
static bool take_request(struct worker *w, const struct json *line, int64_t id, struct arena *arena, bool *waits,
                         struct err *err)
{
    struct str folder = json_string_or(json_get(line, "adapter"), STR_NONE);
    struct seat *seat;

    *waits = false;
    if (folder.len == 0)
        return request_make(w, line, id, NULL, arena, err);
    if (!w->seats)
        return err_set(err, ERR_INPUT, "this worker has an adapter of its own");
    seat = seats_take(w->seats, str_copy(arena, folder), err);
    if (seat)
        return request_make(w, line, id, seat, arena, err);
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
            request_drop(w, r);
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
        ok = request_logits(w, line, id, &arena, &err);
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
    struct str rest = strbuf_view(&w->in), line;

    while (str_take_line(&rest, &line))
        if (str_trim(line).len > 0)
            take_line(w, line);
    strbuf_drop(&w->in, w->in.len - rest.len);
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
        requests_start(w);
        generator_step(w->generator);
        requests_end(w);
        try_waiting(w); /* before the loop may sleep again */
        requests_start(w);
    }
    return true;
}

/* What "auto" is depends on where products run. */
static bool choose_profile(const char *dtype, const struct backend *backend, enum model_profile *profile,
                           struct err *err)
{
    if (backend->memory && strcmp(dtype, "auto") == 0)
        dtype = "bfloat16";
    return model_profile_choose(dtype, profile, err);
}

static bool open_model(struct worker *w, const struct worker_options *options, struct err *err)
{
    int device = 0;
    const struct backend *backend =
        strcmp(options->device, "ref") == 0 ? &backend_ref : device_find(options->device, &device, err);
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
    if (!choose_profile(options->dtype, backend, &open.profile, err) ||
        !model_open(&w->model, options->model, &open, err))
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
        request_drop(w, w->requests);
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
        w.seats =
            seats_new(w.model, options->adapter_bytes ? (uint64_t)options->adapter_bytes : ADAPTER_BYTES, options->now);
    w.generator = generator_new(w.model, model_plan_used(w.model)->tokens,
                                model_backend(w.model)->memory ? DEVICE_STEP_TOKENS : PROMPT_TOKENS,
                                (uint64_t)options->prefix_bytes);
    writer = say_begin(&w, -1);
    json_put_bool(&writer, "ready", true);
    json_put_integer(&writer, "context_length", w.context_length);
    say_end(&w, &writer);
    ok = serve(&w, in, err);
out:
    if (!ok)
        say_error(&w, -1, "fatal", err);
    close_worker(&w);
    return ok;
}
