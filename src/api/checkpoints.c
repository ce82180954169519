#include "api/api_int.h"

void checkpoints_list(struct call *call)
{
    static const struct list_limits limits = {100, 10, false, true};
    const char *id = call_find_job(call);
    struct store_checkpoint_list checkpoints = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct list_query list;
    struct err err = {0};
    size_t last;

    if (!id || !list_read(call, &limits, &list))
        return;
    if (!list.is_empty &&
        !store_checkpoint_list(call->api->config.store, &call->tenant, id, &list.page, call->arena, &checkpoints,
                               &err) &&
        !list_is_past_end(&list, &err)) {
        job_answer_missing_or(call, &err);
        return;
    }
    list_write_begin(&w);
    for (size_t i = 0; i < checkpoints.count; i++)
        view_checkpoint(&w, &checkpoints.at[i]);
    last = checkpoints.count ? checkpoints.count - 1 : 0;
    list_write_end(&w, LIST_IDS_OR_NULL, checkpoints.count ? checkpoints.at[0].id : NULL,
                   checkpoints.count ? checkpoints.at[last].id : NULL, checkpoints.has_more);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

static void answer_no_checkpoint_or(struct call *call, const struct err *err)
{
    if (err->code == ERR_NOT_FOUND)
        answer_error(call, 404, "checkpoint_not_found", "checkpoint_id", "Could not find checkpoint: %.*s",
                     STR_ARG(call->parameter[1]));
    else
        answer_err(call, err, NULL);
}

void checkpoints_get(struct call *call)
{
    const char *id = call_find_job(call);
    struct store_checkpoint checkpoint;
    struct strbuf body = {0};
    struct err err = {0};

    if (!id)
        return;
    if (!store_checkpoint_get(call->api->config.store, &call->tenant, id, str_copy(call->arena, call->parameter[1]),
                              call->arena, &checkpoint, &err)) {
        answer_no_checkpoint_or(call, &err);
        return;
    }
    view_checkpoint(&(struct json_writer){.buf = &body}, &checkpoint);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

void checkpoints_delete(struct call *call)
{
    const char *id = call_find_job(call), *checkpoint = str_copy(call->arena, call->parameter[1]);
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct err err = {0};

    if (!id)
        return;
    if (!job_discard_checkpoint(call->api->config.jobs, &call->tenant, id, checkpoint, &err)) {
        answer_no_checkpoint_or(call, &err);
        return;
    }
    api_job_changed(call->api);
    json_write_begin_object(&w);
    json_put_text(&w, "id", checkpoint);
    json_put_text(&w, "object", "fine_tuning.job.checkpoint");
    json_put_bool(&w, "deleted", true);
    json_write_end_object(&w);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}
