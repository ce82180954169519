#include "api/api.h"
#include "base/log.h"
#include "cli/certificates.h"
#include "cli/cli.h"
#include "cli/job_waiting.h"
#include "cli/options.h"
#include "cli/secret_key.h"
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

struct serve_options {
    const char *data, *models, *host, *public_host, *tls_cert, *tls_key, *access_log, *devices;
    int64_t port, jobs, memory, recovery_steps, disk_free_min, connections_per_address, auth_failures, audit_days, nice,
        hung_seconds, hub_bytes_max;
    bool is_open;
    const char *secret_key_file, *outgoing, *wandb_url;
    int64_t secret_key_fd;
};

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
    if (!dir_make(s->options.data, err) || !(s->data_dir = path_absolute(&s->arena, s->options.data, err)))
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

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
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
                                          .is_local = is_loopback(s->options.host),
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
           s->certificates || is_loopback(s->options.host)
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

static bool check_ranges(const struct serve_options *o, struct err *err)
{
    const struct {
        const char *option;
        int64_t value, min, max;
    } ranges[] = {
        {"port", o->port, 0, 65535},
        {"jobs", o->jobs, 1, 1024},
        {"nice", o->nice, 0, 19},
        {"recovery-steps", o->recovery_steps, 0, INT64_MAX},
        {"hung-seconds", o->hung_seconds, 1, 24 * 60 * 60},
        {"memory", o->memory, 0, INT64_MAX},
        {"disk-free-min", o->disk_free_min, -1, INT64_MAX},
        {"hub-bytes-max", o->hub_bytes_max, 0, INT64_MAX},
        {"connections-per-address", o->connections_per_address, 0, 1024},
        {"audit-days", o->audit_days, 1, 100 * 366},
        {"auth-failures", o->auth_failures, 0, 1000000},
        {"secret-key-fd", o->secret_key_fd, -1, INT32_MAX},
    };

    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        const char *option = ranges[i].option;
        long long value = ranges[i].value, min = ranges[i].min, max = ranges[i].max;

        if (value < min && max == INT64_MAX)
            return err_set(err, ERR_INPUT, "--%s must be at least %lld, not %lld", option, min, value);
        if (value < min || value > max)
            return err_set(err, ERR_INPUT, "--%s must be from %lld to %lld, not %lld", option, min, max, value);
    }
    return true;
}

static bool check_options(const struct serve_options *o, struct err *err)
{
    if (!o->data)
        return err_set(err, ERR_INPUT, "--data is required: the folder for the database, files and runs");
    if (o->is_open && !is_loopback(o->host))
        return err_set(
            err, ERR_INPUT,
            "--no-auth works on loopback only (127.0.0.1 or ::1): on %s everybody who reaches the port could use it",
            o->host);
    return check_ranges(o, err);
}

/* The exit status: 2 when the options do not fit together. */
static int serve(struct serve *s)
{
    struct err err = {0};
    bool ok;

    if (!check_options(&s->options, &err) || !process_forbid_core(&err)) {
        fprintf(stderr, "attune serve: %s\n", err.text);
        return 2;
    }
    ok = open_all(s, &err) && run(s, &err);
    if (!ok)
        fprintf(stderr, "attune serve: %s\n", err.text);
    close_all(s);
    return ok ? 0 : 1;
}

static const struct serve_options serve_defaults = {
    .host = "127.0.0.1",
    .port = 8080,
    .jobs = 1,
    .nice = 10,
    .hung_seconds = 600,
    .disk_free_min = -1,
    .connections_per_address = 64,
    .auth_failures = 10,
    .audit_days = 365,
    .secret_key_fd = -1,
};

int cli_serve(int argc, char **argv)
{
    struct serve s = {.options = serve_defaults};
    bool has_auth = true;
    const struct option list[] = {
        {"data", OPTION_TEXT, &s.options.data, "DIR", "database, files and runs; made when absent", NULL},
        {"models", OPTION_TEXT, &s.options.models, "DIR", "base models: org/name below it, each a Hugging Face folder",
         NULL},
        {"host", OPTION_TEXT, &s.options.host, "ADDRESS", "IPv4 or IPv6 address to listen on (default 127.0.0.1)",
         NULL},
        {"public-host", OPTION_TEXT, &s.options.public_host, "NAME",
         "on loopback: also take requests whose Host is NAME, a proxy's", NULL},
        {"port", OPTION_INT, &s.options.port, "N", "0: any free one (default 8080)", NULL},
        {"auth", OPTION_FLAG, &has_auth, NULL, "requests need an API key; --no-auth works on loopback only", NULL},
        {"jobs", OPTION_INT, &s.options.jobs, "N",
         "fine-tuning jobs at once on the processor (default 1); a GPU has one", NULL},
        {"devices", OPTION_TEXT, &s.options.devices, "LIST",
         "what jobs and chats run on: cpu, cuda (every GPU), cuda:1 … (default: cpu,cuda where there is a GPU)", NULL},
        {"nice", OPTION_INT, &s.options.nice, "N", "niceness of trainers, 0 to 19: the server goes first (default 10)",
         NULL},
        {"recovery-steps", OPTION_INT, &s.options.recovery_steps, "N",
         "a recovery point every N steps (default: every two minutes)", NULL},
        {"hung-seconds", OPTION_INT, &s.options.hung_seconds, "N",
         "a trainer that gives no sign of life for so long is killed and its job resumed (default 600)", NULL},
        {"memory", OPTION_INT, &s.options.memory, "BYTES",
         "that all jobs and chat workers may take together (default: nine tenths of the machine's)", NULL},
        {"disk-free-min", OPTION_INT, &s.options.disk_free_min, "BYTES",
         "that uploads and jobs leave free on the data folder's disk (default: 1 GiB or a twentieth of it)", NULL},
        {"access-log", OPTION_TEXT, &s.options.access_log, "FILE",
         "a line of JSON for each request: when, from where, method, path, status, bytes, time", NULL},
        {"tls-cert", OPTION_TEXT, &s.options.tls_cert, "FILE",
         "speak HTTPS alone, with this certificate and its chain (PEM; SIGHUP loads it anew)", NULL},
        {"tls-key", OPTION_TEXT, &s.options.tls_key, "FILE", "the certificate's key (PEM, not encrypted)", NULL},
        {"connections-per-address", OPTION_INT, &s.options.connections_per_address, "N",
         "connections that one client address may have open (default 64; 0: no limit, as behind a proxy)", NULL},
        {"audit-days", OPTION_INT, &s.options.audit_days, "N", "how long the audit log is kept (default 365)", NULL},
        {"auth-failures", OPTION_INT, &s.options.auth_failures, "N",
         "wrong keys a minute from one address, after five at once (default 10; 0: no limit)", NULL},
        {"hub-bytes-max", OPTION_INT, &s.options.hub_bytes_max, "BYTES",
         "that models of the Hub may take on the disk in all (default: down to --disk-free-min)", NULL},
        {"outgoing", OPTION_TEXT, &s.options.outgoing, "ORIGINS",
         "that jobs' integrations and downloads of models may reach: https://host, https://anywhere, "
         "internal:http://10.0.0.5:5000 (default: none)",
         NULL},
        {"wandb-url", OPTION_TEXT, &s.options.wandb_url, "URL",
         "the W&B server (default: WANDB_BASE_URL, else https://api.wandb.ai); --outgoing has to list it, too", NULL},
        {"secret-key-file", OPTION_TEXT, &s.options.secret_key_file, "FILE",
         "master key of secrets (default: attune/secret.key in the user's configuration folder, made when absent)",
         NULL},
        {"secret-key-fd", OPTION_INT, &s.options.secret_key_fd, "N", "read the master key from this descriptor", NULL},
    };
    const struct options options = {
        .usage = "attune serve --data DIR [--models DIR] [options]",
        .about = "The fine-tuning API. A data folder without any API key gets a first one, in DIR/first-key. Jobs "
                 "run on when the server stops, and a new server goes on with them.",
        .list = list,
        .count = sizeof list / sizeof *list,
    };
    struct err err = {0};

    if (!options_parse(&options, argc, argv, NULL, NULL, &err)) {
        fprintf(stderr, "attune serve: %s\n", err.text);
        return 2;
    }
    s.options.is_open = !has_auth;
    return serve(&s);
}
