#include "api/workers.h"
#include "api/api_int.h"
#include "os/file.h"
#include "os/process.h"
#include "os/socket.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum {
    WORKERS_MAX = 16,
    LINE_BYTES_MAX = 64 << 20,
    IDLE_MS = 5 * 60 * 1000,
    KILL_WAIT_MS = 1000,
    WEIGHT_BYTES_MIN = 64 << 20,
    ADAPTER_BYTES_MIN = 64 << 20,
    PREFIX_BYTES_MIN = 64 << 20,
    CACHE_BYTES_MIN = 512 << 20, /* of keys and values on a GPU */
    GPU_HOST_BYTES = 512 << 20   /* that a worker on a GPU takes of the host */
};

struct worker;

/* What was asked is kept: a worker may say that another has to answer. */
struct chat_request {
    struct worker *worker;
    int64_t id;
    struct chat_sink sink;
    char *path, *adapter_path; /* adapter_path NULL: none */
    char *members;
    struct chat_request *next;
};

/* One process: a base and the adapters that requests name, or a model with an adapter that cannot share its base. */
struct worker {
    struct chat_workers *workers;
    char *key; /* folder of the base, and of the adapter that it has alone; the reservation's id too */
    int gpu;   /* on which it is; -1: on the processor */
    struct process process;
    int fd; /* our end of its standard input and output */
    struct http_watch *watch;
    struct http_timer *idle;
    struct strbuf in, out;
    struct chat_request *requests;
    struct err fatal; /* what it said when it could not start */
    struct worker *next;
};

struct chat_workers {
    const struct api_config *config;
    char program[4096];
    struct worker *list;
    int count;
    int64_t next_id;
    struct http_timer *stop; /* NULL: nobody wants to stop */
};

int workers_count(const struct chat_workers *workers)
{
    return workers->count;
}

/* --- ending --- */

static void free_worker(struct worker *w)
{
    struct process_end end;

    http_watch_remove(w->watch);
    http_timer_remove(w->idle);
    fd_close(&w->fd);
    process_kill_group(&w->process, NULL);
    if (w->process.pidfd >= 0)
        fd_wait_readable(w->process.pidfd, KILL_WAIT_MS);
    process_has_ended(&w->process, &end);
    process_close(&w->process);
    ledger_release(job_manager_ledger(w->workers->config->jobs), LEDGER_CHAT, w->key);
    if (w->gpu >= 0)
        ledger_release(job_manager_gpu_ledger(w->workers->config->jobs, w->gpu), LEDGER_CHAT, w->key);
    strbuf_deinit(&w->in);
    strbuf_deinit(&w->out);
    free(w->key);
    free(w);
}

static void free_request(struct chat_request *request)
{
    free(request->path);
    free(request->adapter_path);
    free(request->members);
    free(request);
}

/* Takes the worker out of the list, tells who waits, and ends the process. */
static void lose_worker(struct worker *w, const struct err *why)
{
    struct chat_request *r = w->requests;

    for (struct worker **at = &w->workers->list; *at; at = &(*at)->next) {
        if (*at == w) {
            *at = w->next;
            w->workers->count--;
            break;
        }
    }
    w->requests = NULL;
    while (r) {
        struct chat_request *next = r->next;
        r->sink.on_lost(r->sink.context, why);
        free_request(r);
        r = next;
    }
    free_worker(w);
}

static void on_idle(void *context)
{
    struct worker *w = context;

    if (!w->requests)
        lose_worker(w, &(struct err){0});
}

/* A job needs the memory. */
static void on_evict(void *context, const char *id)
{
    struct chat_workers *workers = context;

    for (struct worker *w = workers->list; w; w = w->next) {
        if (strcmp(w->key, id) == 0) {
            struct err why = {ERR_INTERNAL, "A fine-tuning job needed the memory of this model; try again later."};
            lose_worker(w, &why);
            return;
        }
    }
}

/* --- lines in --- */

static void unlink_request(struct worker *w, struct chat_request *request)
{
    int64_t idle_ms = w->workers->config->chat_idle_ms ? w->workers->config->chat_idle_ms : IDLE_MS;
    struct chat_request **at = &w->requests;

    while (*at != request)
        at = &(*at)->next;
    *at = request->next;
    if (!w->requests)
        http_timer_set(w->idle, http_loop_now_ms(w->workers->config->loop) + idle_ms);
}

static void end_request(struct worker *w, struct chat_request *request)
{
    unlink_request(w, request);
    free_request(request);
}

static void take_fatal(struct worker *w, const struct json *fatal)
{
    err_set(&w->fatal, ERR_INPUT, "The model could not be loaded: %.*s",
            STR_ARG(json_string_or(json_get(fatal, "message"), STR("unknown reason"))));
}

static void move_request(struct worker *w, struct chat_request *request);

static void take_line(struct worker *w, struct str text)
{
    struct arena arena = {0};
    const struct json *line = json_parse(&arena, text, NULL, NULL);
    int64_t id = json_integer_or(json_get(line, "id"), -1);
    bool is_last = json_get(line, "done") || json_get(line, "error");

    if (json_get(line, "fatal"))
        take_fatal(w, json_get(line, "fatal"));
    for (struct chat_request *r = w->requests; r; r = r->next) {
        if (r->id == id && json_bool_or(json_get(line, "alone"), false)) {
            move_request(w, r);
            break;
        }
        if (r->id == id) {
            r->sink.on_line(r->sink.context, line);
            if (is_last)
                end_request(w, r);
            break;
        }
    }
    arena_deinit(&arena);
}

static void take_lines(struct worker *w)
{
    struct str rest = strbuf_view(&w->in), line;

    while (str_take_line(&rest, &line))
        take_line(w, line);
    strbuf_drop(&w->in, w->in.len - rest.len);
}

static void flush(struct worker *w)
{
    while (w->out.len > 0) {
        long sent = fd_write_some(w->fd, w->out.at, w->out.len);
        if (sent <= 0)
            break;
        strbuf_drop(&w->out, (size_t)sent);
    }
    http_watch_set(w->watch, w->out.len > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void on_ready(void *context, uint32_t events)
{
    struct worker *w = context;
    char bytes[65536];
    long got = -1;

    (void)events;
    while ((got = fd_read_some(w->fd, bytes, sizeof bytes)) > 0) {
        strbuf_add(&w->in, bytes, (size_t)got);
        take_lines(w);
    }
    if (got == -1 && w->in.len <= LINE_BYTES_MAX) {
        flush(w);
        return;
    }
    if (!w->fatal.code)
        err_set(&w->fatal, ERR_INTERNAL, "The inference process of this model ended unexpectedly; try again.");
    struct err why = w->fatal;
    lose_worker(w, &why);
}

/* --- starting --- */

static int64_t weight_bytes(const char *folder)
{
    struct arena arena = {0};
    uint64_t bytes = 0, one;
    char **names;
    size_t count;

    if (dir_list(&arena, folder, &names, &count, NULL))
        for (size_t i = 0; i < count; i++)
            if (str_ends(str_of(names[i]), STR(".safetensors")) &&
                file_size(path_join(&arena, folder, names[i]), &one, NULL))
                bytes += one;
    arena_deinit(&arena);
    return (int64_t)bytes;
}

/* What adapters that share a base may take together. */
static int64_t adapter_room(int64_t base_bytes)
{
    return base_bytes / 8 + ADAPTER_BYTES_MIN;
}

/* What the prompts of requests that have ended may take, for those that begin alike. */
static int64_t prefix_room(int64_t base_bytes)
{
    return base_bytes / 16 + PREFIX_BYTES_MIN;
}

/* What a worker needs: its weights once more, its adapters, and room for activations and caches. */
static int64_t bytes_needed(const char *path, const char *adapter_path)
{
    int64_t bytes = weight_bytes(path), adapters = adapter_path ? 2 * weight_bytes(adapter_path) : adapter_room(bytes);

    return bytes + bytes / 4 + adapters + prefix_room(bytes) + WEIGHT_BYTES_MIN;
}

static bool spawn(struct worker *w, const char *path, const char *adapter_path, struct err *err)
{
    const struct job_devices *devices = job_manager_devices(w->workers->config->jobs);
    const char *argv[12] = {w->workers->program, "infer", "--model", path};
    char room[24], prefixes[24];
    int ends[2];
    bool ok;

    snprintf(room, sizeof room, "%lld", (long long)adapter_room(weight_bytes(path)));
    argv[4] = adapter_path ? "--adapter" : "--adapter-memory";
    argv[5] = adapter_path ? adapter_path : room;
    snprintf(prefixes, sizeof prefixes, "%lld", (long long)prefix_room(weight_bytes(path)));
    argv[6] = "--device";
    argv[7] = w->gpu >= 0 ? devices->gpu[w->gpu].name : "cpu";
    argv[8] = "--prefix-memory";
    argv[9] = prefixes;
    if (!socket_pair(ends, err))
        return false;
    w->fd = ends[0];
    ok = process_spawn(&w->process, &(struct process_spawn){.argv = argv, .output_path = "/dev/null", .io_fd = ends[1]},
                       err) &&
         process_go(&w->process, err);
    fd_close(&ends[1]);
    return ok && fd_set_nonblocking(w->fd, err);
}

static void make_room(struct chat_workers *workers)
{
    if (workers->count < WORKERS_MAX)
        return;
    for (struct worker *w = workers->list; w; w = w->next) {
        if (!w->requests) {
            lose_worker(w, &(struct err){0});
            return;
        }
    }
}

/* On a GPU that no job has and whose memory suffices, else on the processor. A job that comes ends the worker. */
static bool place(struct worker *w, int64_t bytes, struct err *err)
{
    struct job_manager *jobs = w->workers->config->jobs;
    struct ledger_claim claim = {.owner = LEDGER_CHAT, .id = w->key, .evict = on_evict, .context = w->workers};

    for (int i = 0; i < job_manager_devices(jobs)->count && w->gpu < 0; i++) {
        claim.bytes = bytes + CACHE_BYTES_MIN;
        if (ledger_reserve(job_manager_gpu_ledger(jobs, i), &claim, NULL))
            w->gpu = i;
    }
    claim.bytes = w->gpu >= 0 ? GPU_HOST_BYTES : bytes;
    return ledger_reserve(job_manager_ledger(jobs), &claim, err);
}

static struct worker *start_worker(struct chat_workers *workers, const char *path, const char *adapter_path,
                                   const char *key, struct err *err)
{
    struct worker *w = mem_alloc_zero(1, sizeof *w);

    w->workers = workers;
    w->key = mem_copy_text(key);
    w->fd = -1;
    w->process = PROCESS_NONE;
    w->gpu = -1;
    make_room(workers);
    if (workers->count >= WORKERS_MAX) {
        err_set(err, ERR_NO_SPACE, "%d models are answering already; try again later.", WORKERS_MAX);
        goto failed;
    }
    if (!place(w, bytes_needed(path, adapter_path), err) || !spawn(w, path, adapter_path, err))
        goto failed;
    w->watch = http_loop_add_fd(workers->config->loop, w->fd, EPOLLIN, on_ready, w, err);
    w->idle = http_loop_add_timer(workers->config->loop, INT64_MAX, on_idle, w);
    if (!w->watch || !w->idle)
        goto failed;
    w->next = workers->list;
    workers->list = w;
    workers->count++;
    return w;
failed:
    free_worker(w);
    return NULL;
}

/* The worker of a base, or that of an adapter which has a base for itself. It is started when there is none; not with
 * is_found. */
static struct worker *find_worker(struct chat_workers *workers, const char *path, const char *adapter_path,
                                  bool is_found, struct err *err)
{
    struct arena arena = {0};
    const char *key = arena_printf(&arena, "%s\n%s", path, adapter_path ? adapter_path : "");
    struct worker *w = workers->list;

    while (w && strcmp(w->key, key) != 0)
        w = w->next;
    if (!w && !is_found)
        w = start_worker(workers, path, adapter_path, key, err);
    arena_deinit(&arena);
    return w;
}

/* is_alone: the worker has the request's adapter and no other. */
static void hand_over(struct chat_request *request, struct worker *w, bool is_alone)
{
    struct json_writer writer = {.buf = &w->out};

    request->worker = w;
    request->next = w->requests;
    w->requests = request;
    http_timer_set(w->idle, INT64_MAX);
    strbuf_printf(&w->out, "{\"id\": %lld, ", (long long)request->id);
    if (request->adapter_path && !is_alone) {
        strbuf_add_str(&w->out, STR("\"adapter\": "));
        json_write_string(&writer, str_of(request->adapter_path));
        strbuf_add_str(&w->out, STR(", "));
    }
    strbuf_add_str(&w->out, str_of(request->members));
    strbuf_add_str(&w->out, STR("}\n"));
    flush(w);
}

/* The adapter cannot share its base: it gets a worker of its own. The request stays with the old one until there is a
 * new one, which else might be ended for it. */
static void move_request(struct worker *w, struct chat_request *request)
{
    struct err err = {0};
    struct worker *own = find_worker(w->workers, request->path, request->adapter_path, false, &err);

    unlink_request(w, request);
    if (own) {
        hand_over(request, own, true);
        return;
    }
    request->sink.on_lost(request->sink.context, &err);
    free_request(request);
}

struct chat_request *workers_send(struct chat_workers *workers, const struct model_place *place, struct str members,
                                  const struct chat_sink *sink, struct err *err)
{
    struct worker *own = NULL, *w;
    struct chat_request *request;

    if (place->adapter_path)
        own = find_worker(workers, place->path, place->adapter_path, true, err);
    w = own ? own : find_worker(workers, place->path, NULL, false, err);
    if (!w)
        return NULL;
    request = mem_alloc_zero(1, sizeof *request);
    *request = (struct chat_request){.id = ++workers->next_id, .sink = *sink, .path = mem_copy_text(place->path)};
    request->adapter_path = place->adapter_path ? mem_copy_text(place->adapter_path) : NULL;
    request->members = mem_alloc(members.len + 1);
    memcpy(request->members, members.at, members.len);
    request->members[members.len] = 0;
    hand_over(request, w, own != NULL);
    return request;
}

void workers_cancel(struct chat_workers *workers, struct chat_request *request)
{
    struct worker *w = request->worker;

    (void)workers;
    strbuf_printf(&w->out, "{\"id\": %lld, \"cancel\": true}\n", (long long)request->id);
    flush(w);
    end_request(w, request);
}

struct chat_workers *workers_new(const struct api_config *config, struct err *err)
{
    struct chat_workers *workers = mem_alloc_zero(1, sizeof *workers);

    workers->config = config;
    if (config->program && strlen(config->program) < sizeof workers->program)
        memcpy(workers->program, config->program, strlen(config->program) + 1);
    else if (!process_self_path(workers->program, sizeof workers->program, err)) {
        free(workers);
        return NULL;
    }
    return workers;
}

static void on_stop(void *context)
{
    struct chat_workers *workers = context;

    while (workers->list)
        lose_worker(workers->list, &(struct err){ERR_INTERNAL, "The server is stopping; try again later."});
}

void workers_stop(struct chat_workers *workers, int64_t in_ms)
{
    struct http_loop *loop = workers->config->loop;

    if (!workers->stop)
        workers->stop = http_loop_add_timer(loop, http_loop_now_ms(loop) + in_ms, on_stop, workers);
}

void workers_free(struct chat_workers *workers)
{
    if (!workers)
        return;
    http_timer_remove(workers->stop);
    on_stop(workers);
    free(workers);
}
