/* What a job would be: everything that is known before it runs. */
#include "model/state_copy.h"
#include "train/train_int.h"

enum { TEMPLATE_TOKENS = 1024 };

static void put_dataset(struct json_writer *w, const char *key, const struct dataset_summary *sum)
{
    json_write_key(w, key);
    if (!sum) {
        json_write_null(w);
        return;
    }
    json_write_begin_object(w);
    json_put_text(w, "kind", example_kind_name(sum->kind));
    json_put_integer(w, "lines", (int64_t)sum->lines);
    json_put_integer(w, "examples", (int64_t)sum->examples);
    json_put_integer(w, "over_length_lines", (int64_t)sum->over_length_lines);
    json_put_integer(w, "untrained_lines", (int64_t)sum->untrained_lines);
    json_put_integer(w, "tokens", (int64_t)sum->tokens);
    json_put_integer(w, "supervised_tokens", (int64_t)sum->trained_tokens);
    json_put_integer(w, "longest_line_tokens", (int64_t)sum->longest);
    json_write_end_object(w);
}

static void put_run(struct json_writer *w, const struct session *s)
{
    put_dataset(w, "training_data", &s->train.summary);
    put_dataset(w, "validation_data", s->has_valid ? &s->valid.summary : NULL);
    json_put_integer(w, "rows", s->feed.rows.row_count);
    json_put_integer(w, "longest_row_tokens", s->feed.longest_row);
    json_put_integer(w, "steps_per_epoch", s->feed.steps_per_epoch);
    json_put_integer(w, "total_steps", s->total_steps);
    json_put_integer(w, "trained_tokens", (int64_t)s->train.summary.tokens * s->config.hp.n_epochs);
}

static void put_memory(struct json_writer *w, const struct session *s, const struct plan *plan)
{
    struct strbuf text = {0};

    plan_recomputed(plan, s->model_config.layers, &text);
    json_put_integer(w, "micro_batch_tokens", plan->tokens);
    json_put_text(w, "recomputed", text.at);
    json_write_key(w, "memory_bytes");
    json_write_begin_object(w);
    for (int part = 0; part < PLAN_PART_COUNT; part++)
        json_put_integer(w, plan_part_name(part), (int64_t)plan_part_bytes(plan, part));
    json_put_integer(w, "total", (int64_t)plan->total_bytes);
    json_put_integer(w, "moments_on_host", (int64_t)plan->host_bytes);
    json_write_end_object(w);
    strbuf_deinit(&text);
}

static void put_disk(struct json_writer *w, const struct disk_needs *needs)
{
    json_write_key(w, "disk_bytes");
    json_write_begin_object(w);
    json_put_integer(w, "checkpoints", (int64_t)needs->checkpoint_bytes * needs->checkpoints);
    json_put_integer(w, "recovery_points", (int64_t)needs->recovery_bytes * needs->recovery_points);
    json_put_integer(w, "other", (int64_t)needs->other_bytes);
    json_put_integer(w, "total", (int64_t)needs->total_bytes);
    json_write_end_object(w);
}

static void put_timing(struct json_writer *w, const struct timing *timing)
{
    json_write_key(w, "estimated_seconds");
    timing->has_value ? json_write_number(w, timing->seconds) : json_write_null(w);
    json_write_key(w, "probe");
    if (!timing->has_value) {
        json_write_null(w);
        return;
    }
    json_write_begin_object(w);
    json_put_number(w, "seconds", timing->probe_seconds);
    json_put_number(w, "share", timing->share);
    json_write_end_object(w);
}

static void put_warning(void *context, const char *code, const char *text)
{
    struct json_writer *w = context;

    json_write_begin_object(w);
    json_put_text(w, "code", code);
    json_put_text(w, "message", text);
    json_write_end_object(w);
}

static void put_warnings(struct json_writer *w, const struct session *s)
{
    json_write_key(w, "warnings");
    json_write_begin_array(w);
    warn_of_lines("training", &s->train.summary, put_warning, w);
    if (s->has_valid)
        warn_of_lines("validation", &s->valid.summary, put_warning, w);
    warn_of_settings(s, put_warning, w);
    json_write_end_array(w);
}

/* The plan, the first micro-batch under it, and what that costs. */
static bool plan_run(struct session *s, struct plan *plan, struct plan_cost *cost, struct batch *batch, struct err *err)
{
    struct model_options options = session_model_options(s, session_row_tokens(s));
    struct feed_step step;

    if (!model_plan(s->config.model_path, &options, plan, err)) {
        if (err->code == ERR_NO_SPACE) { /* there will not be more: the request asks for too much */
            err->code = ERR_INPUT;
            s->param = "hyperparameters";
        }
        return false;
    }
    feed_step_make(&s->feed, &s->step_arena, 0, (uint32_t)plan->tokens, &step);
    *batch = step.micro[0].batch;
    options.plan = plan;
    return model_cost(s->config.model_path, &options, batch, cost, err);
}

static bool estimate(struct session *s, uint64_t memory_bytes, struct json_writer *w, struct err *err)
{
    struct plan *plan = arena_new(&s->arena, struct plan);
    struct plan_cost cost;
    struct disk_needs needs;
    struct timing timing;
    struct batch batch;

    session_make_rows(s);
    if (!plan_run(s, plan, &cost, &batch, err))
        return false;
    needs = disk_needs(s, plan);
    timing = timing_measure(s, plan, &cost, &batch, memory_bytes);
    json_write_begin_object(w);
    put_run(w, s);
    json_put_integer(w, "parameters", (int64_t)cost.parameters);
    json_put_integer(w, "trainable_parameters", (int64_t)cost.trained_parameters);
    put_memory(w, s, plan);
    put_disk(w, &needs);
    put_timing(w, &timing);
    put_warnings(w, s);
    json_write_end_object(w);
    return true;
}

bool train_estimate(struct str job_json, uint64_t memory_bytes, struct json_writer *w, const char **param,
                    struct err *err)
{
    struct session s = {0};
    bool ok = session_parse(&s, job_json, err);

    if (ok) {
        s.pool = pool_new((int)s.config.threads);
        ok = session_prepare_data(&s, NULL, err) && estimate(&s, memory_bytes, w, err);
    }

    *param = s.param;
    session_close(&s);
    return ok;
}

/* Tokens of the longest row that a file can make: a token is a byte at least, what templates add aside. */
static uint32_t longest_possible(const struct session *s, const struct train_file *file)
{
    uint64_t bytes, most = s->context_length;

    if (s->config.method == METHOD_DPO) /* two sequences a row */
        most *= 2;
    if (most > (uint64_t)s->model_config.positions_max)
        most = (uint64_t)s->model_config.positions_max;
    if (!file->path)
        return 0;
    return (uint32_t)(file_size(file->path, &bytes, NULL) && bytes + TEMPLATE_TOKENS < most ? bytes + TEMPLATE_TOKENS
                                                                                             : most);
}

/* What a trainer whose model lies on a device takes of the host: a tensor being placed or written, twice, and more. */
static uint64_t host_bytes_beside(int32_t vocab, int32_t hidden)
{
    return (uint64_t)vocab * (uint64_t)hidden * 8 + ((uint64_t)512 << 20);
}

bool train_plan_bytes(struct str job_json, uint64_t *memory_bytes, uint64_t *disk_bytes, struct err *err)
{
    struct session s = {0};
    struct plan *plan = arena_new(&s.arena, struct plan);
    bool is_on_device = false, ok = session_parse_for_disk(&s, job_json, &is_on_device, err);

    if (ok) {
        uint32_t train = longest_possible(&s, &s.config.train), valid = longest_possible(&s, &s.config.valid);
        struct model_options options = session_model_options(&s, train > valid ? train : valid);
        ok = model_plan(s.config.model_path, &options, plan, err);
        *memory_bytes = plan->total_bytes;
        if (is_on_device)
            *memory_bytes = host_bytes_beside(s.model_config.vocab, s.model_config.hidden) + plan->host_bytes +
                            state_copy_bytes(plan);
        *disk_bytes = disk_needs_least(&s, plan);
    }
    session_close(&s);
    return ok;
}
