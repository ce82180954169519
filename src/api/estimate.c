/* ?dry_run=true: what a job would be. The numbers are those of `attune prepare --estimate`. */
#include "api/api_int.h"
#include "api/job_request.h"
#include "api/prepare.h"

#include <string.h>

struct asked {
    struct call *call;
    const struct job_request *request;
    const struct job_spec *spec;
    struct preparer *preparer; /* NULL: answered */
};

static bool has_warning(const struct json *warnings, const char *code)
{
    json_each(warning, warnings)
        if (json_is(json_get(warning, "code"), code))
            return true;
    return false;
}

/* Of the request, then of its data; one that both have is told once. */
static void put_warnings(struct json_writer *w, const struct job_request *request, const struct json *warnings)
{
    json_write_key(w, "warnings");
    json_write_begin_array(w);
    for (int i = 0; i < request->warning_count; i++) {
        if (has_warning(warnings, request->warnings[i].code))
            continue;
        json_write_begin_object(w);
        json_put_text(w, "code", request->warnings[i].code);
        json_put_text(w, "message", request->warnings[i].text);
        json_write_end_object(w);
    }
    json_each(warning, warnings)
        json_write_value(w, warning);
    json_write_end_array(w);
}

static void put_job(struct json_writer *w, const struct job_spec *spec)
{
    json_put_text(w, "object", "fine_tuning.job.estimate");
    json_put_text(w, "model", spec->model);
    json_put_text(w, "training_file", spec->training_file);
    json_put_text(w, "validation_file", spec->validation_file);
    json_put_text(w, "device", spec->device);
    json_put_integer(w, "seed", spec->seed);
    json_put_text(w, "method", spec->method);
    json_write_key(w, "hyperparameters");
    json_write_raw(w, str_of(spec->hyperparameters_json));
}

static void on_answer(void *context, struct str answer)
{
    struct asked *asked = context;
    struct err err = {ERR_INTERNAL, "The estimate could not be read."};
    const struct json *estimate = json_get(json_parse(asked->call->arena, answer, NULL, NULL), "estimate");
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};

    asked->preparer = NULL;
    if (!estimate) {
        answer_err(asked->call, &err, NULL);
        return;
    }
    json_write_begin_object(&w);
    put_job(&w, asked->spec);
    json_each(member, estimate) {
        if (str_is(member->key, "warnings")) {
            put_warnings(&w, asked->request, member);
        } else {
            json_write_key_str(&w, member->key);
            json_write_value(&w, member);
        }
    }
    json_write_end_object(&w);
    answer_json(asked->call, 200, &body);
    strbuf_deinit(&body);
}

static void on_error(void *context, const struct err *err, const char *param)
{
    struct asked *asked = context;

    asked->preparer = NULL;
    answer_err(asked->call, err, param);
}

static void on_close(void *context, bool is_complete)
{
    struct asked *asked = context;

    if (asked->preparer)
        preparer_withdraw(asked->preparer);
}

void estimate_answer(struct call *call, const struct job_request *request, const struct job_spec *spec)
{
    static const char *const words[] = {"--estimate", NULL}, *const device_words[] = {"--estimate", "--on-device",
                                                                                      NULL};
    struct asked *asked = arena_new(call->arena, struct asked);
    struct prepare_question question = {.words = strcmp(spec->device, "cpu") == 0 ? words : device_words,
                                        .on_answer = on_answer,
                                        .on_error = on_error,
                                        .context = asked};
    struct job_spec *kept = arena_new(call->arena, struct job_spec);
    struct strbuf job_json = {0};
    struct err err = {0};

    *kept = *spec;
    *asked = (struct asked){.call = call, .request = request, .spec = kept};
    if (job_describe(call->api->config.jobs, &call->tenant, spec, &job_json, &err)) {
        question.input = strbuf_view(&job_json);
        asked->preparer = preparer_ask(call->api->preparers, &question, &err);
    }
    strbuf_deinit(&job_json);
    if (asked->preparer)
        http_exchange_on_close(call->exchange, on_close, asked);
    else
        answer_err(call, &err, NULL);
}
