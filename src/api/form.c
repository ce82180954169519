#include "api/form.h"

static void on_close(void *context, bool is_complete)
{
    struct form *form = context;

    multipart_free(form->reader);
    intake_free(form->intake);
}

static void on_bytes(void *context, struct http_exchange *exchange, struct str bytes)
{
    struct form *form = context;
    struct err err = {0};

    if (!form->is_refused && !multipart_feed(form->reader, bytes, &err))
        form_refuse(form, &err, form->param);
}

static void on_end(void *context, struct http_exchange *exchange)
{
    struct form *form = context;
    struct err err = {0};

    if (form->is_refused)
        return;
    if (multipart_finish(form->reader, &err))
        form->on_whole(form);
    else
        form_refuse(form, &err, form->param);
}

void form_refuse(struct form *form, const struct err *err, const char *param)
{
    if (form->is_refused)
        return;
    form->is_refused = true;
    if (err->code == ERR_INPUT)
        answer_error(form->call, 400, NULL, param, "%s", err->text);
    else
        answer_err(form->call, err, param);
}

void form_take(struct form *form, const struct multipart_sink *sink, uint64_t bytes_max)
{
    static const struct http_body_sink body = {on_bytes, on_end};
    struct call *call = form->call;
    struct err err = {0};

    form->reader = multipart_new(http_request_header(call->request, "Content-Type"), sink, form, &err);
    if (!form->reader) {
        answer_error(call, 400, NULL, NULL, "%s", err.text);
        return;
    }
    http_exchange_on_close(call->exchange, on_close, form);
    /* Larger than what is taken at all: http_take_stream says so, whatever the disk has. */
    if (call->request->content_length <= (int64_t)bytes_max &&
        !disk_has_room(call->api->config.disk, call->request->content_length, &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    http_take_stream(call->exchange, bytes_max, &body, form);
}
