#include "api/api.h"
#include "base/log.h"
#include "cli/certificates.h"
#include "cli/cli.h"
#include "cli/job_waiting.h"
#include "cli/secret_key.h"
#include "cli/serve_options.h"
#include "cli/training_check.h"
#include "http/access_log.h"
#include "http/loop.h"
#include "http/server.h"
#include "hub/cache.h"
#include "hub/fetcher.h"
#include "job/manager.h"
#include "os/background.h"
#include "os/file.h"
#include "os/process.h"
#include "store/blobs.h"
#include "store/keys.h"
#include "store/secrets.h"
#include "store/store.h"
#include "train/train.h"
#include "track/tracker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_KEY "first-key"
#define HUB       "https://huggingface.co"

enum { DESCRIPTORS = 4096, CONNECTIONS_MAX = 1024, BACKGROUND_THREADS = 4, STOP_GRACE_MS = 5000 };

struct serve {
    struct serve_options options;
    struct http_loop *loop;
    struct keyring *keyring; /* NULL: the server keeps no secrets */
    struct store *store;
    struct blobs *blobs;
    struct background *background;
    struct http_watch *background_watch;
    struct disk *disk;
    struct job_devices *devices;
    struct job_manager *jobs;
    struct tracker *tracker;
    struct fetcher *fetcher;
    struct outgoing_policy origins;
    struct job_waiting waiting;
    struct api *api;
    struct certificates *certificates;
    struct access_log *access_log;
    struct http_server *server;
    struct arena arena; /* the paths */
    const char *data_dir, *models_dir, *hub_cache, *hub_url, *hub_endpoint;
    bool has_first_key;
};

static void background_ready(void *context, uint32_t events)
{
    background_collect(((struct serve *)context)->background);
}

static bool open_background(struct serve *s, struct err *err)
{
    s->background = background_new(BACKGROUND_THREADS, err);
    if (s->background)
        s->background_watch =
            http_loop_add_fd(s->loop, background_fd(s->background), EPOLLIN, background_ready, s, err);
    return s->background_watch != NULL;
}

/* --- start and stop --- */

static bool is_offline(void)
{
    const char *value = getenv("HF_HUB_OFFLINE");

    return value && *value && strcmp(value, "0") != 0;
}

/* Models come from the Hub when the operator lets requests go there. */
static bool find_hub(struct serve *s, struct err *err)
{
    const char *endpoint = getenv("HF_ENDPOINT");
    struct outgoing_url url;

    s->hub_url = endpoint && *endpoint ? endpoint : HUB;
    if (!outgoing_url_parse(&s->arena, str_of(s->hub_url), &url, err))
        return err_prefix(err, "HF_ENDPOINT");
    if (!is_offline() && outgoing_find_rule(&s->origins, &url, NULL))
        s->hub_endpoint = s->hub_url;
    s->hub_cache = hub_cache_default(&s->arena);
    if (!s->hub_cache)
        s->hub_cache = path_join(&s->arena, s->data_dir, "hub");
    return true;
}

static bool open_folders(struct serve *s, struct err *err)
{
    struct outgoing_url wandb;

    if (!outgoing_policy_parse(&s->arena, s->options.outgoing, &s->origins, err))
        return err_prefix(err, "--outgoing");
    if (!s->options.wandb_url)
        s->options.wandb_url = getenv("WANDB_BASE_URL") ? getenv("WANDB_BASE_URL") : "https://api.wandb.ai";
    if (!outgoing_url_parse(&s->arena, str_of(s->options.wandb_url), &wandb, err))
        return err_prefix(err, "--wandb-url");
    if (!dir_make_last(s->options.data, err) || !(s->data_dir = path_absolute(&s->arena, s->options.data, err)))
        return err_prefix(err, "--data");
    if (s->options.models && !(s->models_dir = path_absolute(&s->arena, s->options.models, err)))
        return err_prefix(err, "--models");
    return find_hub(s, err);
}

static void jobs_changed(void *context, const struct tenant *tenant, const char *job_id)
{
    struct serve *s = context;

    if (s->api) /* recovery comes before it */
        api_job_changed(s->api);
    if (s->tracker)
        tracker_wake(s->tracker);
    if (s->fetcher)
        fetcher_wake(s->fetcher);
}

/* As if a client had cancelled it; a job that has ended meanwhile has. */
static void job_stopped(void *context, const struct tenant *tenant, const char *job_id)
{
    struct serve *s = context;
    struct arena arena = {0};
    struct store_job job;
    struct err err = {0};

    if (!job_cancel(s->jobs, tenant, job_id, &arena, &job, &err) && err.code != ERR_CONFLICT)
        log_line("job %s: cannot cancel it, as a tracker was asked to: %s", job_id, err.text);
    arena_deinit(&arena);
}

static bool open_tracker(struct serve *s, struct err *err)
{
    s->tracker = tracker_new(&(struct tracker_config){.loop = s->loop,
                                                      .store = s->store,
                                                      .data_dir = s->data_dir,
                                                      .origins = s->options.outgoing,
                                                      .wandb_url = s->options.wandb_url,
                                                      .hub_url = s->hub_url,
                                                      .on_change = jobs_changed,
                                                      .on_stop = job_stopped,
                                                      .callback_context = s},
                             err);
    return s->tracker != NULL;
}

static bool open_fetcher(struct serve *s, struct err *err)
{
    s->fetcher = fetcher_new(&(struct fetcher_config){.loop = s->loop,
                                                      .store = s->store,
                                                      .jobs = s->jobs,
                                                      .disk = s->disk,
                                                      .data_dir = s->data_dir,
                                                      .endpoint = s->hub_endpoint,
                                                      .origins = s->options.outgoing,
                                                      .cache = s->hub_cache,
                                                      .models_dir = s->models_dir,
                                                      .bytes_max = s->options.hub_bytes_max,
                                                      .on_change = jobs_changed,
                                                      .on_change_context = s},
                             err);
    return s->fetcher != NULL;
}

/* The driver is a child's affair. */
static bool find_devices(struct serve *s, bool *has_cpu, struct err *err)
{
    char program[4096];

    s->devices = arena_new(&s->arena, struct job_devices);
    if (!process_self_path(program, sizeof program, err))
        return false;
    devices_probe(program, s->devices);
    return devices_choose(s->devices, s->options.devices, has_cpu, err) || err_prefix(err, "--devices");
}

static bool open_jobs(struct serve *s, struct err *err)
{
    bool has_cpu;

    if (!find_devices(s, &has_cpu, err))
        return false;
    struct job_config config = {
        .data_dir = s->data_dir,
        .store = s->store,
        .blobs = s->blobs,
        .background = s->background,
        .disk = s->disk,
        .loop = job_waiting_begin(&s->waiting, s->loop),
        .jobs_max = (int)s->options.jobs,
        .devices = s->devices,
        .is_without_cpu = !has_cpu,
        .nice = (int)s->options.nice,
        .memory_bytes = s->options.memory,
        .plan_bytes = train_plan_bytes,
        .hung_ms = 1000 * s->options.hung_seconds,
        .on_change = jobs_changed,
        .on_change_context = s,
    };

    s->waiting.manager = s->jobs = job_manager_new(&config, err);
    return s->jobs && job_manager_start(s->jobs, err);
}

/* Without any key nobody could use the API, and one made with 'attune keys' would need the server to stop. */
static bool make_first_key(struct serve *s, struct err *err)
{
    struct tenant tenant = tenant_default();
    struct arena arena = {0};
    struct store_key_list keys;
    const char *path = path_join(&arena, s->data_dir, FIRST_KEY);
    char key[API_KEY_BYTES];
    bool ok = key_list(s->store, &tenant, &(struct store_page){.limit = 1}, &arena, &keys, err);
    int fd;

    if (ok && keys.count == 0) {
        fd = file_create_secret(path, err);
        ok = fd >= 0 && key_create(s->store, &tenant, "first", "read write admin", key, err) &&
             fd_write_all(fd, key, strlen(key), path, err) && fd_write_all(fd, "\n", 1, path, err) &&
             fd_sync(fd, path, err);
        fd_close(&fd);
        s->has_first_key = ok;
    }
    arena_deinit(&arena);
    return ok;
}

/* A connection may hold three descriptors: its socket, a file it downloads or uploads, a model's worker. */
static int connections_max(void)
{
    int most = process_reserve_descriptors(DESCRIPTORS) / 3;

    return most < CONNECTIONS_MAX ? most : CONNECTIONS_MAX;
}

/* An operator's 0 lifts a limit, which is -1 in the rooms' configurations. */
static int64_t none_at_zero(int64_t limit)
{
    return limit ? limit : -1;
}

/* A server whose user has no place for a key keeps no secrets and says so, unless somebody named the place or there are
 * secrets already. */
static bool open_secrets(struct serve *s, struct err *err)
{
    struct master_key key = {0};
    struct err problem = {0};
    bool any = false, ok;

    ok = store_secret_any(s->store, &any, err) &&
         master_key_find(&key, &s->arena, s->options.secret_key_file, (int)s->options.secret_key_fd, s->data_dir, err);
    if (ok && !(s->keyring = master_key_open(&key, !any, &problem))) {
        ok = !any && key.is_standard;
        if (ok)
            log_line("attune serve: no secrets can be kept: %s", problem.text);
        else
            err_set(err, problem.code, "%s%s",
                    any ? "the database holds secrets, and their master key is missing: " : "", problem.text);
    }
    if (ok && s->keyring && !store_use_keyring(s->store, s->keyring, err))
        ok = err_prefix(err, "%s is not the right master key", key.from);
    master_key_wipe(&key);
    return ok;
}

static void request_done(void *context, const struct http_request *request, const struct http_outcome *outcome)
{
    struct serve *s = context;

    api_request_done(s->api, request, outcome);
    if (s->access_log)
        access_log_note(s->access_log, request, outcome);
}

static bool open_api(struct serve *s, struct err *err)
{
    s->api = api_new(&(struct api_config){.loop = s->loop,
                                          .store = s->store,
                                          .blobs = s->blobs,
                                          .background = s->background,
                                          .disk = s->disk,
                                          .jobs = s->jobs,
                                          .data_dir = s->data_dir,
                                          .models_dir = s->models_dir,
                                          .hub_cache = s->hub_cache,
                                          .hub_url = s->hub_url,
                                          .hub_endpoint = s->hub_endpoint,
                                          .is_open = s->options.is_open,
                                          .nice = (int)s->options.nice,
                                          .recovery_steps = s->options.recovery_steps,
                                          .audit_days = s->options.audit_days,
                                          .auth_failures_per_minute = none_at_zero(s->options.auth_failures),
                                          .is_local = serve_is_local(&s->options),
                                          .public_host = s->options.public_host,
                                          .origins = s->origins,
                                          .outgoing = s->options.outgoing,
                                          .wandb_url = s->options.wandb_url,
                                          .checker = training_check},
                     err);
    return s->api != NULL;
}

static bool open_server(struct serve *s, struct err *err)
{
    struct http_handler handler = api_handler(s->api);
    struct http_config config = {.host = s->options.host,
                                 .port = (int)s->options.port,
                                 .tls = certificates_tls(s->certificates),
                                 .connections_max = connections_max(),
                                 .connections_per_address_max = (int)none_at_zero(s->options.connections_per_address),
                                 .encoded_slash_under = "/v1/models/ /v1/fine_tuning/checkpoints/"};

    if (s->options.access_log && !(s->access_log = access_log_open(s->options.access_log, err)))
        return false;
    handler.on_done = request_done;
    handler.done_context = s;
    s->server = http_server_new(s->loop, &config, &handler, err);
    api_set_server(s->api, s->server);
    return s->server != NULL;
}

static bool open_all(struct serve *s, struct err *err)
{
    return open_folders(s, err) && (s->loop = http_loop_new(NULL, err)) && open_background(s, err) &&
           (s->store = store_open(s->data_dir, err)) && store_take_checkpoints(s->store, err) && open_secrets(s, err) &&
           open_tracker(s, err) && (s->disk = disk_open(s->data_dir, s->options.disk_free_min, err)) &&
           (s->blobs = blobs_open(s->data_dir, err)) && (s->options.is_open || make_first_key(s, err)) &&
           open_jobs(s, err) && open_fetcher(s, err) &&
           certificates_open(&s->certificates, s->loop, s->options.tls_cert, s->options.tls_key, err) &&
           open_api(s, err) && open_server(s, err);
}

static void close_all(struct serve *s)
{
    http_server_free(s->server);
    access_log_close(s->access_log);
    if (s->api)
        api_set_server(s->api, NULL);
    certificates_close(s->certificates);
    background_finish(s->background); /* what the last connections left */
    api_free(s->api);
    fetcher_free(s->fetcher);
    job_manager_free(s->jobs);
    tracker_free(s->tracker);
    job_waiting_end(&s->waiting);
    http_watch_remove(s->background_watch);
    background_free(s->background);
    blobs_close(s->blobs);
    disk_close(s->disk);
    store_close(s->store);
    keyring_free(s->keyring);
    http_loop_free(s->loop);
    arena_deinit(&s->arena);
}

static struct http_loop *signalled_loop; /* a signal handler has no argument of its own */

static void on_signal(int number)
{
    (void)number;
    http_loop_stop(signalled_loop);
}

static void on_stopped(void *context)
{
    http_loop_stop(((struct serve *)context)->loop);
}

static void print_place(const struct serve *s)
{
    bool is_v6 = strchr(s->options.host, ':');

    printf("attune is listening on %s://%s%s%s:%d%s\n", s->certificates ? "https" : "http", is_v6 ? "[" : "",
           s->options.host, is_v6 ? "]" : "", http_server_port(s->server),
           s->certificates || serve_is_local(&s->options)
               ? ""
               : ", without TLS: whoever is on the way can read keys and data (--tls-cert, or a proxy in front)");
}

/* Requests that run may finish; a second signal ends at once. Trainers run on and are adopted at the next start. */
static bool run(struct serve *s, struct err *err)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};

    signalled_loop = s->loop;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    print_place(s);
    if (s->has_first_key)
        printf("no API key yet: the first one is in %s/" FIRST_KEY "\n", s->options.data);
    fflush(stdout);
    if (!http_loop_run(s->loop, err))
        return false;
    api_stop(s->api, STOP_GRACE_MS);
    http_server_stop(s->server, STOP_GRACE_MS, on_stopped, s);
    return http_loop_run(s->loop, err);
}

int cli_serve(int argc, char **argv)
{
    struct serve s = {0};
    struct err err = {0};
    bool ok;

    if (!serve_options_read(&s.options, argc, argv, &err) || !process_forbid_core(&err)) {
        fprintf(stderr, "attune serve: %s\n", err.text);
        return 2;
    }
    ok = open_all(&s, &err) && run(&s, &err);
    if (!ok)
        fprintf(stderr, "attune serve: %s\n", err.text);
    close_all(&s);
    return ok ? 0 : 1;
}
