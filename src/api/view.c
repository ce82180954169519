#include "api/api_int.h"

#include <string.h>

static void put_time(struct json_writer *w, const char *key, int64_t ms)
{
    if (ms)
        json_put_integer(w, key, ms / 1000);
    else
        json_put_null(w, key);
}

static void put_raw(struct json_writer *w, const char *key, const char *json)
{
    json_write_key(w, key);
    json_write_raw(w, str_of(json ? json : "null"));
}

void view_file(struct json_writer *w, const struct store_file *file)
{
    json_write_begin_object(w);
    json_put_text(w, "id", file->id);
    json_put_text(w, "object", "file");
    json_put_integer(w, "bytes", file->bytes);
    json_put_integer(w, "created_at", file->created_ms / 1000);
    if (file->expires_ms)
        json_put_integer(w, "expires_at", file->expires_ms / 1000);
    json_put_text(w, "filename", file->filename);
    json_put_text(w, "purpose", file->purpose);
    json_put_text(w, "status", file->status);
    if (file->status_details)
        json_put_text(w, "status_details", file->status_details);
    json_write_end_object(w);
}

static void put_error(struct json_writer *w, const struct store_job *job)
{
    json_write_key(w, "error");
    if (!job->error_code) {
        json_write_null(w);
        return;
    }
    json_write_begin_object(w);
    json_put_text(w, "code", job->error_code);
    json_put_text(w, "message", job->error_message);
    json_put_text(w, "param", job->error_param);
    json_write_end_object(w);
}

/* Rows of before there was another method have none. */
static void put_method(struct json_writer *w, const struct store_job *job)
{
    if (job->method_json) {
        put_raw(w, "method", job->method_json);
        return;
    }
    json_write_key(w, "method");
    json_write_begin_object(w);
    json_put_text(w, "type", "supervised");
    json_write_key(w, "supervised");
    json_write_begin_object(w);
    put_raw(w, "hyperparameters", job->hyperparameters_json);
    json_write_end_object(w);
    json_write_end_object(w);
}

/* Counters are null until the trainer has told them. */
static void put_count(struct json_writer *w, const char *key, bool is_known, int64_t value)
{
    if (is_known)
        json_put_integer(w, key, value);
    else
        json_put_null(w, key);
}

void view_job(struct json_writer *w, const struct store_job *job, int64_t queue_place)
{
    bool is_final = job_state_is_final(job->state);
    bool is_started = job->total_steps > 0;

    json_write_begin_object(w);
    json_put_text(w, "id", job->id);
    json_put_text(w, "object", "fine_tuning.job");
    json_put_integer(w, "created_at", job->created_ms / 1000);
    put_time(w, "finished_at", job->finished_ms);
    put_time(w, "estimated_finish", is_final ? 0 : job->estimated_finish_ms);
    json_put_text(w, "model", job->model);
    json_put_text(w, "fine_tuned_model", job->fine_tuned_model);
    json_put_text(w, "organization_id", job->organization_id);
    json_put_text(w, "status", job_state_status(job->state));
    json_put_text(w, "training_file", job->training_file);
    json_put_text(w, "validation_file", job->validation_file);
    put_raw(w, "result_files", job->result_files_json ? job->result_files_json : "[]");
    put_count(w, "trained_tokens", is_started, job->trained_tokens);
    put_count(w, "trained_steps", is_started, job->trained_steps);
    put_count(w, "total_steps", is_started, job->total_steps);
    put_raw(w, "hyperparameters", job->hyperparameters_json);
    put_method(w, job);
    json_put_integer(w, "seed", job->seed);
    json_put_text(w, "suffix", job->suffix);
    put_error(w, job);
    put_raw(w, "integrations", job->integrations_json);
    put_raw(w, "from_checkpoint", job->from_checkpoint_json);
    put_raw(w, "metadata", job->metadata_json);
    put_raw(w, "tags", job->tags_json);
    json_put_text(w, "device", job->placed_on ? job->placed_on : job->device ? job->device : "cpu");
    put_count(w, "queue_position", queue_place > 0, queue_place);
    json_put_bool(w, "paused", !is_final && job->wanted == JOB_WANT_pause);
    json_write_end_object(w);
}

void view_event(struct json_writer *w, const struct store_event *event)
{
    json_write_begin_object(w);
    json_put_text(w, "id", event->id);
    json_put_text(w, "object", "fine_tuning.job.event");
    json_put_integer(w, "created_at", event->created_ms / 1000);
    json_put_text(w, "level", event->level);
    json_put_text(w, "message", event->message);
    json_put_text(w, "type", event->type);
    json_write_key(w, "data");
    json_write_raw(w, str_of(event->data_json && event->data_json[0] == '{' ? event->data_json : "{}"));
    json_write_end_object(w);
}

/* Both contracts take a metric that is absent; only one takes null. */
static void put_metrics(struct json_writer *w, const struct store_checkpoint *checkpoint)
{
    static const char *const names[] = {"train_loss",      "train_mean_token_accuracy",
                                        "valid_loss",      "valid_mean_token_accuracy",
                                        "full_valid_loss", "full_valid_mean_token_accuracy"};
    struct arena arena = {0};
    struct err err = {0};
    const struct json *metrics = json_parse(&arena, str_of(checkpoint->metrics_json), NULL, &err);

    json_write_key(w, "metrics");
    json_write_begin_object(w);
    json_put_integer(w, "step", checkpoint->step);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct json *value = json_get(metrics, names[i]);
        if (!json_is_null(value))
            json_put_value(w, names[i], value);
    }
    json_write_end_object(w);
    arena_deinit(&arena);
}

void view_checkpoint(struct json_writer *w, const struct store_checkpoint *checkpoint)
{
    json_write_begin_object(w);
    json_put_text(w, "id", checkpoint->id);
    json_put_text(w, "object", "fine_tuning.job.checkpoint");
    json_put_integer(w, "created_at", checkpoint->created_ms / 1000);
    json_put_text(w, "fine_tuned_model_checkpoint", checkpoint->model_name);
    json_put_integer(w, "step_number", checkpoint->step);
    json_put_text(w, "fine_tuning_job_id", checkpoint->job_id);
    put_metrics(w, checkpoint);
    put_raw(w, "result_files", checkpoint->result_files_json);
    json_write_end_object(w);
}
