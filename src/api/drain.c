/* Drain: what an operator does before a maintenance. For keys of the organisation that runs the server. */
#include "api/api_int.h"

static void answer_drain(struct call *call)
{
    struct job_drain drain = job_manager_drain(call->api->config.jobs);
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};

    json_write_begin_object(&w);
    json_put_text(&w, "object", "organization.drain");
    json_put_bool(&w, "draining", drain.is_on);
    json_put_text(&w, "running_jobs", drain.is_on ? drain.pauses ? "pause" : "finish" : NULL);
    json_put_text(&w, "new_jobs", drain.is_on ? drain.refuses ? "refuse" : "queue" : NULL);
    json_write_key(&w, "since");
    drain.is_on ? json_write_integer(&w, drain.since_ms / 1000) : json_write_null(&w);
    json_put_integer(&w, "jobs_at_work", job_manager_active(call->api->config.jobs));
    json_write_end_object(&w);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

/* One of two words; absent is the first. */
static bool read_choice(const struct json *body, const char *name, const char *first, const char *second,
                        struct problems *problems)
{
    const struct json *value = json_get(body, name);
    struct str word = json_string_or(value, STR_NONE);

    if (!json_is_null(value) && !str_is(word, first) && !str_is(word, second))
        problems_add(problems, "value_error", name, NULL, NULL, "%s: must be %s or %s", name, first, second);
    return str_is(word, second);
}

static void begin_drain(struct call *call, const struct json *body)
{
    struct problems problems = {.arena = call->arena};
    bool pauses = read_choice(body, "running_jobs", "finish", "pause", &problems);
    bool refuses = read_choice(body, "new_jobs", "queue", "refuse", &problems);
    struct err err = {0};

    if (body->type != JSON_OBJECT)
        problems_add(&problems, "value_error", NULL, NULL, NULL, "the body must be an object, not %s",
                     json_type_name(body));
    json_each(item, body->type == JSON_OBJECT ? body : NULL)
        if (!str_is(item->key, "running_jobs") && !str_is(item->key, "new_jobs"))
            problems_add(&problems, "extra_forbidden", str_copy(call->arena, str_clip(item->key, 64)), NULL, NULL,
                         "a drain has running_jobs and new_jobs");
    if (problems.count)
        answer_problems(call, &problems);
    else if (job_manager_set_drain(call->api->config.jobs, true, pauses, refuses, &err))
        answer_drain(call);
    else
        answer_err(call, &err, NULL);
}

void drain_get(struct call *call)
{
    if (call_check_operator(call))
        answer_drain(call);
}

void drain_begin(struct call *call)
{
    if (call_check_operator(call))
        take_json(call, begin_drain);
}

void drain_end(struct call *call)
{
    struct err err = {0};

    if (!call_check_operator(call))
        return;
    if (job_manager_set_drain(call->api->config.jobs, false, false, false, &err))
        answer_drain(call);
    else
        answer_err(call, &err, NULL);
}
