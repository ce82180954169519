#include "hub/fetcher.h"

#include "base/json.h"
#include "base/log.h"
#include "hub/cache.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/process.h"
#include "os/socket.h"
#include "store/queue.h"
#include "store/secrets.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    FETCHES_MAX = 2,
    REAP_MS = 1000, /* for a child that was killed */
    RETRY_MS = 5000,
    FAILURES_MAX = 5, /* in a row; a child itself goes on after broken transfers */
    LOOK_MS = 60000,  /* a fetcher that nobody wakes looks none the less */
    LINE_BYTES_MAX = 64 << 10,
};

/* A job that waits for its weights, and the child that fetches them. */
struct fetch {
    struct fetcher *fetcher;
    struct fetch *next;
    struct arena arena; /* of the row */
    struct store_job job;
    struct tenant tenant;
    const char *repo, *owner; /* of the promise of room */
    bool is_wanted;           /* the job still waits */
    int failures;
    bool was_full;   /* the disk, in the middle of it */
    int64_t next_ms; /* not before */

    struct process process; /* pidfd -1: none now */
    int talk_fd;
    struct http_watch *watch;
    struct strbuf line;
    struct arena said; /* what the child told */
    const char *model_path, *adapter_path, *end;
    struct err problem;
    int repos, tenths; /* told of: which repository, how much of it */
    int64_t missing;   /* bytes that are still to come */
};

struct fetcher {
    struct fetcher_config config;
    struct arena arena;
    char program[PATH_MAX];
    const char *log_path;
    struct http_timer *timer;
    struct fetch *first;
};

static void complain(const struct fetch *fetch, const char *what, const struct err *err)
{
    log_line("job %s: fetching %s: %s: %s", fetch->job.id, fetch->repo, what, err->text);
}

static bool is_at_work(const struct fetch *fetch)
{
    return fetch->talk_fd >= 0;
}

/* --- the document --- */

/* The job's own, else what the project keeps as HF_TOKEN. */
static bool put_token(struct json_writer *w, struct fetch *fetch, struct err *err)
{
    struct store *store = fetch->fetcher->config.store;
    struct secret token = {0};
    bool ok = store_secret_get(store, &fetch->tenant, fetch->job.id, "from_checkpoint.token", &token, err) ||
              (err->code == ERR_NOT_FOUND && store_secret_get(store, &fetch->tenant, "", "HF_TOKEN", &token, err));

    if (ok)
        json_put_str(w, "token", secret_reveal(&token));
    secret_wipe(&token);
    return ok || err->code == ERR_NOT_FOUND || err->code == ERR_UNSUPPORTED;
}

static bool write_document(struct fetch *fetch, struct strbuf *text, struct err *err)
{
    const struct fetcher_config *config = &fetch->fetcher->config;
    const struct json *base = json_parse(&fetch->arena, str_of(fetch->job.base_json), NULL, err);
    struct json_writer w = {.buf = text};
    bool ok;

    if (!base)
        return false;
    strbuf_reserve(text, 64 << 10); /* a buffer that does not move leaves no copies of secrets behind */
    json_write_begin_object(&w);
    json_put_text(&w, "endpoint", config->endpoint);
    json_put_bool(&w, "is_offline", config->endpoint == NULL);
    json_put_text(&w, "origins", config->origins);
    json_put_text(&w, "cache", config->cache);
    json_put_text(&w, "own_cache", hub_cache_of_project(&fetch->arena, config->data_dir, fetch->job.project_id));
    json_put_text(&w, "models_dir", config->models_dir);
    json_each(member, base) {
        json_write_key_str(&w, member->key);
        json_write_value(&w, member);
    }
    ok = put_token(&w, fetch, err);
    json_write_end_object(&w);
    return ok;
}

/* --- events --- */

static void tell(struct fetch *fetch, const char *level, const char *code, const char *text, const char *data)
{
    const struct fetcher_config *config = &fetch->fetcher->config;
    struct err err = {0};

    if (!store_event_add(config->store, &fetch->tenant, fetch->job.id, level, code, text, data, &err))
        complain(fetch, "cannot store an event", &err);
    else if (config->on_change)
        config->on_change(config->on_change_context, &fetch->tenant, fetch->job.id);
}

/* --- a child's end --- */

static void child_end(struct fetch *fetch)
{
    struct process_end end;

    if (!is_at_work(fetch))
        return;
    http_watch_remove(fetch->watch);
    process_kill_group(&fetch->process, NULL);
    if (fetch->process.pidfd >= 0)
        fd_wait_readable(fetch->process.pidfd, REAP_MS);
    process_has_ended(&fetch->process, &end);
    process_close(&fetch->process);
    fd_close(&fetch->talk_fd);
    strbuf_clear(&fetch->line);
    fetch->watch = NULL;
    disk_release(fetch->fetcher->config.disk, fetch->owner);
}

static void fetch_free(struct fetch *fetch)
{
    struct fetch **at = &fetch->fetcher->first;

    while (*at != fetch)
        at = &(*at)->next;
    *at = fetch->next;
    child_end(fetch);
    strbuf_deinit(&fetch->line);
    arena_deinit(&fetch->said);
    arena_deinit(&fetch->arena);
    free(fetch);
}

static void fail(struct fetch *fetch)
{
    struct err err = {0};

    err_prefix(&fetch->problem, "the job's weights (%s) could not be fetched", fetch->repo);
    if (!job_base_failed(fetch->fetcher->config.jobs, fetch->job.id, &fetch->problem, &err) && err.code != ERR_CONFLICT)
        complain(fetch, "cannot store that it failed", &err);
}

static void arrive(struct fetch *fetch)
{
    struct err err = {0};

    if (job_base_arrived(fetch->fetcher->config.jobs, fetch->job.id, fetch->model_path, fetch->adapter_path, &err))
        return;
    complain(fetch, "its weights are here", &err);
    if (err.code == ERR_CONFLICT)
        return;
    fetch->problem = err;
    fail(fetch);
}

static void try_later(struct fetch *fetch)
{
    const int64_t wait_ms = fetch->fetcher->config.retry_ms << fetch->failures;

    fetch->next_ms = clock_monotonic_ms() + wait_ms;
    fetch->failures++;
    tell(fetch, "warn", arena_printf(&fetch->said, "fetch_failure_%d", fetch->failures),
         arena_printf(&fetch->said, "%s: %s. It is tried again in %lld s", fetch->repo, fetch->problem.text,
                      (long long)(wait_ms + 999) / 1000),
         "{}");
}

/* Where the disk filled up once more, all would only come again for nothing. */
static bool may_try_again(struct fetch *fetch)
{
    const bool was_full = fetch->was_full;

    if (fetch->problem.code != ERR_NO_SPACE)
        return fetch->failures + 1 < FAILURES_MAX;
    fetch->was_full = true;
    return !was_full;
}

/* The job's next look finds it ready, failed, or still waiting. */
static void judge(struct fetch *fetch)
{
    const char *end = fetch->end ? fetch->end : "retry";

    child_end(fetch);
    if (!fetch->end)
        err_set(&fetch->problem, ERR_IO, "its process ended without a word");
    if (strcmp(end, "ok") == 0 && fetch->model_path)
        arrive(fetch);
    else if (strcmp(end, "retry") == 0 && may_try_again(fetch))
        try_later(fetch);
    else
        fail(fetch);
    fetcher_wake(fetch->fetcher);
}

/* --- what a child tells --- */

static const char *bytes_json(struct fetch *fetch, int64_t bytes, int64_t total)
{
    return arena_printf(&fetch->said, "{\"bytes\":%lld,\"total_bytes\":%lld}", (long long)bytes, (long long)total);
}

static double gib(int64_t bytes)
{
    return (double)bytes / (double)(1 << 30);
}

/* What lies in the caches, and what others are fetching. */
static bool bytes_taken(const struct fetch *fetch, int64_t *taken, struct err *err)
{
    const struct fetcher *fetcher = fetch->fetcher;
    struct arena arena = {0};
    uint64_t shared = 0, own = 0;
    bool ok = dir_bytes(fetcher->config.cache, &shared, err) &&
              dir_bytes(path_join(&arena, fetcher->config.data_dir, HUB_CACHES_OF_PROJECTS), &own, err);

    *taken = (int64_t)(shared + own);
    for (const struct fetch *other = fetcher->first; other; other = other->next)
        *taken += other != fetch && is_at_work(other) ? other->missing : 0;
    arena_deinit(&arena);
    return ok;
}

static bool is_within_limit(const struct fetch *fetch, int64_t missing, struct err *err)
{
    const int64_t max = fetch->fetcher->config.bytes_max;
    int64_t taken;

    if (max == 0 || missing == 0)
        return true;
    if (!bytes_taken(fetch, &taken, err))
        return false;
    return missing <= max - taken ||
           err_set(err, ERR_NO_SPACE,
                   "%lld MiB are missing, and models of the Hub, which may take %lld MiB here, take %lld MiB already: "
                   "whoever runs the server can evict some ('attune models evict')",
                   (long long)missing >> 20, (long long)max >> 20, (long long)taken >> 20);
}

/* False when there is no room for it. */
static bool promise(struct fetch *fetch, int64_t bytes, int64_t present, struct err *err)
{
    const struct fetcher_config *config = &fetch->fetcher->config;

    fetch->missing = bytes - present;
    if (!is_within_limit(fetch, bytes - present, err))
        return false;
    return !path_is_same_disk(config->cache, config->data_dir) ||
           disk_promise(config->disk, fetch->owner, bytes, present, err);
}

static void take_plan(struct fetch *fetch, const struct json *plan)
{
    const int64_t bytes = json_integer_or(json_get(plan, "bytes"), 0),
                  present = json_integer_or(json_get(plan, "present_bytes"), 0);
    struct str repo = json_string_or(json_get(plan, "repo"), STR_NONE),
               commit = json_string_or(json_get(plan, "commit"), STR_NONE);

    fetch->repos++;
    fetch->tenths = 0;
    tell(fetch, "info", arena_printf(&fetch->said, "fetch_%d", fetch->repos),
         arena_printf(&fetch->said, "Fetching %.*s at commit %.*s: %.2f GiB, of which %.2f GiB are here",
                      STR_ARG(str_clip(repo, 200)), STR_ARG(str_clip(commit, 12)), gib(bytes), gib(present)),
         bytes_json(fetch, present, bytes));
    if (!promise(fetch, bytes, present, &fetch->problem))
        fetch->end = "failed";
    else
        fd_write_some(fetch->talk_fd, "g", 1);
}

static void take_progress(struct fetch *fetch, const struct json *progress)
{
    const int64_t bytes = json_integer_or(json_get(progress, "bytes"), 0),
                  total = json_integer_or(json_get(progress, "total_bytes"), 0);
    const int tenths = total > 0 ? (int)(10 * (double)bytes / (double)total) : 10;
    struct str repo = json_string_or(json_get(progress, "repo"), STR_NONE);

    disk_note_written(fetch->fetcher->config.disk, fetch->owner, bytes);
    fetch->missing = total - bytes;
    if (tenths <= fetch->tenths)
        return;
    fetch->tenths = tenths;
    fetch->failures = 0;
    tell(fetch, "info", arena_printf(&fetch->said, "fetch_%d_%d", fetch->repos, tenths),
         arena_printf(&fetch->said, "%.*s: %d %% of %.2f GiB are here", STR_ARG(str_clip(repo, 200)), 10 * tenths,
                      gib(total)),
         bytes_json(fetch, bytes, total));
}

static void take_end(struct fetch *fetch, const struct json *line)
{
    struct str end = json_string_or(json_get(line, "end"), STR_NONE),
               message = json_string_or(json_get(line, "message"), STR_NONE);
    const char *name = str_copy(&fetch->said, json_string_or(json_get(line, "code"), STR_NONE));
    enum err_code code = ERR_IO;

    fetch->end = str_copy(&fetch->said, end);
    err_code_find(name, &code);
    err_set(&fetch->problem, code, "%.*s", STR_ARG(str_clip(message, 700)));
    log_redact(fetch->problem.text);
}

static const char *text_or_null(struct fetch *fetch, const struct json *value)
{
    return json_has_type(value, JSON_STRING) ? str_copy(&fetch->said, value->string) : NULL;
}

static void take_line(struct fetch *fetch, struct str text)
{
    struct err err = {0};
    const struct json *line = json_parse(&fetch->said, text, NULL, &err), *model = json_get(line, "model");

    if (!line)
        complain(fetch, "its process said something else than JSON", &err);
    if (json_get(line, "plan"))
        take_plan(fetch, json_get(line, "plan"));
    if (json_get(line, "progress"))
        take_progress(fetch, json_get(line, "progress"));
    if (model) {
        fetch->model_path = text_or_null(fetch, json_get(model, "path"));
        fetch->adapter_path = text_or_null(fetch, json_get(model, "adapter_path"));
    }
    if (json_get(line, "end"))
        take_end(fetch, line);
}

static void take_lines(struct fetch *fetch)
{
    struct str rest = strbuf_view(&fetch->line), line;

    while (str_take_line(&rest, &line))
        take_line(fetch, str_of(str_copy(&fetch->said, line)));
    strbuf_drop(&fetch->line, fetch->line.len - rest.len);
}

static void on_output(void *context, uint32_t events)
{
    struct fetch *fetch = context;
    char bytes[4096];
    long got;

    (void)events;
    while ((got = fd_read_some(fetch->talk_fd, bytes, sizeof bytes)) > 0) {
        strbuf_add(&fetch->line, bytes, (size_t)got);
        take_lines(fetch);
        if (fetch->line.len > LINE_BYTES_MAX || fetch->end)
            break;
    }
    if (got != -1)
        judge(fetch);
}

/* --- the begin --- */

static bool launch(struct fetch *fetch, int in_fd, struct err *err)
{
    struct fetcher *fetcher = fetch->fetcher;
    const char *const argv[] = {fetcher->program, "fetch", NULL};
    int ends[2];
    bool ok;

    if (!socket_pair(ends, err))
        return false;
    fetch->talk_fd = ends[0];
    fetch->process = PROCESS_NONE;
    ok = fd_set_nonblocking(ends[0], err) &&
         process_spawn(&fetch->process,
                       &(struct process_spawn){
                           .argv = argv, .output_path = fetcher->log_path, .input_fd = in_fd, .io_fd = ends[1]},
                       err) &&
         process_go(&fetch->process, err);
    fd_close(&ends[1]);
    if (ok)
        fetch->watch = http_loop_add_fd(fetcher->config.loop, ends[0], EPOLLIN, on_output, fetch, err);
    return fetch->watch != NULL;
}

static void forget(struct fetch *fetch)
{
    fetch->model_path = fetch->adapter_path = fetch->end = NULL;
    fetch->problem = (struct err){0};
    fetch->repos = fetch->tenths = 0;
    arena_reset(&fetch->said);
}

static void start(struct fetch *fetch)
{
    struct strbuf text = {0};
    struct err err = {0};
    int in_fd = -1;

    forget(fetch);
    if (!write_document(fetch, &text, &err) || (in_fd = fd_in_memory("a fetch", strbuf_view(&text), &err)) < 0 ||
        !launch(fetch, in_fd, &err)) {
        complain(fetch, "cannot start a process", &err);
        child_end(fetch);
        try_later(fetch);
    }
    memory_erase(text.at, text.len);
    strbuf_deinit(&text);
    fd_close(&in_fd);
}

/* --- which --- */

static struct fetch *find(struct fetcher *fetcher, const char *job_id)
{
    struct fetch *fetch = fetcher->first;

    while (fetch && strcmp(fetch->job.id, job_id) != 0)
        fetch = fetch->next;
    return fetch;
}

static void add(struct fetcher *fetcher, const struct store_job *job)
{
    struct fetch *fetch = mem_alloc_zero(1, sizeof *fetch);
    struct err err = {0};

    *fetch = (struct fetch){
        .fetcher = fetcher, .next = fetcher->first, .process = PROCESS_NONE, .talk_fd = -1, .is_wanted = true};
    fetcher->first = fetch;
    fetch->job.id = str_copy(&fetch->arena, str_of(job->id));
    fetch->job.project_id = str_copy(&fetch->arena, str_of(job->project_id));
    fetch->job.base_json = str_copy(&fetch->arena, str_of(job->base_json));
    fetch->owner = arena_printf(&fetch->arena, "fetch %s", job->id);
    fetch->repo =
        str_copy(&fetch->arena,
                 json_string_or(json_get(json_parse(&fetch->arena, str_of(fetch->job.base_json), NULL, &err), "repo"),
                                STR("?")));
    snprintf(fetch->tenant.organization_id, sizeof fetch->tenant.organization_id, "%s", job->organization_id);
    snprintf(fetch->tenant.project_id, sizeof fetch->tenant.project_id, "%s", job->project_id);
}

/* The job has its weights or needs none: nobody needs the token any more. */
static void drop_token(struct fetch *fetch)
{
    struct err err = {0};

    if (!store_secret_delete(fetch->fetcher->config.store, &fetch->tenant, fetch->job.id, "from_checkpoint.token",
                             &err) &&
        err.code != ERR_NOT_FOUND)
        complain(fetch, "cannot forget its token", &err);
}

/* Those that wait now; the others' children end. */
static void look(struct fetcher *fetcher, const struct store_job_list *jobs)
{
    struct fetch *next, *fetch;

    for (fetch = fetcher->first; fetch; fetch = fetch->next)
        fetch->is_wanted = false;
    for (size_t i = 0; i < jobs->count; i++) {
        if ((fetch = find(fetcher, jobs->at[i].id)))
            fetch->is_wanted = true;
        else
            add(fetcher, &jobs->at[i]);
    }
    for (fetch = fetcher->first; fetch; fetch = next) {
        next = fetch->next;
        if (fetch->is_wanted)
            continue;
        drop_token(fetch);
        fetch_free(fetch);
    }
}

/* Two for one repository would wait for each other's files: the second begins when the first has them. */
static bool may_start(const struct fetch *fetch)
{
    int count = 0;

    for (const struct fetch *other = fetch->fetcher->first; other; other = other->next) {
        if (!is_at_work(other))
            continue;
        count++;
        if (strcmp(other->repo, fetch->repo) == 0)
            return false;
    }
    return count < fetch->fetcher->config.fetches_max;
}

static void on_due(void *context)
{
    struct fetcher *fetcher = context;
    const int64_t now_ms = clock_monotonic_ms();
    struct store_job_list jobs = {0};
    struct arena arena = {0};
    struct err err = {0};
    int64_t wait_ms = LOOK_MS;

    if (store_queue_to_fetch(fetcher->config.store, &arena, &jobs, &err)) {
        look(fetcher, &jobs);
        for (size_t i = 0; i < jobs.count; i++) {
            struct fetch *fetch = find(fetcher, jobs.at[i].id);

            if (is_at_work(fetch) || !may_start(fetch))
                continue;
            if (fetch->next_ms <= now_ms)
                start(fetch);
            if (!is_at_work(fetch) && fetch->next_ms - now_ms < wait_ms)
                wait_ms = fetch->next_ms - now_ms;
        }
    } else {
        log_line("attune serve: cannot look for jobs that wait for weights: %s", err.text);
    }
    http_timer_set(fetcher->timer, http_loop_now_ms(fetcher->config.loop) + (wait_ms > 0 ? wait_ms : 0));
    arena_deinit(&arena);
}

/* --- its life --- */

struct fetcher *fetcher_new(const struct fetcher_config *config, struct err *err)
{
    struct fetcher *fetcher = mem_alloc_zero(1, sizeof *fetcher);

    fetcher->config = *config;
    fetcher->config.cache = config->cache ? config->cache : path_join(&fetcher->arena, config->data_dir, "hub");
    fetcher->config.fetches_max = config->fetches_max ? config->fetches_max : FETCHES_MAX;
    fetcher->config.retry_ms = config->retry_ms ? config->retry_ms : RETRY_MS;
    fetcher->log_path = path_join(&fetcher->arena, config->data_dir, "fetch.log");
    if (config->program)
        snprintf(fetcher->program, sizeof fetcher->program, "%s", config->program);
    else if (!process_self_path(fetcher->program, sizeof fetcher->program, err)) {
        fetcher_free(fetcher);
        return NULL;
    }
    fetcher->timer = http_loop_add_timer(config->loop, http_loop_now_ms(config->loop), on_due, fetcher);
    return fetcher;
}

void fetcher_wake(struct fetcher *fetcher)
{
    http_timer_set(fetcher->timer, http_loop_now_ms(fetcher->config.loop));
}

void fetcher_free(struct fetcher *fetcher)
{
    if (!fetcher)
        return;
    while (fetcher->first)
        fetch_free(fetcher->first);
    http_timer_remove(fetcher->timer);
    arena_deinit(&fetcher->arena);
    free(fetcher);
}
