/* A run of MLflow's tracking server (REST 2.0, which versions 2 and 3 speak).
 *
 * Experiment and run are found by name and by a tag with the job's id, so that a sender that died between making them
 * and saying so makes no second one. Metrics only ever append: whether the last batch of a sender that ended without a
 * word arrived is asked of the server before it is sent again. */
#include "http/url.h"
#include "track/sending.h"

#include <stdio.h>
#include <string.h>

#define API     "/api/2.0/mlflow/"
#define JOB_TAG "attune.job_id"

enum {
    BATCH_METRICS_MAX = 1000,
    BATCH_BYTES_MAX = 900 << 10,
    PARAM_CHARACTERS_MAX = 500,
    TAG_BYTES_MAX = 4000,
    HISTORY_PAGE = 25000
};

static const struct json *get(struct sending *s, const char *path, const char *name, const char *value, char code[64],
                              struct err *err)
{
    struct strbuf url = {0};
    const struct json *answer;

    strbuf_printf(&url, "%s?%s=", path, name);
    url_encode(&url, str_of(value));
    answer = sending_call(s, "GET", url.at, STR_NONE, code, err);
    strbuf_deinit(&url);
    return answer;
}

/* --- experiment and run --- */

static bool create_experiment(struct sending *s, struct sending_body *body, const char *name, char code[64],
                              const char **id, struct err *err)
{
    const struct json *answer;

    sending_body_begin(body);
    json_put_text(&body->w, "name", name);
    answer = sending_post(s, body, API "experiments/create", code, err);
    *id = answer ? sending_copy(s, answer, "experiment_id") : NULL;
    return answer && (*id || sending_not_as(s, "MLflow", err));
}

static bool get_experiment(struct sending *s, const char *name, char code[64], const char **id, struct err *err)
{
    const struct json *answer = get(s, API "experiments/get-by-name", "experiment_name", name, code, err);
    const struct json *experiment = json_get(answer, "experiment");

    *id = answer ? sending_copy(s, experiment, "experiment_id") : NULL;
    if (answer && str_is(json_string_or(json_get(experiment, "lifecycle_stage"), STR_NONE), "deleted"))
        return err_set(err, ERR_INPUT, "the experiment is deleted at MLflow: restore it or name another one");
    return answer && (*id || sending_not_as(s, "MLflow", err));
}

/* Another job may make it between the question and the making. */
static bool find_experiment(struct sending *s, struct sending_body *body, const char **id, struct err *err)
{
    const char *name = sending_text(s, "config", "experiment_name");
    char code[64];

    if (!name) {
        *id = "0";
        return true;
    }
    if (get_experiment(s, name, code, id, err))
        return true;
    if (strcmp(code, "RESOURCE_DOES_NOT_EXIST") != 0)
        return false;
    if (create_experiment(s, body, name, code, id, err))
        return true;
    return strcmp(code, "RESOURCE_ALREADY_EXISTS") == 0 && get_experiment(s, name, code, id, err);
}

static bool search_run(struct sending *s, struct sending_body *body, const char *experiment, const char *job_id,
                       const char **run_id, struct err *err)
{
    const struct json *answer;

    sending_body_begin(body);
    json_write_key(&body->w, "experiment_ids");
    json_write_begin_array(&body->w);
    json_write_text(&body->w, experiment);
    json_write_end_array(&body->w);
    json_put_text(&body->w, "filter", arena_printf(s->arena, "tags.`" JOB_TAG "` = '%s'", job_id));
    json_put_integer(&body->w, "max_results", 1);
    answer = sending_post(s, body, API "runs/search", NULL, err);
    *run_id = sending_copy(s, json_get(json_at(json_get(answer, "runs"), 0), "info"), "run_id");
    return answer != NULL;
}

static void put_pair(struct json_writer *w, const char *key, struct str value)
{
    json_write_begin_object(w);
    json_put_text(w, "key", key);
    json_put_str(w, "value", value);
    json_write_end_object(w);
}

static void put_tags(struct sending *s, struct json_writer *w, const char *job_id)
{
    json_write_key(w, "tags");
    json_write_begin_array(w);
    put_pair(w, JOB_TAG, str_of(job_id));
    put_pair(w, "mlflow.source.name", STR("attune"));
    for
        json_each(tag, json_get(json_get(s->document, "config"), "tags"))
            put_pair(w, str_copy(s->arena, tag->key), str_clip(tag->string, TAG_BYTES_MAX));
    json_write_end_array(w);
}

static bool create_run(struct sending *s, struct sending_body *body, const char *experiment, const char *job_id,
                       const char **run_id, struct err *err)
{
    const char *name = sending_text(s, "config", "run_name");
    const struct json *answer;

    sending_body_begin(body);
    json_put_text(&body->w, "experiment_id", experiment);
    json_put_text(&body->w, "run_name", name ? name : job_id);
    json_put_integer(&body->w, "start_time", sending_integer(s, "job", "started_ms"));
    put_tags(s, &body->w, job_id);
    answer = sending_post(s, body, API "runs/create", NULL, err);
    *run_id = sending_copy(s, json_get(json_get(answer, "run"), "info"), "run_id");
    return answer && (*run_id || sending_not_as(s, "MLflow", err));
}

static bool find_run(struct sending *s, struct sending_body *body, const char **run_id, struct err *err)
{
    const char *job_id = sending_text(s, "job", "id"), *experiment = NULL;

    *run_id = sending_text(s, "external", "run_id");
    if (*run_id)
        return true;
    if (!find_experiment(s, body, &experiment, err))
        return false;
    if (sending_is(s, "is_uncertain") && !search_run(s, body, experiment, job_id, run_id, err))
        return false;
    if (!*run_id && !create_run(s, body, experiment, job_id, run_id, err))
        return false;
    sending_body_begin(body);
    json_put_text(&body->w, "experiment_id", experiment);
    json_put_text(&body->w, "run_id", *run_id);
    return sending_tell(s, 0, sending_body_end(body), err);
}

/* --- params: written once; the same value again is fine --- */

static void put_param(struct sending *s, struct json_writer *w, const struct json *value)
{
    struct strbuf text = {0};

    if (value->type == JSON_STRING)
        strbuf_add_str(&text, value->string);
    else
        json_write_value(&(struct json_writer){.buf = &text}, value);
    if (text.len)
        put_pair(w, str_copy(s->arena, value->key), str_clip(strbuf_view(&text), PARAM_CHARACTERS_MAX));
    strbuf_deinit(&text);
}

static bool log_params(struct sending *s, struct sending_body *body, const char *run_id, struct err *err)
{
    sending_body_begin(body);
    json_put_text(&body->w, "run_id", run_id);
    json_write_key(&body->w, "params");
    json_write_begin_array(&body->w);
    for
        json_each(value, sending_params(s)) put_param(s, &body->w, value);
    json_write_end_array(&body->w);
    return sending_post(s, body, API "runs/log-batch", NULL, err) != NULL;
}

/* --- metrics --- */

/* The newest step of a metric at the server: what is not newer has arrived. INT64_MIN: none. */
static bool newest_step(struct sending *s, const char *run_id, const char *key, int64_t *newest, struct err *err)
{
    const char *page = NULL;

    *newest = INT64_MIN;
    do {
        struct strbuf path = {0};
        const struct json *answer;

        strbuf_printf(&path, API "metrics/get-history?run_id=%s&max_results=%d&metric_key=", run_id, HISTORY_PAGE);
        url_encode(&path, str_of(key));
        if (page) {
            strbuf_add_text(&path, "&page_token=");
            url_encode(&path, str_of(page));
        }
        answer = sending_call(s, "GET", path.at, STR_NONE, NULL, err);
        strbuf_deinit(&path);
        if (!answer)
            return false;
        for
            json_each(metric, json_get(answer, "metrics"))
            {
                const struct json *step = json_get(metric, "step");
                int64_t value = json_integer_or(step, 0);

                if (step && step->type == JSON_STRING && !str_to_i64(step->string, &value))
                    continue;
                *newest = value > *newest ? value : *newest;
            }
        page = sending_copy(s, answer, "next_page_token");
    } while (page);
    return true;
}

enum { KEYS_MAX = 64 };
struct known {
    struct str key;
    int64_t newest;
};
struct metrics {
    struct known known[KEYS_MAX];
    size_t known_count;
    size_t count; /* in the batch */
    int64_t seq;  /* of the last event in it */
};

/* Whether the server has this one already; asked once a key, and only after a sender that ended without a word. */
static bool is_there(struct sending *s, struct metrics *m, const char *run_id, struct str key, int64_t step,
                     bool *there, struct err *err)
{
    struct known *known = m->known;

    *there = false;
    if (!sending_is(s, "is_uncertain"))
        return true;
    while (known < m->known + m->known_count && !str_equal(known->key, key))
        known++;
    if (known == m->known + m->known_count) {
        if (m->known_count == KEYS_MAX)
            return true;
        if (!newest_step(s, run_id, str_copy(s->arena, key), &known->newest, err))
            return false;
        known->key = key;
        m->known_count++;
    }
    *there = step <= known->newest;
    return true;
}

static void begin_batch(struct sending_body *body, struct metrics *m, const char *run_id)
{
    sending_body_begin(body);
    json_put_text(&body->w, "run_id", run_id);
    json_write_key(&body->w, "metrics");
    json_write_begin_array(&body->w);
    m->count = 0;
}

static bool end_batch(struct sending *s, struct sending_body *body, struct metrics *m, struct err *err)
{
    json_write_end_array(&body->w);
    if (m->count && !sending_post(s, body, API "runs/log-batch", NULL, err))
        return false;
    return m->seq == 0 || sending_tell(s, m->seq, STR_NONE, err);
}

static bool add_event(struct sending *s, struct sending_body *body, struct metrics *m, const char *run_id,
                      const struct json *event, struct err *err)
{
    const int64_t step = json_integer_or(json_get(event, "step"), 0),
                  time = json_integer_or(json_get(event, "time_ms"), 0);

    for
        json_each(value, json_get(event, "data"))
        {
            bool there;

            if (!sending_is_metric(value))
                continue;
            if (!is_there(s, m, run_id, value->key, step, &there, err))
                return false;
            if (there)
                continue;
            json_write_begin_object(&body->w);
            json_put_str(&body->w, "key", value->key);
            json_put_value(&body->w, "value", value);
            json_put_integer(&body->w, "timestamp", time);
            json_put_integer(&body->w, "step", step);
            json_write_end_object(&body->w);
            m->count++;
        }
    return true;
}

static bool log_metrics(struct sending *s, struct sending_body *body, const char *run_id, struct err *err)
{
    struct metrics m = {0};

    begin_batch(body, &m, run_id);
    for
        json_each(event, sending_events(s))
        {
            if (m.count + 32 > BATCH_METRICS_MAX || body->text.len > BATCH_BYTES_MAX) {
                if (!end_batch(s, body, &m, err))
                    return false;
                begin_batch(body, &m, run_id);
            }
            if (sending_event_is(event, "metrics") && !add_event(s, body, &m, run_id, event, err))
                return false;
            m.seq = json_integer_or(json_get(event, "seq"), 0);
        }
    return end_batch(s, body, &m, err);
}

/* --- the end --- */

static bool finish(struct sending *s, struct sending_body *body, const char *run_id, struct err *err)
{
    const char *state = sending_text(s, "job", "state");
    const char *status = !state || strcmp(state, "succeeded") == 0 ? "FINISHED"
                         : strcmp(state, "failed") == 0            ? "FAILED"
                                                                   : "KILLED";

    sending_body_begin(body);
    json_put_text(&body->w, "run_id", run_id);
    json_put_text(&body->w, "status", status);
    json_put_integer(&body->w, "end_time", sending_integer(s, "job", "finished_ms"));
    return sending_post(s, body, API "runs/update", NULL, err) != NULL;
}

bool mlflow_send(struct sending *s, struct err *err)
{
    struct sending_body body = {0};
    const char *run_id = NULL;
    bool ok;

    s->username = sending_text(s, "secrets", "username");
    s->password = s->username ? sending_text(s, "secrets", "password") : NULL;
    s->bearer = s->username ? NULL : sending_text(s, "secrets", "token");
    ok = sending_connect(s, json_string_or(json_get(json_get(s->document, "config"), "tracking_uri"), STR_NONE), err) &&
         find_run(s, &body, &run_id, err) && (!sending_has_new_params(s) || log_params(s, &body, run_id, err)) &&
         log_metrics(s, &body, run_id, err) && (!sending_is(s, "is_last") || finish(s, &body, run_id, err));
    strbuf_deinit(&body.text);
    return ok;
}
