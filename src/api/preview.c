/* GET /v1/files/{id}/preview: what lines of a file are trained as. The text is that of `attune prepare --preview`. */
#include "api/api_int.h"
#include "api/prepare.h"
#include "os/file.h"

#include <string.h>

enum { LINES_MAX = 100 };

struct asked {
    struct call *call;
    const char *file, *model;
    struct preparer *preparer; /* NULL: answered */
};

/* The answer is {"lines": …}, which the members here go before; it may be long, so it is not parsed. */
static void on_answer(void *context, struct str answer)
{
    struct asked *asked = context;
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};

    asked->preparer = NULL;
    json_write_begin_object(&w);
    json_put_text(&w, "object", "file.preview");
    json_put_text(&w, "file", asked->file);
    json_put_text(&w, "model", asked->model);
    strbuf_add_text(&body, ", ");
    strbuf_add_str(&body, str_slice(str_trim(answer), 1, answer.len));
    answer_json(asked->call, 200, &body);
    strbuf_deinit(&body);
}

static void on_error(void *context, const struct err *err, const char *param)
{
    struct asked *asked = context;

    asked->preparer = NULL;
    if (err->code == ERR_NOT_FOUND && param && strcmp(param, "line") == 0)
        answer_error(asked->call, 404, "line_not_found", param, "%s", err->text);
    else
        answer_err(asked->call, err, param);
}

static void on_close(void *context, bool is_complete)
{
    struct asked *asked = context;

    if (asked->preparer)
        preparer_withdraw(asked->preparer);
}

static int64_t read_number(struct call *call, const char *name, int64_t max, struct problems *problems)
{
    struct str text = STR("");
    int64_t number = 1;

    if (url_query_get(&call->query, name, &text) && text.len > 0 &&
        (!str_to_i64(text, &number) || number < 1 || number > max))
        problems_add(problems, "value_error", name, NULL, NULL, "%s must be an integer from 1 to %lld", name,
                     (long long)max);
    return number;
}

static bool find_model(struct call *call, struct model_place *place, struct problems *problems)
{
    struct str name = STR("");
    struct err err = {0};

    url_query_get(&call->query, "model", &name);
    if (name.len == 0) {
        problems_add(problems, "missing", "model", NULL, NULL, "model is required: tokens depend on it");
        return true;
    }
    if (model_find(call, name, place, &err))
        return true;
    answer_error(call, err.code == ERR_NOT_FOUND ? 404 : 500, "model_not_found", "model", "%s", err.text);
    return false;
}

static bool find_file(struct call *call, struct store_file *file, struct problems *problems)
{
    const char *id = str_copy(call->arena, call->parameter[0]);
    struct err err = {0};

    if (!store_file_get(call->api->config.store, &call->tenant, id, call->arena, file, &err)) {
        if (err.code == ERR_NOT_FOUND)
            answer_error(call, 404, "file_not_found", "file_id", "No such File object: %s", id);
        else
            answer_err(call, &err, NULL);
        return false;
    }
    if (strcmp(file->purpose, "fine-tune") != 0)
        problems_add(problems, "value_error", "file_id", NULL, NULL, "%s has the purpose '%s', not 'fine-tune'",
                     file->id, file->purpose);
    return true;
}

static void ask(struct call *call, const struct store_file *file, const struct model_place *place, int64_t line,
                int64_t count)
{
    struct arena *arena = call->arena;
    const char *words[] = {"--preview", path_join(arena, blobs_dir(call->api->config.blobs), file->id),
                           "--model",   place->path,
                           "--line",    arena_printf(arena, "%lld", (long long)line),
                           "--count",   arena_printf(arena, "%lld", (long long)count),
                           NULL};
    struct asked *asked = arena_new(arena, struct asked);
    struct prepare_question question = {
        .words = words, .on_answer = on_answer, .on_error = on_error, .context = asked};
    struct err err = {0};

    *asked = (struct asked){.call = call, .file = file->id, .model = place->id};
    asked->preparer = preparer_ask(call->api->preparers, &question, &err);
    if (asked->preparer)
        http_exchange_on_close(call->exchange, on_close, asked);
    else
        answer_err(call, &err, NULL);
}

void files_preview(struct call *call)
{
    struct problems problems = {.arena = call->arena};
    struct model_place place;
    struct store_file file;
    int64_t line = read_number(call, "line", INT64_MAX, &problems);
    int64_t count = read_number(call, "count", LINES_MAX, &problems);

    if (!find_file(call, &file, &problems) || !find_model(call, &place, &problems))
        return;
    if (problems.count)
        answer_problems(call, &problems);
    else
        ask(call, &file, &place, line, count);
}
