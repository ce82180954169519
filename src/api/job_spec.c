#include "api/job_spec.h"
#include "os/clock.h"

#include <string.h>
#include <time.h>

static const char *values_json(struct arena *arena, enum method method, const struct hyperparameters *values)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *json;

    json_write_begin_object(&w);
#define PUT_INT                                   json_put_integer
#define PUT_FLOAT                                 json_put_number
#define PUT_BOOL                                  json_put_bool
#define PUT(name, kind, standard, min, max, help) PUT_##kind(&w, #name, values->name);
    HYPERPARAMETERS(PUT)
    if (method == METHOD_DPO) {
        DPO_HYPERPARAMETERS(PUT)
    }
#undef PUT
    json_write_end_object(&w);
    json = arena_copy(arena, text.at, text.len);
    strbuf_deinit(&text);
    return json;
}

/* "options" of job.json. The time is fixed here, so that templates which print today's date give the same tokens in
 * every attempt. */
static const char *options_json(struct arena *arena, const struct job_request *request, int64_t recovery_steps)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    time_t now = (time_t)clock_unix();
    char iso[32];
    struct tm utc;
    const char *json;

    gmtime_r(&now, &utc);
    strftime(iso, sizeof iso, "%Y-%m-%dT%H:%M:%S", &utc);
    json_write_begin_object(&w);
    json_put_text(&w, "over_length", request->over_length);
    json_put_integer(&w, "checkpoint_steps", request->checkpoint_steps);
    if (request->keep_checkpoints)
        json_put_integer(&w, "keep_checkpoints", request->keep_checkpoints);
    json_put_integer(&w, "eval_steps", request->eval_steps);
#define PUT_LORA_OPTION(name)                                                                                          \
    if (request->name)                                                                                                 \
        json_put_value(&w, #name, request->name);
    LORA_OPTIONS(PUT_LORA_OPTION)
#undef PUT_LORA_OPTION
    json_put_text(&w, "lr_scheduler_type", request->lr_scheduler_type);
    json_put_text(&w, "quantization", request->quantization);
    if (strcmp(request->optim, "adamw_torch") != 0)
        json_put_text(&w, "optim", request->optim);
    if (request->is_fp8)
        json_put_bool(&w, "fp8", true);
    if (!request->has_tensorboard)
        json_put_bool(&w, "tensorboard", false);
    json_put_text(&w, "init", "model");
    json_put_text(&w, "dtype", "auto");
    if (strcmp(request->device, "cpu") != 0)
        json_put_text(&w, "device", request->device);
    json_put_integer(&w, "threads", 0);
    json_put_integer(&w, "recovery_steps", recovery_steps);
    json_put_text(&w, "now", iso);
    json_write_end_object(&w);
    json = arena_copy(arena, text.at, text.len);
    strbuf_deinit(&text);
    return json;
}

static const char *json_text(struct arena *arena, const struct json *value)
{
    struct strbuf text = {0};
    const char *json;

    if (!value)
        return NULL;
    json_write_value(&(struct json_writer){.buf = &text}, value);
    json = arena_copy(arena, text.at, text.len);
    strbuf_deinit(&text);
    return json;
}

/* A single string becomes a list of one. */
static const char *tags_json(struct arena *arena, const struct json *tags)
{
    const char *text = json_text(arena, tags);

    return json_has_type(tags, JSON_STRING) ? arena_printf(arena, "[%s]", text) : text;
}

static const char *text_or_null(struct arena *arena, struct str text)
{
    return text.len ? str_copy(arena, text) : NULL;
}

struct job_spec job_spec_make(struct call *call, const struct job_request *request,
                              const struct integrations *integrations, const struct job_start *start)
{
    const struct model_place *place = &start->place;
    const bool has_use_of_secrets = integrations->count || start->base_json;

    return (struct job_spec){
        .model = place->id,
        .model_path = place->path,
        .adapter_path = place->adapter_path,
        .training_file = str_copy(call->arena, request->training_file),
        .validation_file = text_or_null(call->arena, request->validation_file),
        .suffix = text_or_null(call->arena, request->suffix),
        .seed = request->seed,
        .method = method_name(request->method),
        .hyperparameters_json = values_json(call->arena, request->method, &request->values),
        .options_json = options_json(call->arena, request, call->api->config.recovery_steps),
        .metadata_json = json_text(call->arena, request->metadata),
        .tags_json = tags_json(call->arena, request->tags),
        .device = request->device,
        .priority = request->priority,
        .keep_checkpoints = request->keep_checkpoints,
        .integrations_json = integrations->echo_json,
        .from_checkpoint_json = start->echo_json,
        .base_json = start->base_json,
        .extra = {call->secrets, has_use_of_secrets ? call->secret_count : 0, integrations->at, integrations->count},
    };
}
