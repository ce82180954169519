/* A run of MLflow's tracking server (REST 2.0, which versions 2 and 3 speak).
 *
 * Experiment and run are found by name and by a tag with the job's id, so that a sender that died between making them
 * and saying so makes no second one. Metrics only ever append: after a sender that ended without a word the server is
 * asked how far each of them has come, and what is not newer is left out. */
#include "http/url.h"
#include "track/sending.h"

#include <stdio.h>
#include <string.h>

#define API     "/api/2.0/mlflow/"
#define JOB_TAG "attune.job_id"

enum { BATCH_METRICS_MAX = 1000, BATCH_BYTES_MAX = 900 << 10, PARAM_CHARACTERS_MAX = 500, TAG_BYTES_MAX = 4000 };

/* One conversation with the server. */
struct talk {
    struct sending *s;
    struct sending_body body;
    const char *run_id;
    const struct json *arrived; /* the newest of each metric at the server; NULL: whatever is in the document is new */
    int batch_count;            /* metrics in the body */
    int64_t seq;                /* of the last event that is whole in this batch or an earlier one */
};

static struct json_writer *begin(struct talk *t)
{
    sending_body_begin(&t->body);
    return &t->body.w;
}

static const struct json *post(struct talk *t, const char *path, char code[64], struct err *err)
{
    return sending_post(t->s, &t->body, path, code, err);
}

static const struct json *get(struct talk *t, const char *path, const char *name, const char *value, char code[64],
                              struct err *err)
{
    struct strbuf url = {0};
    const struct json *answer;

    strbuf_printf(&url, "%s?%s=", path, name);
    url_encode(&url, str_of(value));
    answer = sending_call(t->s, "GET", url.at, STR_NONE, code, err);
    strbuf_deinit(&url);
    return answer;
}

/* The text that an answer has to have; an answer without it is another service's. */
static const char *take(struct talk *t, const struct json *object, const char *name, struct err *err)
{
    const char *text = sending_copy(t->s, object, name);

    if (!text)
        sending_not_as(t->s, "MLflow", err);
    return text;
}

/* --- experiment and run --- */

static const char *create_experiment(struct talk *t, const char *name, char code[64], struct err *err)
{
    struct json_writer *w = begin(t);
    const struct json *answer;

    json_put_text(w, "name", name);
    answer = post(t, API "experiments/create", code, err);
    return answer ? take(t, answer, "experiment_id", err) : NULL;
}

static const char *get_experiment(struct talk *t, const char *name, char code[64], struct err *err)
{
    const struct json *answer = get(t, API "experiments/get-by-name", "experiment_name", name, code, err),
                      *experiment = json_get(answer, "experiment");

    if (!answer)
        return NULL;
    if (json_is(json_get(experiment, "lifecycle_stage"), "deleted")) {
        err_set(err, ERR_INPUT, "the experiment is deleted at MLflow: restore it or name another one");
        return NULL;
    }
    return take(t, experiment, "experiment_id", err);
}

/* Another job may make it between the question and the making. */
static const char *find_experiment(struct talk *t, struct err *err)
{
    const char *name = sending_text(t->s, "config", "experiment_name"), *id;
    char code[64];

    if (!name)
        return "0";
    id = get_experiment(t, name, code, err);
    if (!id && strcmp(code, "RESOURCE_DOES_NOT_EXIST") == 0)
        id = create_experiment(t, name, code, err);
    if (!id && strcmp(code, "RESOURCE_ALREADY_EXISTS") == 0)
        id = get_experiment(t, name, code, err);
    return id;
}

static bool search_run(struct talk *t, const char *experiment, struct err *err)
{
    const char *job_id = sending_text(t->s, "job", "id");
    struct json_writer *w = begin(t);
    const struct json *answer;

    json_write_key(w, "experiment_ids");
    json_write_begin_array(w);
    json_write_text(w, experiment);
    json_write_end_array(w);
    json_put_text(w, "filter", arena_printf(t->s->arena, "tags.`" JOB_TAG "` = '%s'", job_id));
    json_put_integer(w, "max_results", 1);
    answer = post(t, API "runs/search", NULL, err);
    t->run_id = sending_copy(t->s, json_get(json_at(json_get(answer, "runs"), 0), "info"), "run_id");
    return answer != NULL;
}

static void put_pair(struct json_writer *w, struct str key, struct str value)
{
    json_write_begin_object(w);
    json_put_str(w, "key", key);
    json_put_str(w, "value", value);
    json_write_end_object(w);
}

static void put_tags(struct talk *t, struct json_writer *w)
{
    json_write_key(w, "tags");
    json_write_begin_array(w);
    put_pair(w, STR(JOB_TAG), str_of(sending_text(t->s, "job", "id")));
    put_pair(w, STR("mlflow.source.name"), STR("attune"));
    json_each(tag, json_get(json_get(t->s->document, "config"), "tags"))
        put_pair(w, tag->key, str_clip(tag->string, TAG_BYTES_MAX));
    json_write_end_array(w);
}

static bool create_run(struct talk *t, const char *experiment, struct err *err)
{
    const char *name = sending_text(t->s, "config", "run_name");
    struct json_writer *w = begin(t);
    const struct json *answer;

    json_put_text(w, "experiment_id", experiment);
    json_put_text(w, "run_name", name ? name : sending_text(t->s, "job", "id"));
    json_put_integer(w, "start_time", sending_integer(t->s, "job", "started_ms"));
    put_tags(t, w);
    answer = post(t, API "runs/create", NULL, err);
    t->run_id = answer ? take(t, json_get(json_get(answer, "run"), "info"), "run_id", err) : NULL;
    return t->run_id != NULL;
}

static bool tell_run(struct talk *t, const char *experiment, struct err *err)
{
    const struct sending *s = t->s;
    struct strbuf url = {0};
    bool ok;

    strbuf_printf(&url, "%s%s/#/experiments/", s->place.origin, s->base.rest);
    url_encode(&url, str_of(experiment));
    strbuf_add_text(&url, "/runs/");
    url_encode(&url, str_of(t->run_id));
    ok = sending_tell_run(t->s, "MLflow", url.at, err);
    strbuf_deinit(&url);
    return ok;
}

static bool find_run(struct talk *t, struct err *err)
{
    const char *experiment;
    struct json_writer *w;

    t->run_id = sending_text(t->s, "external", "run_id");
    if (t->run_id)
        return true;
    experiment = find_experiment(t, err);
    if (!experiment || (sending_is(t->s, "is_uncertain") && !search_run(t, experiment, err)) ||
        (!t->run_id && !create_run(t, experiment, err)) || !tell_run(t, experiment, err))
        return false;
    w = begin(t);
    json_put_text(w, "experiment_id", experiment);
    json_put_text(w, "run_id", t->run_id);
    return sending_tell(t->s, 0, sending_body_end(&t->body), err);
}

/* --- params: written once; the same value again is fine --- */

static void put_param(struct json_writer *w, const struct json *value)
{
    struct strbuf text = {0};

    if (value->type == JSON_STRING)
        strbuf_add_str(&text, value->string);
    else
        json_write_value(&(struct json_writer){.buf = &text}, value);
    put_pair(w, value->key, str_clip(strbuf_view(&text), PARAM_CHARACTERS_MAX));
    strbuf_deinit(&text);
}

static bool log_params(struct talk *t, struct err *err)
{
    struct json_writer *w = begin(t);

    json_put_text(w, "run_id", t->run_id);
    json_write_key(w, "params");
    json_write_begin_array(w);
    json_each(value, sending_params(t->s))
        put_param(w, value);
    json_write_end_array(w);
    return post(t, API "runs/log-batch", NULL, err) != NULL;
}

/* --- metrics --- */

static bool ask_what_arrived(struct talk *t, struct err *err)
{
    const struct json *answer;

    if (!sending_is(t->s, "is_uncertain"))
        return true;
    answer = get(t, API "runs/get", "run_id", t->run_id, NULL, err);
    t->arrived = json_get(json_get(json_get(answer, "run"), "data"), "metrics");
    return answer != NULL;
}

/* Steps of a metric are told in their order. MLflow writes 64-bit numbers as texts at times. */
static bool is_there(const struct talk *t, struct str key, int64_t step)
{
    json_each(metric, t->arrived) {
        const struct json *newest = json_get(metric, "step");
        int64_t value = json_integer_or(newest, 0);

        if (!str_equal(json_string_or(json_get(metric, "key"), STR_NONE), key))
            continue;
        if (json_has_type(newest, JSON_STRING) && !str_to_i64(newest->string, &value))
            continue;
        return step <= value;
    }
    return false;
}

static void begin_batch(struct talk *t)
{
    struct json_writer *w = begin(t);

    json_put_text(w, "run_id", t->run_id);
    json_write_key(w, "metrics");
    json_write_begin_array(w);
    t->batch_count = 0;
}

static bool end_batch(struct talk *t, struct err *err)
{
    json_write_end_array(&t->body.w);
    if (t->batch_count && !post(t, API "runs/log-batch", NULL, err))
        return false;
    return t->seq == 0 || sending_tell(t->s, t->seq, STR_NONE, err);
}

static bool add_metric(struct talk *t, const struct json *value, int64_t step, int64_t time_ms, struct err *err)
{
    struct json_writer *w = &t->body.w;

    if (t->batch_count == BATCH_METRICS_MAX || t->body.text.len > BATCH_BYTES_MAX) {
        if (!end_batch(t, err))
            return false;
        begin_batch(t);
    }
    json_write_begin_object(w);
    json_put_str(w, "key", value->key);
    json_put_value(w, "value", value);
    json_put_integer(w, "timestamp", time_ms);
    json_put_integer(w, "step", step);
    json_write_end_object(w);
    t->batch_count++;
    return true;
}

static bool add_event(struct talk *t, const struct json *event, struct err *err)
{
    const int64_t step = json_integer_or(json_get(event, "step"), 0),
                  time_ms = json_integer_or(json_get(event, "time_ms"), 0);

    json_each(value, sending_event_is(event, "metrics") ? json_get(event, "data") : NULL) {
        if (!sending_is_metric(value) || is_there(t, value->key, step))
            continue;
        if (!add_metric(t, value, step, time_ms, err))
            return false;
    }
    t->seq = json_integer_or(json_get(event, "seq"), 0);
    return true;
}

static bool log_metrics(struct talk *t, struct err *err)
{
    if (!ask_what_arrived(t, err))
        return false;
    begin_batch(t);
    json_each(event, sending_events(t->s))
        if (!add_event(t, event, err))
            return false;
    return end_batch(t, err);
}

/* --- the end --- */

static bool finish(struct talk *t, struct err *err)
{
    const char *state = sending_text(t->s, "job", "state");
    const char *status = !state || strcmp(state, "succeeded") == 0 ? "FINISHED"
                         : strcmp(state, "failed") == 0            ? "FAILED"
                                                                   : "KILLED";
    struct json_writer *w = begin(t);

    json_put_text(w, "run_id", t->run_id);
    json_put_text(w, "status", status);
    json_put_integer(w, "end_time", sending_integer(t->s, "job", "finished_ms"));
    return post(t, API "runs/update", NULL, err) != NULL;
}

static bool wants_artifacts(const struct sending *s)
{
    return sending_text(s, "result", "folder") &&
           json_bool_or(json_get(json_get(s->document, "config"), "log_artifacts"), false);
}

bool mlflow_send(struct sending *s, struct err *err)
{
    struct talk talk = {.s = s};
    bool ok;

    s->username = sending_text(s, "secrets", "username");
    s->password = s->username ? sending_text(s, "secrets", "password") : NULL;
    s->bearer = s->username ? NULL : sending_text(s, "secrets", "token");
    ok = sending_connect(s, str_of(sending_text(s, "config", "tracking_uri")), err) && find_run(&talk, err) &&
         (!sending_has_new_params(s) || log_params(&talk, err)) && log_metrics(&talk, err) &&
         (!wants_artifacts(s) || mlflow_send_artifacts(s, talk.run_id, err)) &&
         (!sending_is(s, "is_last") || finish(&talk, err));
    strbuf_deinit(&talk.body.text);
    return ok;
}
