/* What orchestrators ask, without a key: healthz, whether the process serves at all; readyz, whether it can do its
 * work. */
#include "api/api_int.h"
#include "store/projects.h"

static void answer_status(struct call *call, int status, const char *text)
{
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};

    json_write_begin_object(&w);
    json_put_text(&w, "status", text);
    json_write_end_object(&w);
    answer_json(call, status, &body);
    strbuf_deinit(&body);
}

void health_get(struct call *call)
{
    answer_status(call, 200, "ok");
}

void ready_get(struct call *call)
{
    struct tenant tenant = tenant_default();
    struct store_project project;
    struct err err = {0};

    if (store_project_get(call->api->config.store, &tenant, call->arena, &project, &err))
        answer_status(call, 200, job_manager_drain(call->api->config.jobs).is_on ? "draining" : "ready");
    else
        answer_error(call, 503, "store_unavailable", NULL, "The database does not answer.");
}
