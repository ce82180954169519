/* api/api_int.h - what the files of this room share: the call at hand, answers, lists, names of models. */
#pragma once

#include "api/api.h"
#include "api/metrics.h"
#include "api/problems.h"
#include "store/keys.h"
#include "store/secrets.h"

struct chat_workers; /* api/workers.h */
struct preparers;    /* api/prepare.h */
struct pings;
struct job_request;  /* api/job_request.h */
struct expiry;
struct upkeep;
struct event_streams;
struct rates;
struct usage_book;
struct failures;

struct api {
    struct api_config config;
    struct chat_workers *workers;
    struct preparers *preparers;
    struct pings *pings;
    struct device_watch *devices;
    struct expiry *expiry;
    struct upkeep *upkeep;
    struct event_streams *streams;
    struct rates *rates;
    struct usage_book *usage;
    struct metrics *metrics;
    const struct http_server *server; /* NULL: not yet, or not any more */
    struct failures *failures; /* NULL: not limited */
    struct http_timer *turn_end; /* of the loop, while the store is viewed */
};

/* One request, from routing to its answer. Lives in the exchange's arena. */
struct call {
    struct api *api;
    struct http_exchange *exchange;
    const struct http_request *request;
    struct arena *arena;
    struct tenant tenant;
    bool is_admin;
    const char *key_id;          /* "" without keys */
    bool is_openai_profile;      /* newest first */
    struct url_query query;
    const char *audit_type;      /* NULL: nothing to note */
    const char *profile;         /* of the key; NULL: it has the project's */
    const char *route;           /* its pattern; NULL: there is none */
    struct str parameter[2];     /* what the {…} of the route's path matched */
    const char *idempotency_key; /* NULL: none; with what follows idempotency.c's alone but for resource_id */
    const char *fingerprint;
    const char *resource_id;     /* what an earlier try under this key was about to make; NULL: this is the first */
    bool is_recorded;
    const struct store_held *secrets; /* that the body brought, sealed */
    size_t secret_count;
    bool is_dry_run; /* nothing is made: no record of the key */
};

typedef void call_fn(struct call *call);

/* Whoever runs the server has an administering key of the organisation that is there from the start; what concerns all
 * organisations is theirs. False: answered 403. */
bool call_check_operator(struct call *call);

/* --- answers (answer.c) --- */

void answer_json(struct call *call, int status, const struct strbuf *body);
/* What a DELETE answers: {"id" or another key: id, "object": object, "deleted": true}. */
void answer_deleted(struct call *call, const char *key, const char *id, const char *object);
/* The status by the code of err: 404, 400, 422 …; param may be NULL. */
void answer_err(struct call *call, const struct err *err, const char *param);
void answer_error(struct call *call, int status, const char *code, const char *param, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
void answer_problems(struct call *call, const struct problems *problems);
/* 429: with Retry-After in wait_s seconds, or 0 where waiting does not help and official clients shall not retry. */
void answer_too_many(struct call *call, const char *code, const char *param, int64_t wait_s, const char *message);
/* 503, which official clients send again. */
void answer_unavailable(struct call *call, const char *code, int64_t wait_s, const char *message);

/* The body as JSON, at most 4 MiB, then `next`; answers by itself when it is not JSON. */
void take_json(struct call *call, void (*next)(struct call *call, const struct json *body));
/* For requests whose body is a secret: next takes it out (api/secret_json.h). No Idempotency-Key is looked at. */
void take_secret_json(struct call *call, void (*next)(struct call *call, struct json *body));

/* --- lists (list.c) --- */

struct list_limits {
    int standard, standard_openai; /* rows when limit is absent, by profile */
    bool newest_first, newest_first_openai;
};
struct list_query {
    struct store_page page;
    bool is_empty;    /* limit=0: answer an empty page */
};
/* Reads limit, after, order; answers 422 and returns false when one is wrong. */
bool list_read(struct call *call, const struct list_limits *limits, struct list_query *list);
/* A cursor that is not there gives an empty page, as the official clients expect: true when err says so. */
bool list_is_past_end(const struct list_query *list, const struct err *err);

/* {"object":"list","data":[ … ],…,"has_more":…}: opened before the items, closed with the ids of the first and the
 * last (NULL: none). */
enum list_ids { LIST_WITHOUT_IDS, LIST_IDS_OR_EMPTY, LIST_IDS_OR_NULL };
void list_write_begin(struct json_writer *writer);
void list_write_end(struct json_writer *writer, enum list_ids ids, const char *first, const char *last, bool has_more);

/* --- objects (view.c) --- */

void view_file(struct json_writer *writer, const struct store_file *file);
void view_job(struct json_writer *writer, const struct store_job *job, int64_t queue_place); /* 0: does not wait */
void view_event(struct json_writer *writer, const struct store_event *event);
void view_checkpoint(struct json_writer *writer, const struct store_checkpoint *checkpoint);

/* --- models (models.c) --- */

struct model_place {
    const char *id;            /* as asked for */
    const char *base_id;       /* of the base weights */
    const char *path;          /* folder of the weights */
    const char *adapter_path;  /* NULL: none */
    int64_t created;           /* Unix seconds */
    bool is_result;            /* made by a job */
};
/* A base model by its path under models_dir or in the Hub cache, or a result by name. ERR_NOT_FOUND lists the bases
 * there are. */
bool model_find(struct call *call, struct str id, struct model_place *place, struct err *err);

/* --- files (files.c), for whatever becomes one --- */

enum { FILENAME_CHARACTERS_MAX = 255, EXPIRES_SECONDS_MIN = 3600, EXPIRES_SECONDS_MAX = 2592000 };
bool file_purpose_is_known(struct str purpose);

/* --- discard.c --- */

/* In the background, behind the deletion of their rows. Ids are copied. */
void discard_blobs(const struct api_config *config, const char **ids, size_t count);

/* --- Idempotency-Key (idempotency.c) --- */

/* When the request is complete; content is what distinguishes it from others on its path. False: answered, with the
 * answer of the first time or with what is wrong. take_json does this for JSON bodies. */
bool idempotency_check(struct call *call, struct str content);
/* Once more, behind work that took a while: another request under the key may have come to its end meanwhile. */
bool idempotency_again(struct call *call);
/* Right before something is made under `id`, which becomes the id of an earlier try when there was one: then
 * call->resource_id is set, and the handler looks whether it exists. */
bool idempotency_begin(struct call *call, char id[STORE_ID_BYTES], struct err *err);
/* With the answer; answer.c does it. */
void idempotency_end(struct call *call, int status, const char *body);

/* --- the audit log (audit.c) --- */

void audit_begin(struct call *call); /* before a handler runs: its answer is noted when it is one that writes */
void audit_end(struct call *call, int status, const char *body); /* with the answer; answer.c does it */

/* --- expiry (expiry.c): what has outlived its time goes, at the start and every minute --- */

struct expiry *expiry_new(const struct api_config *config);
void expiry_free(struct expiry *expiry); /* NULL is fine */

/* --- upkeep (upkeep.c): the database's log is moved in the background --- */

struct upkeep *upkeep_new(const struct api_config *config);
void upkeep_free(struct upkeep *upkeep); /* not while its task is under way; NULL is fine */

/* --- events (events.c): streams that are open --- */

struct event_streams *event_streams_new(const struct api_config *config);
void event_streams_free(struct event_streams *all); /* NULL is fine */
void event_streams_wake(struct event_streams *all);
void event_streams_end(struct event_streams *all);

/* --- requests a minute (rate.c) --- */

struct rates *rates_new(void);
void rates_free(struct rates *rates); /* NULL is fine */
/* False: the project has used its minute; it may ask again in *wait_s seconds. */
bool rates_take(struct rates *rates, const struct tenant *tenant, int64_t limit, int64_t now_ms, int64_t *wait_s);

/* --- wrong keys a minute (failures.c) --- */

struct failures *failures_new(int64_t per_minute);
void failures_free(struct failures *failures); /* NULL is fine */
/* A wrong key came from this source. False: there were too many, the next is due in *wait_s seconds. */
bool failures_note(struct failures *failures, uint64_t source, int64_t now_ms, int64_t *wait_s);

/* --- tests of webhook endpoints at work (webhook_ping.c) --- */

struct pings *pings_new(const struct api_config *config, struct err *err);
void pings_free(struct pings *all); /* ends all; NULL is fine */
/* As the table of webhooks.c has it; NULL: there is no such type. */
const char *webhook_event_type(struct str name);

/* --- what models answered (usage.c): in the store some seconds later --- */

struct usage_book *usage_book_new(const struct api_config *config);
void usage_book_free(struct usage_book *book); /* NULL is fine */
void usage_book_add(struct usage_book *book, const struct tenant *tenant, const char *model, int64_t input_tokens,
                    int64_t output_tokens);

/* --- jobs (jobs.c) --- */

/* Id of the job that the path names, for what lies below it; NULL: answered that it is not there. */
const char *call_find_job(struct call *call);
/* The job as it is now, with its place in the queue. */
void job_answer(struct call *call, const struct store_job *job);
/* Why a job could not be had or changed: 404 names it, a conflict is 400 invalid_state. */
void job_answer_missing_or(struct call *call, const struct err *err);

/* --- projects (organization.c) --- */

/* The caller's organisation with the project that the path names; answers 404 when there is none. */
struct store_project;
bool project_find(struct call *call, struct tenant *tenant, struct store_project *project);

/* --- what a job would be (estimate.c) --- */

/* Answers with the estimate of a job that has passed all checks. */
void estimate_answer(struct call *call, const struct job_request *request, const struct job_spec *spec);

/* --- handlers, one file a resource --- */
call_fn webhooks_create, webhooks_list, webhooks_get, webhooks_update, webhooks_delete, webhooks_rotate, webhooks_test;
call_fn webhook_types_list;
call_fn secrets_put, secrets_list, secrets_delete;
call_fn files_create, files_list, files_get, files_delete, files_content, files_preview;
call_fn jobs_create, jobs_list, jobs_get, jobs_cancel, jobs_pause, jobs_resume, events_list, checkpoints_list,
    checkpoints_get, checkpoints_delete;
call_fn uploads_create, uploads_add_part, uploads_complete, uploads_cancel;
call_fn projects_create, projects_list, projects_get, projects_update, keys_create, keys_list, keys_revoke;
call_fn deployments_create, deployments_list, deployments_get, deployments_delete;
call_fn organizations_create, organizations_list, audit_logs_list, drain_get, drain_begin, drain_end, metrics_get;
call_fn usage_completions, usage_fine_tuning, usage_storage;
call_fn receipt_get, graders_refuse, permissions_create, permissions_list, permissions_delete;
call_fn devices_list;
call_fn models_list, models_get, models_delete, health_get, ready_get, chat_create, completions_create;
