#include "api/api_int.h"
#include "os/file.h"

enum { RECEIPT_BYTES_MAX = 4 << 20 };

/* --- one job --- */

void job_answer(struct call *call, const struct store_job *job)
{
    struct strbuf body = {0};
    struct err err = {0};
    int64_t place;

    if (store_queue_place(call->api->config.store, job, &place, &err)) {
        view_job(&(struct json_writer){.buf = &body}, job, place);
        answer_json(call, 200, &body);
    } else {
        answer_err(call, &err, NULL);
    }
    strbuf_deinit(&body);
}

void job_answer_missing_or(struct call *call, const struct err *err)
{
    if (err->code == ERR_NOT_FOUND)
        answer_error(call, 404, "fine_tune_not_found", "fine_tune_id", "Could not find fine tune: %.*s",
                     STR_ARG(call->parameter[0]));
    else if (err->code == ERR_CONFLICT)
        answer_error(call, 400, "invalid_state", NULL, "%s", err->text);
    else
        answer_err(call, err, NULL);
}

void jobs_get(struct call *call)
{
    struct store_job job;
    struct err err = {0};

    if (store_job_get(call->api->config.store, &call->tenant, str_copy(call->arena, call->parameter[0]), call->arena,
                      &job, &err))
        job_answer(call, &job);
    else
        job_answer_missing_or(call, &err);
}

typedef bool job_change(struct job_manager *manager, const struct tenant *tenant, const char *id, struct arena *arena,
                        struct store_job *job, struct err *err);

static void change(struct call *call, job_change *how)
{
    struct store_job job;
    struct err err = {0};

    if (how(call->api->config.jobs, &call->tenant, str_copy(call->arena, call->parameter[0]), call->arena, &job, &err))
        job_answer(call, &job);
    else
        job_answer_missing_or(call, &err);
}

void jobs_cancel(struct call *call)
{
    change(call, job_cancel);
}

void jobs_pause(struct call *call)
{
    change(call, job_pause);
}

void jobs_resume(struct call *call)
{
    change(call, job_resume);
}

/* --- lists --- */

/* metadata[key]=value pairs as a JSON object, "null" for metadata=null, NULL for neither. */
static const char *metadata_filter(struct call *call)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *filter = NULL;
    struct str value;
    int count = 0;

    if (url_query_get(&call->query, "metadata", &value) && str_is(value, "null"))
        return "null";
    json_write_begin_object(&w);
    for (size_t i = 0; i < call->query.count; i++) {
        struct str name = call->query.pair[i].name;
        if (!str_starts(name, STR("metadata[")) || !str_ends(name, STR("]")))
            continue;
        json_write_key_str(&w, str_slice(name, 9, name.len - 1));
        json_write_string(&w, call->query.pair[i].value);
        count++;
    }
    json_write_end_object(&w);
    if (count)
        filter = str_copy(call->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return filter;
}

void jobs_list(struct call *call)
{
    static const struct list_limits limits = {20, 20, true, true};
    struct store_job_list jobs = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct list_query list;
    struct err err = {0};

    if (!list_read(call, &limits, &list))
        return;
    if (!list.is_empty &&
        !store_job_list(call->api->config.store, &call->tenant, metadata_filter(call), &list.page, call->arena, &jobs,
                        &err) &&
        !list_is_past_end(&list, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    list_write_begin(&w);
    err = (struct err){0};
    for (size_t i = 0; i < jobs.count && !err.code; i++) {
        int64_t place;

        if (store_queue_place(call->api->config.store, &jobs.at[i], &place, &err))
            view_job(&w, &jobs.at[i], place);
    }
    list_write_end(&w, LIST_WITHOUT_IDS, NULL, NULL, jobs.has_more);
    if (err.code)
        answer_err(call, &err, NULL);
    else
        answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

const char *call_find_job(struct call *call)
{
    const char *id = str_copy(call->arena, call->parameter[0]);
    struct store_job job;
    struct err err = {0};

    if (store_job_get(call->api->config.store, &call->tenant, id, call->arena, &job, &err))
        return id;
    job_answer_missing_or(call, &err);
    return NULL;
}

/* The trainer's file, on one line. */
static bool read_receipt(struct call *call, struct strbuf *body, struct err *err)
{
    const char *id = str_copy(call->arena, call->parameter[0]), *folder;
    const struct json *receipt;
    struct str text;

    if (!job_run_path(call->api->config.jobs, &call->tenant, id, call->arena, &folder, err))
        return false;
    if (!file_exists(path_join(call->arena, folder, "receipt.json")))
        return err_set(err, ERR_CONFLICT, "Job %s has no receipt: a job gets one when it succeeds", id);
    if (!file_read(call->arena, path_join(call->arena, folder, "receipt.json"), RECEIPT_BYTES_MAX, &text, err))
        return false;
    receipt = json_parse(call->arena, text, NULL, err);
    json_write_value(&(struct json_writer){.buf = body}, receipt);
    return receipt != NULL;
}

void receipt_get(struct call *call)
{
    struct strbuf body = {0};
    struct err err = {0};

    if (read_receipt(call, &body, &err))
        answer_json(call, 200, &body);
    else
        job_answer_missing_or(call, &err);
    strbuf_deinit(&body);
}
