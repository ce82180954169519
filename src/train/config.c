#include "compute/device.h"
#include "train/config.h"
#include "base/hash.h"
#include "os/file.h"
#include "text/template.h"

#include <time.h>

enum { JOB_BYTES_MAX = 1 << 20, JOB_FORMAT = 1 };

static const char *const dtype_names[TRAIN_DTYPE_COUNT] = {"auto", "float32", "bfloat16"};

static bool read_text(struct arena *arena, const struct json *object, const char *key, bool is_required,
                      const char **text, struct err *err)
{
    const struct json *value = json_get(object, key);

    if (json_is_null(value) && !is_required)
        return true;
    if (!json_has_type(value, JSON_STRING))
        return err_set(err, ERR_INPUT, "job.json: %s must be a string", key);
    *text = str_copy(arena, value->string);
    return true;
}

static bool read_integer(const struct json *object, const char *key, int64_t min, int64_t max, int64_t *number,
                         struct err *err)
{
    const struct json *value = json_get(object, key);

    if (json_is_null(value))
        return true;
    if (value->type != JSON_NUMBER || !value->is_integer || value->integer < min || value->integer > max)
        return err_set(err, ERR_INPUT, "job.json: %s must be an integer from %lld to %lld", key, (long long)min,
                       (long long)max);
    *number = value->integer;
    return true;
}

static bool read_flag(const struct json *object, const char *key, bool *flag, struct err *err)
{
    const struct json *value = json_get(object, key);

    if (json_is_null(value))
        return true;
    if (value->type != JSON_BOOL)
        return err_set(err, ERR_INPUT, "job.json: %s must be true or false", key);
    *flag = value->boolean;
    return true;
}

static bool read_hp_INT(const struct json *value, double min, double max, int64_t *field)
{
    if (value->type != JSON_NUMBER || !value->is_integer || (double)value->integer < min ||
        (double)value->integer > max)
        return false;
    *field = value->integer;
    return true;
}

static bool read_hp_FLOAT(const struct json *value, double min, double max, double *field)
{
    double number = value->type == JSON_NUMBER ? json_number(value) : -1;

    if (!(value->type == JSON_NUMBER && number >= min && number <= max))
        return false;
    *field = number;
    return true;
}

static bool read_hp_BOOL(const struct json *value, double min, double max, bool *field)
{
    if (value->type != JSON_BOOL)
        return false;
    *field = value->boolean;
    return true;
}

/* context_length 0 stands for the default, which only the model's config decides. */
static bool is_default_length(const char *name, const struct json *value)
{
    return str_is(str_of(name), "context_length") && value->type == JSON_NUMBER && value->is_integer &&
           value->integer == 0;
}

#define READ_HYPERPARAMETER(name, kind, standard, min, max, help)                                                      \
    value = json_get(object, #name);                                                                                   \
    if (value && !is_default_length(#name, value) && !read_hp_##kind(value, min, max, &hp->name))                      \
        return err_set(err, ERR_INPUT, "job.json: hyperparameters.%s must be %s from %s to %s", #name,                 \
                       HYPERPARAMETER_##kind == HYPERPARAMETER_BOOL ? "true or false," : "a number", #min, #max);

static bool read_hyperparameters(const struct json *object, enum method method, struct hyperparameters *hp,
                                 struct err *err)
{
    const struct hyperparameters_given given = {
        .learning_rate = json_get(object, "learning_rate") != NULL,
        .packing = json_get(object, "packing") != NULL,
        .beta = json_get(object, "beta") != NULL,
    };
    const struct json *value;
    const char *conflict, *name;

    *hp = HYPERPARAMETERS_DEFAULT;
    HYPERPARAMETERS(READ_HYPERPARAMETER)
    if (method == METHOD_DPO) {
        DPO_HYPERPARAMETERS(READ_HYPERPARAMETER)
    }
    hyperparameters_settle(hp, method, &given);
    conflict = hyperparameters_conflict(hp, method, &given, &name);
    return !conflict || err_set(err, ERR_INPUT, "job.json: hyperparameters.%s %s", name, conflict);
}
#undef READ_HYPERPARAMETER

bool train_dtype_find(struct str name, enum train_dtype *dtype)
{
    for (int i = 0; i < TRAIN_DTYPE_COUNT; i++) {
        if (str_is(name, dtype_names[i])) {
            *dtype = (enum train_dtype)i;
            return true;
        }
    }
    return false;
}

static const char *const optim_names[OPTIM_COUNT] = {
#define OPTIM_NAME(id, name) name,
    TRAIN_OPTIMS(OPTIM_NAME)
#undef OPTIM_NAME
};

const char *train_optim_name(enum train_optim optim)
{
    return optim_names[optim];
}

bool train_optim_find(struct str name, enum train_optim *optim)
{
    for (int i = 0; i < OPTIM_COUNT; i++) {
        if (str_is(name, optim_names[i])) {
            *optim = (enum train_optim)i;
            return true;
        }
    }
    return false;
}

const char *train_optim_conflict(const struct train_config *config)
{
    if (config->optim == OPTIM_ADAMW_TORCH)
        return NULL;
    if (config->hp.lora || config->adapter_path)
        return "adamw_bf16 and adamw_8bit are for full fine-tuning: an adapter's weights are few and stay in float32";
    return config->dtype == TRAIN_DTYPE_F32 ? "adamw_bf16 and adamw_8bit go with dtype bfloat16" : NULL;
}

const char *train_fp8_conflict(const struct train_config *config)
{
    if (!config->is_fp8)
        return NULL;
    if (config->is_nf4)
        return "does not go with quantization nf4";
    return config->lora.is_dora ? "does not go with use_dora" : NULL;
}

static bool read_names(const struct json *options, struct train_config *config, struct err *err)
{
    struct str policy = json_string_or(json_get(options, "over_length"), STR("drop"));
    struct str schedule = json_string_or(json_get(options, "lr_scheduler_type"), STR("linear"));
    struct str init = json_string_or(json_get(options, "init"), STR("model"));
    struct str dtype = json_string_or(json_get(options, "dtype"), STR("auto"));
    struct str quantization = json_string_or(json_get(options, "quantization"), STR("none"));
    struct str optim = json_string_or(json_get(options, "optim"), str_of(optim_names[OPTIM_ADAMW_TORCH]));
    struct str now = json_string_or(json_get(options, "now"), STR("1970-01-01T00:00:00"));

    if (!over_length_find(policy, &config->over_length))
        return err_set(err, ERR_INPUT, "job.json: over_length '%.*s' is not drop, error or truncate",
                       STR_ARG(str_clip(policy, 40)));
    if (!schedule_find(schedule, &config->schedule))
        return err_set(err, ERR_INPUT,
                       "job.json: lr_scheduler_type '%.*s' is not linear, cosine, constant or constant_with_warmup",
                       STR_ARG(str_clip(schedule, 40)));
    if (!train_optim_find(optim, &config->optim))
        return err_set(err, ERR_INPUT, "job.json: optim '%.*s' is not adamw_torch, adamw_bf16 or adamw_8bit",
                       STR_ARG(str_clip(optim, 40)));
    config->is_random = str_is(init, "random");
    if (!config->is_random && !str_is(init, "model"))
        return err_set(err, ERR_INPUT, "job.json: init '%.*s' is not model or random", STR_ARG(str_clip(init, 40)));
    config->is_nf4 = str_is(quantization, "nf4");
    if (!config->is_nf4 && !str_is(quantization, "none"))
        return err_set(err, ERR_INPUT, "job.json: quantization '%.*s' is not none or nf4",
                       STR_ARG(str_clip(quantization, 40)));
    if (!template_time_parse(now, &config->now))
        return err_set(err, ERR_INPUT, "job.json: now '%.*s' is not a time such as 2026-01-31T12:00:00",
                       STR_ARG(str_clip(now, 40)));
    if (!train_dtype_find(dtype, &config->dtype))
        return err_set(err, ERR_INPUT, "job.json: dtype '%.*s' is not auto, float32 or bfloat16",
                       STR_ARG(str_clip(dtype, 40)));
    return true;
}

static bool read_device(struct arena *arena, const struct json *options, struct train_config *config, struct err *err)
{
    config->device = str_copy(arena, json_string_or(json_get(options, "device"), STR("cpu")));
    return device_name_is_valid(config->device) ||
           err_set(err, ERR_INPUT, "job.json: device '%.40s' is not cpu, cuda or cuda:N", config->device);
}

static bool read_lora(struct arena *arena, const struct json *options, struct train_config *config, struct err *err)
{
    return lora_json_read(arena, options, "lora_target_modules", &config->lora, err) || err_prefix(err, "job.json");
}

static bool check_fp8(const struct train_config *config, struct err *err)
{
    const char *conflict = train_fp8_conflict(config);

    return !conflict || err_set(err, ERR_INPUT, "job.json: fp8 %s", conflict);
}

static bool read_options(struct arena *arena, const struct json *options, struct train_config *config, struct err *err)
{
    const char *conflict;

    config->has_tensorboard = true;
    if (!read_names(options, config, err))
        return false;
    conflict = train_optim_conflict(config);
    if (conflict)
        return err_set(err, ERR_INPUT, "job.json: optim: %s", conflict);
    return read_device(arena, options, config, err) &&
           read_integer(options, "checkpoint_steps", 0, INT32_MAX, &config->checkpoint_steps, err) &&
           read_integer(options, "keep_checkpoints", 0, INT32_MAX, &config->keep_checkpoints, err) &&
           read_integer(options, "eval_steps", 0, INT32_MAX, &config->eval_steps, err) &&
           read_integer(options, "recovery_steps", 0, INT32_MAX, &config->recovery_steps, err) &&
           read_flag(options, "gradient_norms", &config->has_gradient_norms, err) &&
           read_flag(options, "tensorboard", &config->has_tensorboard, err) &&
           read_flag(options, "fp8", &config->is_fp8, err) &&
           read_integer(options, "threads", 0, 1024, &config->threads, err) &&
           read_integer(options, "memory_bytes", 0, INT64_MAX, &config->memory_bytes, err) &&
           read_lora(arena, options, config, err) && check_fp8(config, err);
}

static bool read_file(struct arena *arena, const struct json *root, const char *key, bool is_required,
                      struct train_file *file, struct err *err)
{
    const struct json *object = json_get(root, key);

    if (json_is_null(object) && !is_required)
        return true;
    if (!read_text(arena, object, "path", true, &file->path, err))
        return err_prefix(err, "%s", key);
    file->id = "";
    file->name = path_name(file->path);
    return read_text(arena, object, "id", false, &file->id, err) &&
           read_text(arena, object, "name", false, &file->name, err);
}

static bool read_method(const struct json *value, enum method *method, struct err *err)
{
    *method = METHOD_SUPERVISED;
    return json_is_null(value) || method_find(json_string_or(value, STR("")), method) ||
           err_set(err, ERR_INPUT, "job.json: method must be supervised or dpo");
}

static bool read_members(struct arena *arena, const struct json *root, struct train_config *config, struct err *err)
{
    const struct json *model = json_get(root, "model"), *adapter = json_get(root, "adapter");

    if (json_integer_or(json_get(root, "format"), 0) != JOB_FORMAT)
        return err_set(err, ERR_INPUT, "job.json: format must be %d", JOB_FORMAT);
    if (!read_text(arena, root, "id", true, &config->id, err) ||
        !read_text(arena, model, "path", true, &config->model_path, err) ||
        !read_file(arena, root, "training_file", true, &config->train, err) ||
        !read_file(arena, root, "validation_file", false, &config->valid, err))
        return false;
    config->model_id = path_name(config->model_path);
    config->output_name = "";
    return read_text(arena, model, "id", false, &config->model_id, err) &&
           (json_is_null(adapter) || read_text(arena, adapter, "path", true, &config->adapter_path, err)) &&
           read_text(arena, root, "output_name", false, &config->output_name, err) &&
           read_text(arena, root, "cache", true, &config->cache, err) &&
           read_integer(root, "seed", INT64_MIN, INT64_MAX, &config->seed, err) &&
           read_method(json_get(root, "method"), &config->method, err) &&
           read_hyperparameters(json_get(root, "hyperparameters"), config->method, &config->hp, err) &&
           read_options(arena, json_get(root, "options"), config, err);
}

bool train_config_parse(struct arena *arena, struct str text, struct train_config *config, struct err *err)
{
    const struct json *root = json_parse(arena, text, NULL, err);

    *config = (struct train_config){0};
    if (!root)
        return err_prefix(err, "job.json");
    sha256_hex(text, config->hash);
    return read_members(arena, root, config, err);
}

bool train_config_read(struct arena *arena, const char *path, struct train_config *config, struct err *err)
{
    struct str text;

    return file_read(arena, path, JOB_BYTES_MAX, &text, err) && train_config_parse(arena, text, config, err);
}

static void write_file(struct json_writer *w, const char *key, const struct train_file *file)
{
    json_write_key(w, key);
    if (!file->path) {
        json_write_null(w);
        return;
    }
    json_write_begin_object(w);
    json_put_text(w, "id", file->id);
    json_put_text(w, "path", file->path);
    json_put_text(w, "name", file->name);
    json_write_end_object(w);
}

#define write_hp_INT(w, value)   json_write_integer((w), (value))
#define write_hp_FLOAT(w, value) json_write_number((w), (value))
#define write_hp_BOOL(w, value)  json_write_bool((w), (value))

static void write_hyperparameters(struct json_writer *w, enum method method, const struct hyperparameters *hp)
{
    json_write_key(w, "hyperparameters");
    json_write_begin_object(w);
#define WRITE_HYPERPARAMETER(name, kind, standard, min, max, help)                                                     \
    json_write_key(w, #name), write_hp_##kind(w, hp->name);
    HYPERPARAMETERS(WRITE_HYPERPARAMETER)
    if (method == METHOD_DPO) {
        DPO_HYPERPARAMETERS(WRITE_HYPERPARAMETER)
    }
#undef WRITE_HYPERPARAMETER
    json_write_end_object(w);
}

static void write_lora(struct json_writer *w, const struct lora_config *lora)
{
    json_write_key(w, "lora_target_modules");
    lora_json_write_names(w, &lora->targets);
    json_write_key(w, "exclude_modules");
    lora_json_write_names(w, &lora->excluded);
    json_write_key(w, "layers_to_transform");
    lora_json_write_layers(w, lora);
    json_write_key(w, "rank_pattern");
    lora_json_write_patterns(w, &lora->rank_pattern);
    json_write_key(w, "alpha_pattern");
    lora_json_write_patterns(w, &lora->alpha_pattern);
    json_write_key(w, "modules_to_save");
    lora_json_write_names(w, &lora->saved);
    json_put_bool(w, "use_rslora", lora->is_rslora);
    json_put_bool(w, "use_dora", lora->is_dora);
}

static void write_options(struct json_writer *w, const struct train_config *config)
{
    struct tm date;
    char now[40];

    gmtime_r(&(time_t){(time_t)config->now}, &date);
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%S", &date);
    json_write_key(w, "options");
    json_write_begin_object(w);
    json_put_text(w, "over_length", over_length_name(config->over_length));
    json_put_integer(w, "checkpoint_steps", config->checkpoint_steps);
    if (config->keep_checkpoints)
        json_put_integer(w, "keep_checkpoints", config->keep_checkpoints);
    json_put_integer(w, "eval_steps", config->eval_steps);
    json_put_integer(w, "recovery_steps", config->recovery_steps);
    write_lora(w, &config->lora);
    json_put_text(w, "lr_scheduler_type", schedule_name(config->schedule));
    json_put_text(w, "init", config->is_random ? "random" : "model");
    json_put_text(w, "dtype", dtype_names[config->dtype]);
    json_put_text(w, "quantization", config->is_nf4 ? "nf4" : "none");
    if (config->optim != OPTIM_ADAMW_TORCH)
        json_put_text(w, "optim", train_optim_name(config->optim));
    if (config->is_fp8)
        json_put_bool(w, "fp8", true);
    json_put_bool(w, "gradient_norms", config->has_gradient_norms);
    if (!config->has_tensorboard)
        json_put_bool(w, "tensorboard", false);
    if (config->device && strcmp(config->device, "cpu") != 0)
        json_put_text(w, "device", config->device);
    json_put_integer(w, "threads", config->threads);
    json_put_integer(w, "memory_bytes", config->memory_bytes);
    json_put_text(w, "now", now);
    json_write_end_object(w);
}

void train_config_write(const struct train_config *config, struct strbuf *out)
{
    struct json_writer w = {.buf = out, .indent = 1};

    json_write_begin_object(&w);
    json_put_integer(&w, "format", JOB_FORMAT);
    json_put_text(&w, "id", config->id);
    json_write_key(&w, "model");
    json_write_begin_object(&w);
    json_put_text(&w, "id", config->model_id);
    json_put_text(&w, "path", config->model_path);
    json_write_end_object(&w);
    json_write_key(&w, "adapter");
    if (config->adapter_path) {
        json_write_begin_object(&w);
        json_put_text(&w, "path", config->adapter_path);
        json_write_end_object(&w);
    } else {
        json_write_null(&w);
    }
    write_file(&w, "training_file", &config->train);
    write_file(&w, "validation_file", &config->valid);
    json_put_text(&w, "output_name", config->output_name);
    json_put_integer(&w, "seed", config->seed);
    json_put_text(&w, "method", method_name(config->method));
    write_hyperparameters(&w, config->method, &config->hp);
    write_options(&w, config);
    json_put_text(&w, "cache", config->cache);
    json_write_end_object(&w);
    strbuf_add_char(out, '\n');
}
