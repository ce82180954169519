#include "base/hash.h"
#include "compute/device.h"
#include "compute/graphs.h"
#include "os/clock.h"
#include "text/tokenizer.h"
#include "train/train_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONTEXT_LENGTH_DEFAULT = 8192,
    MICRO_TOKENS_ENOUGH = 4096,
    DEVICE_MICRO_TOKENS_ENOUGH = 16384,
    PLAN_BYTES_MAX = 1 << 20,
    HEADER_BYTES_MAX = 100000000
};

static bool read_model(struct session *s, struct err *err)
{
    s->resumed_from = -1;
    if (!s->backend || !config_read(&s->arena, s->config.model_path, &s->model_config, err))
        return false;
    s->context_length = (uint32_t)s->config.hp.context_length;
    if (s->context_length == 0)
        s->context_length = s->model_config.positions_max < CONTEXT_LENGTH_DEFAULT
                                ? (uint32_t)s->model_config.positions_max
                                : CONTEXT_LENGTH_DEFAULT;
    if (s->context_length > (uint32_t)s->model_config.positions_max)
        return err_set(err, ERR_INPUT, "context_length is %u: the model has %d positions at most", s->context_length,
                       s->model_config.positions_max);
    return true;
}

static void find_input(struct session *s, const char *dir, struct train_file *file)
{
    const char *here = path_join(&s->arena, path_join(&s->arena, dir, "inputs"), file->id ? file->id : "");

    if (file->path && !file_exists(file->path) && file_exists(here))
        file->path = here;
}

/* In a data folder that has moved, or in a copy of one, job.json names places of the old one. */
static void find_places(struct session *s, const char *dir)
{
    const char *cache = path_join(&s->arena, dir, "../../cache");

    find_input(s, dir, &s->config.train);
    find_input(s, dir, &s->config.valid);
    if (!dir_exists(s->config.cache) && dir_exists(path_join(&s->arena, dir, "../../runs")))
        s->config.cache = cache;
}

bool session_read(struct session *s, const char *dir, const char *device, struct err *err)
{
    if (!train_config_read(&s->arena, path_join(&s->arena, dir, "job.json"), &s->config, err))
        return false;
    if (device)
        s->config.device = device;
    find_places(s, dir);
    s->backend = device_find(s->config.device, &s->device, err);
    if (!read_model(s, err))
        return false;
    s->pool = pool_new((int)s->config.threads);
    return true;
}

bool session_parse(struct session *s, struct str job_json, struct err *err)
{
    s->is_planned_only = true;
    if (!train_config_parse(&s->arena, job_json, &s->config, err))
        return false;
    s->backend = device_backend(s->config.device, &s->device, err);
    return read_model(s, err);
}

/* What lies on the disk is the same on every device of one type of numbers. */
bool session_parse_for_disk(struct session *s, struct str job_json, bool *is_on_device, struct err *err)
{
    if (!train_config_parse(&s->arena, job_json, &s->config, err))
        return false;
    *is_on_device = strcmp(s->config.device, "cpu") != 0;
    s->backend = &backend_cpu;
    if (*is_on_device && s->config.dtype == TRAIN_DTYPE_AUTO)
        s->config.dtype = TRAIN_DTYPE_BF16;
    return read_model(s, err);
}

/* While data is prepared: a sign of life, and a look at what is wanted. */
static bool on_prepared(void *context, uint64_t done, uint64_t total)
{
    struct session *s = context;

    if (s->run.dir) {
        run_beat(&s->run, NULL);
        if (run_wanted(&s->run) != RUN_GO_ON)
            return false;
    }
    if (s->options && s->options->on_progress)
        s->options->on_progress(s->options->context, &(struct train_progress_line){0});
    return true;
}

static bool tell_errors(struct session *s, const char *which, const struct jsonl_report *report, struct err *err)
{
    struct json_writer *w;
    char code[64];

    snprintf(code, sizeof code, "%s_errors", which);
    w = run_event_begin(&s->run, "message", code, 0);
    json_put_text(w, "level", "error");
    json_put_text(w, "message", "Lines that cannot be used");
    json_write_key(w, "data");
    json_write_begin_object(w);
    json_put_integer(w, "error_count", (int64_t)report->error_count);
    json_write_key(w, "errors");
    json_write_begin_array(w);
    for (size_t i = 0; i < jsonl_report_kept(report); i++) {
        json_write_begin_object(w);
        json_put_integer(w, "line", (int64_t)report->errors[i].line);
        json_put_text(w, "message", report->errors[i].text);
        json_write_end_object(w);
    }
    json_write_end_array(w);
    json_write_end_object(w);
    return run_event_end(&s->run, err);
}

/* What became of the file's lines. Nebius' words, which people's scripts look for. */
static bool tell_dataset(struct session *s, const char *which, const struct dataset_summary *sum, struct err *err)
{
    struct warning_events events = {&s->run, err, true};
    char code[64];
    struct json_writer *w;

    warn_of_lines(which, sum, warning_event, &events);
    if (!events.ok)
        return false;
    snprintf(code, sizeof code, "%s_dataset", which);
    w = run_event_begin(&s->run, "message", code, 0);
    json_put_text(w, "level", "info");
    json_write_key(w, "message");
    json_write_string(w, str_of(arena_printf(&s->arena, "Dataset '%s' processed successfully", which)));
    json_write_key(w, "data");
    json_write_begin_object(w);
    json_put_text(w, "kind", example_kind_name(sum->kind));
#define PUT_COUNT(name) json_put_integer(w, #name, (int64_t)sum->name);
    DATASET_COUNTS(PUT_COUNT)
#undef PUT_COUNT
    json_write_end_object(w);
    return run_event_end(&s->run, err);
}

/* The cache may forget a folder at any time; the run keeps its files through links of its own. */
static bool link_dataset(struct arena *arena, const char *from, const char *to, struct err *err)
{
    static const char *const names[] = {"tokens.bin", "index.bin", "summary.json"};
    const char *temporary = arena_printf(arena, "%s.tmp", to);

    if (!dir_remove(temporary, err) || !dir_make(temporary, err))
        return false;
    for (int i = 0; i < 3; i++)
        if (!file_link(path_join(arena, from, names[i]), path_join(arena, temporary, names[i]), err))
            return false;
    return dir_sync(temporary, err) && file_rename(temporary, to, err);
}

static bool check_kind(struct session *s, const struct train_file *file, const char *which,
                       const struct dataset *dataset, struct err *err)
{
    bool is_preference = dataset->summary.kind == EXAMPLE_PREFERENCE;

    if (is_preference == (s->config.method == METHOD_DPO))
        return true;
    s->param = str_is(str_of(which), "training") ? "training_file" : "validation_file";
    return is_preference ? err_set(err, ERR_INPUT,
                                   "%s holds preferences, which method dpo trains on: supervised training takes "
                                   "messages, prompt and completion, text or token_ids",
                                   file->name)
                         : err_set(err, ERR_INPUT,
                                   "%s holds %s: method dpo takes preferences (prompt, chosen and rejected; or input, "
                                   "preferred_output and non_preferred_output)",
                                   file->name, example_kind_name(dataset->summary.kind));
}

static bool prepare_one(struct session *s, const char *dir, const struct train_file *file, const char *which,
                        struct dataset *dataset, struct err *err)
{
    struct prepare_options options = {
        .encoder = s->encoder,
        .context_length = s->context_length,
        .policy = s->config.over_length,
        .pool = s->pool,
        .on_progress = on_prepared,
        .context = s,
    };
    const char *linked = dir ? arena_printf(&s->arena, "%s/data/%s", dir, which) : NULL, *folder = linked;
    struct jsonl_report *report = arena_new(&s->arena, struct jsonl_report);

    if (!dir || !dir_exists(linked)) {
        s->param = str_is(str_of(which), "training") ? "training_file" : "validation_file";
        if (!prepare_file(file->path, file->name, s->config.cache, &options, &s->arena, &folder, report, err)) {
            if (report->error_count > 0 && s->run.dir)
                tell_errors(s, which, report, NULL);
            return false;
        }
        if (dir && !link_dataset(&s->arena, folder, linked, err))
            return false;
        s->param = NULL;
    }
    return dataset_open(dataset, dir ? linked : folder, err) && check_kind(s, file, which, dataset, err) &&
           (!s->run.dir || tell_dataset(s, which, &dataset->summary, err));
}

static bool hash_summaries(struct session *s, const char *dir, struct err *err)
{
    static const char *const names[] = {"training", "validation"};
    struct strbuf text = {0};

    for (int i = 0; i < 1 + s->has_valid; i++) {
        char hex[65];
        uint64_t bytes;
        if (!file_sha256(arena_printf(&s->arena, "%s/data/%s/summary.json", dir, names[i]), &bytes, hex, NULL, NULL,
                         err)) {
            strbuf_deinit(&text);
            return false;
        }
        strbuf_add_text(&text, hex);
    }
    sha256_hex(strbuf_view(&text), s->data_hash);
    strbuf_deinit(&text);
    return true;
}

/* What trains is not always the text that the model's own template renders: who compares should know. */
static bool tell_template(struct session *s, struct err *err)
{
    const char *name = encoder_training_name(s->encoder);
    struct json_writer *w;

    if (!name || s->train.summary.kind != EXAMPLE_MESSAGES || !s->run.dir)
        return true;
    w = run_event_begin(&s->run, "message", "training_template", 0);
    json_put_text(w, "level", "info");
    json_write_key(w, "message");
    json_write_string(
        w, str_of(arena_printf(
               &s->arena, "Conversations are rendered with the training variant of %s's chat template", name)));
    return run_event_end(&s->run, err);
}

bool session_prepare_data(struct session *s, const char *dir, struct err *err)
{
    struct encoder_options options = {
        .folder = s->config.model_path,
        .vocab = s->model_config.vocab,
        .eos_id = s->model_config.eos_count > 0 ? s->model_config.eos_ids[0] : -1,
        .now = s->config.now,
    };

    s->has_valid = s->config.valid.path != NULL;
    s->encoder = encoder_open(&options, err);
    return s->encoder && dir_make(s->config.cache, err) &&
           (!dir || dir_make(path_join(&s->arena, dir, "data"), err)) &&
           (!s->has_valid || prepare_one(s, dir, &s->config.valid, "validation", &s->valid, err)) &&
           prepare_one(s, dir, &s->config.train, "training", &s->train, err) && tell_template(s, err) &&
           (!dir || hash_summaries(s, dir, err));
}

static bool hash_header(struct sha256 *hash, struct arena *arena, const char *path, struct err *err)
{
    int fd = file_open_read(path, err);
    uint64_t header_bytes = 0;
    size_t got = 0;
    bool ok = fd >= 0 && fd_pread(fd, &header_bytes, sizeof header_bytes, 0, &got, path, err);

    if (ok && header_bytes <= HEADER_BYTES_MAX) {
        char *header = arena_alloc(arena, (size_t)header_bytes + 1);
        ok = fd_pread(fd, header, (size_t)header_bytes, sizeof header_bytes, &got, path, err);
        sha256_add(hash, header, got);
    }
    fd_close(&fd);
    return ok;
}

/* Names, sizes and headers of the weight files and the texts of the configs: enough to notice another model at once.
 * The receipt hashes every byte. */
static bool hash_folder(struct sha256 *hash, const char *folder, bool has_weights, struct err *err)
{
    struct arena arena = {0};
    char **names;
    size_t count;
    bool ok = dir_list(&arena, folder, &names, &count, err);

    for (size_t i = 0; ok && i < count; i++) {
        const char *path = path_join(&arena, folder, names[i]);
        struct str name = str_of(names[i]), text = STR("");
        uint64_t bytes = 0;
        bool is_config = str_is(name, "config.json") || str_is(name, "adapter_config.json");
        if (!is_config && !(has_weights && str_ends(name, STR(".safetensors"))))
            continue;
        ok = file_size(path, &bytes, err) &&
             (is_config ? file_read(&arena, path, PLAN_BYTES_MAX, &text, err) : hash_header(hash, &arena, path, err));
        sha256_add(hash, names[i], name.len + 1);
        sha256_add(hash, &bytes, sizeof bytes);
        sha256_add(hash, text.at, text.len);
    }
    arena_deinit(&arena);
    return ok;
}

static bool hash_base(struct session *s, struct err *err)
{
    struct sha256 hash;
    bool ok;

    sha256_begin(&hash);
    ok = hash_folder(&hash, s->config.model_path, !s->config.is_random, err) &&
         (!s->config.adapter_path || hash_folder(&hash, s->config.adapter_path, true, err));
    sha256_end_hex(&hash, s->base_hash);
    return ok;
}

/* In tokens; of a preference both sequences. */
static uint32_t longest_example(const struct dataset *data)
{
    uint32_t longest = 0, together = (uint32_t)example_kind_sequences(data->summary.kind);

    for (uint32_t i = 0; i < data->count; i += together) {
        uint32_t tokens = 0;
        for (uint32_t j = i; j < i + together; j++)
            tokens += data->entry[j].count;
        if (tokens > longest)
            longest = tokens;
    }
    return longest;
}

uint32_t session_row_tokens(const struct session *s)
{
    uint32_t valid = s->has_valid ? longest_example(&s->valid) : 0;

    return s->feed.longest_row > valid ? s->feed.longest_row : valid;
}

static enum model_profile profile_of(const struct session *s)
{
    enum train_dtype dtype = s->config.dtype;

    if (s->config.optim == OPTIM_ADAMW_BF16)
        return PROFILE_BF16_STATE;
    if (s->config.optim == OPTIM_ADAMW_8BIT)
        return PROFILE_BYTE_MOMENTS;
    if (dtype == TRAIN_DTYPE_AUTO)
        return s->backend->memory || s->config.is_fp8 ? PROFILE_BF16 : model_profile_best();
    return dtype == TRAIN_DTYPE_BF16 ? PROFILE_BF16 : PROFILE_F32;
}

enum { BESIDE_PLAN_BYTES = 640 << 20 };

/* What the plan may take: memory_bytes, and on a device what is free there, or all of it before the job has its turn;
 * less what the driver and the library of products take beside it. */
static uint64_t limit_of(const struct session *s)
{
    uint64_t asked = (uint64_t)s->config.memory_bytes, limit = asked, beside;
    struct device_info info;

    if (!s->backend->memory)
        return asked;
    if (device_describe(s->device, &info, NULL)) {
        uint64_t here = s->is_planned_only ? info.bytes : info.free_bytes;
        limit = asked && asked < here ? asked : here;
    }
    beside = limit / 20 < BESIDE_PLAN_BYTES ? limit / 20 : BESIDE_PLAN_BYTES;
    return limit - beside;
}

struct model_options session_model_options(const struct session *s, uint32_t row)
{
    uint64_t enough = s->backend->memory ? DEVICE_MICRO_TOKENS_ENOUGH : MICRO_TOKENS_ENOUGH;
    uint64_t wanted = (uint64_t)row * (uint64_t)s->config.hp.batch_size;
    struct model_options options = {
        .profile = profile_of(s),
        .is_trained = true,
        .is_random = s->config.is_random,
        .is_nf4 = s->config.is_nf4,
        .is_fp8 = s->config.is_fp8,
        .seed = (uint64_t)s->config.seed,
        .adapter_folder = s->config.adapter_path,
        .backend = s->backend,
        .device = s->device,
        .has_graphs = device_wants_graphs(),
        .pool = s->pool,
        .thread_count = (int)(s->config.threads ? s->config.threads : pool_cores()),
        .row_tokens = (int32_t)row,
        .tokens_wanted = (int32_t)(wanted < enough ? wanted : row > enough ? row : enough),
        .step_tokens = wanted < INT32_MAX ? (int32_t)wanted : INT32_MAX,
        .limit_bytes = limit_of(s),
    };

    if (s->config.hp.lora) {
        options.lora = s->config.lora;
        options.lora.rank = (int32_t)s->config.hp.lora_r;
        options.lora.alpha = s->config.hp.lora_alpha;
        options.lora.dropout = s->config.hp.lora_dropout;
    }
    return options;
}

static bool write_plan(const struct session *s, const char *path, struct err *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text, .indent = 1};
    bool ok;

    plan_write(model_plan_used(s->model), &s->model_config, &w);
    strbuf_add_char(&text, '\n');
    ok = file_replace(path, strbuf_view(&text), err);
    strbuf_deinit(&text);
    return ok;
}

static bool read_plan(struct session *s, const char *path, struct plan *plan, struct err *err)
{
    const struct json *root;
    struct str text;

    if (!file_read(&s->arena, path, PLAN_BYTES_MAX, &text, err))
        return false;
    root = json_parse(&s->arena, text, NULL, err);
    return root && plan_read(root, &s->model_config, plan, err);
}

void session_make_rows(struct session *s)
{
    feed_init(&s->feed, &s->arena, &s->train, s->config.hp.packing, s->context_length,
              (uint32_t)s->config.hp.batch_size, (uint64_t)s->config.seed);
    s->total_steps = s->feed.steps_per_epoch * s->config.hp.n_epochs;
    s->warmup_steps = schedule_warmup_steps(s->config.hp.warmup_ratio, s->total_steps);
    s->eval_every = s->config.eval_steps ? s->config.eval_steps : (s->total_steps + 19) / 20;
}

bool session_open_model(struct session *s, struct err *err)
{
    const char *path = path_join(&s->arena, s->options->dir, "plan.json");
    struct plan *plan = arena_new(&s->arena, struct plan);
    struct model_options options;
    bool has_plan = file_exists(path);

    session_make_rows(s);
    options = session_model_options(s, session_row_tokens(s));
    if (has_plan) {
        if (!read_plan(s, path, plan, err))
            return false;
        options.plan = plan;
    }
    if (!hash_base(s, err) || !model_open(&s->model, s->config.model_path, &options, err))
        return false;
    s->range = arena_new_array(&s->arena, struct model_range, MODEL_RANGES_MAX);
    s->range_count = model_ranges(s->model, s->range, MODEL_RANGES_MAX);
    return has_plan || write_plan(s, path, err);
}

struct dpo_batch session_pairs(struct session *s, const struct micro_batch *micro, const double *reference,
                               int64_t step_pairs, struct dpo_sums *sums)
{
    return (struct dpo_batch){s->model, micro, reference, s->config.hp.beta, step_pairs, &s->step_arena, sums};
}

void session_close(struct session *s)
{
    recovery_drop(s);
    model_close(s->model);
    dataset_close(&s->train);
    dataset_close(&s->valid);
    encoder_free(s->encoder);
    if (s->pool)
        pool_free(s->pool);
    run_close(&s->run);
    tensorboard_close(&s->board);
    arena_deinit(&s->step_arena);
    for (int i = 0; i < 2; i++)
        arena_deinit(&s->prepared[i].arena);
    arena_deinit(&s->arena);
}
