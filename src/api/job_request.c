#include "api/job_request_int.h"

#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Below this a "multiplier" is what Nebius' own notebook means by it: a rate. */
#define MULTIPLIER_MIN 0.01

static const char *const fields[] = {
    "model",  "training_file", "validation_file", "hyperparameters", "method",     "integrations",
    "seed",   "suffix",        "tags",            "metadata",        "extra_body", "from_checkpoint"};

static void warn(struct reader *r, const char *code, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void warn(struct reader *r, const char *code, const char *format, ...)
{
    struct job_request *request = r->request;
    va_list args;

    if (request->warning_count == JOB_WARNINGS_MAX)
        return;
    va_start(args, format);
    request->warnings[request->warning_count++] = (struct job_warning){code, arena_vprintf(r->arena, format, args)};
    va_end(args);
}

/* --- method --- */

static bool is_same(const struct json *a, const struct json *b)
{
    if (json_is_null(a) || json_is_null(b))
        return json_is_null(a) && json_is_null(b);
    if (a->type != b->type)
        return false;
    if (a->type == JSON_NUMBER)
        return json_number(a) == json_number(b);
    return a->type == JSON_STRING ? str_equal(a->string, b->string) : a->boolean == b->boolean;
}

static const struct json *find(const struct json *object, struct str name)
{
    json_each(value, object)
        if (str_equal(value->key, name))
            return value;
    return NULL;
}

static bool is_subset(const struct json *a, const struct json *b)
{
    json_each(value, a)
        if (!is_same(value, find(b, value->key)))
            return false;
    return true;
}

/* What type names, or else supervised. */
static bool read_method_type(struct reader *r, const struct json *method)
{
    struct str type = json_string_or(json_get(method, "type"), STR("?"));

    if (method->type != JSON_OBJECT) {
        problems_add(r->problems, "dict_type", "method", NULL, NULL, "method must be an object");
        return false;
    }
    if (!json_get(method, "type") || method_find(type, &r->request->method))
        return true;
    problems_add(r->problems, "unsupported_method", "method", "type", NULL,
                 "method.type \"%.*s\" is not supported; \"supervised\" and \"dpo\" are", STR_ARG(str_clip(type, 64)));
    return false;
}

static void read_method(struct reader *r, const struct json *method, const struct json *top)
{
    const struct json *inner;
    const char *name;

    if (json_is_null(method)) {
        job_request_read_hyperparameters(r, top, "hyperparameters", NULL);
        return;
    }
    if (!read_method_type(r, method))
        return;
    name = method_name(r->request->method);
    inner = json_get(json_get(method, name), "hyperparameters");
    if (!json_is_null(inner) && !json_is_null(top) && inner->type == JSON_OBJECT && top->type == JSON_OBJECT &&
        !(is_subset(inner, top) && is_subset(top, inner))) {
        problems_add(r->problems, "value_error", "method", name, "hyperparameters",
                     "hyperparameters and method.%s.hyperparameters differ: send one of them", name);
        return;
    }
    if (json_is_null(inner))
        job_request_read_hyperparameters(r, top, "hyperparameters", NULL);
    else
        job_request_read_hyperparameters(r, inner, "method", "hyperparameters");
}

/* --- the other fields --- */

static struct str read_string(struct reader *r, const struct json *body, const char *name, bool is_required,
                              size_t len_max)
{
    const struct json *value = json_get(body, name);

    if (json_is_null(value)) {
        if (is_required)
            problems_add(r->problems, "missing", name, NULL, NULL, "%s is required", name);
        return STR_NONE;
    }
    if (value->type != JSON_STRING)
        problems_add(r->problems, "string_type", name, NULL, NULL, "%s must be a string, not %s", name,
                     json_type_name(value));
    else if (is_required && value->string.len == 0)
        problems_add(r->problems, "value_error", name, NULL, NULL, "%s is empty", name);
    else if (value->string.len && memchr(value->string.at, 0, value->string.len)) /* names and ids end there in C */
        problems_add(r->problems, "value_error", name, NULL, NULL, "%s holds a NUL character", name);
    else if (utf8_length(value->string) > len_max)
        problems_add(r->problems, "string_too_long", name, NULL, NULL, "%s has more than %zu characters", name,
                     len_max);
    else
        return value->string;
    return STR_NONE;
}

/* The suffix becomes a part of a model's name, whose parts are divided by colons. */
static void check_suffix(struct reader *r, struct str suffix)
{
    for (size_t i = 0; i < suffix.len; i++) {
        char c = suffix.at[i];
        bool is_fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_. ", c);
        if (!is_fine || c == 0) {
            problems_add(r->problems, "value_error", "suffix", NULL, NULL,
                         "suffix may hold letters, digits, '-', '_', '.' and spaces");
            return;
        }
    }
}

static void read_seed(struct reader *r, const struct json *value)
{
    int64_t seed = json_integer_or(value, -1);

    if (json_is_null(value))
        return;
    if (seed < 0 || seed > INT32_MAX)
        problems_add(r->problems, "value_error", "seed", NULL, NULL, "seed must be an integer from 0 to 2147483647");
    else
        r->request->seed = seed;
}

static void read_metadata(struct reader *r, const struct json *value)
{
    if (json_is_null(value))
        return;
    if (value->type != JSON_OBJECT || value->count > 16) {
        problems_add(r->problems, "value_error", "metadata", NULL, NULL,
                     "metadata must be an object of at most 16 pairs");
        return;
    }
    json_each(pair, value) {
        if (pair->type != JSON_STRING || utf8_length(pair->key) > 64 || utf8_length(pair->string) > 512) {
            problems_add(r->problems, "value_error", "metadata", str_copy(r->arena, pair->key), NULL,
                         "metadata takes strings: keys up to 64 characters, values up to 512");
            return;
        }
    }
    r->request->metadata = value;
}

static void read_tags(struct reader *r, const struct json *value)
{
    if (json_is_null(value) || (value->type == JSON_ARRAY && value->count == 0))
        return;
    if (value->type == JSON_STRING || job_request_is_name_list(value))
        r->request->tags = value;
    else
        problems_add(r->problems, "value_error", "tags", NULL, NULL, "tags must be a list of strings, or one string");
}

static void read_extra(struct reader *r, const struct json *extra)
{
    if (json_is_null(extra))
        return;
    if (extra->type != JSON_OBJECT) {
        problems_add(r->problems, "dict_type", "extra_body", NULL, NULL, "extra_body must be an object");
        return;
    }
    r->outer = "extra_body";
    json_each(value, extra)
        if (!job_request_read_extension(r, value))
            warn(r, "unknown_field", "extra_body.%.*s is not known and was ignored", STR_ARG(value->key));
    r->outer = NULL;
}

static bool is_known_field(struct str name)
{
    for (size_t i = 0; i < COUNT(fields); i++)
        if (str_is(name, fields[i]))
            return true;
    return false;
}

static void read_top_level(struct reader *r, const struct json *body)
{
    json_each(value, body) {
        const char *nearest;

        if (is_known_field(value->key) || job_request_read_extension(r, value))
            continue;
        nearest = str_nearest(value->key, fields, COUNT(fields));
        warn(r, "unknown_field", "the field \"%.*s\" is not known and was ignored%s%s%s", STR_ARG(value->key),
             nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
    }
}

/* --- the rate --- */

static void resolve_rate(struct reader *r)
{
    struct hyperparameters *values = &r->request->values;
    double standard = hyperparameters_auto_rate(r->request->method, values->lora);

    if (r->multiplier > 0 && r->given.learning_rate) {
        problems_add(r->problems, "value_error", "hyperparameters", "learning_rate_multiplier", NULL,
                     "learning_rate and learning_rate_multiplier cannot both be given");
    } else if (r->multiplier >= MULTIPLIER_MIN) {
        values->learning_rate = standard * r->multiplier;
        if (values->learning_rate > 1)
            problems_add(r->problems, "value_error", "hyperparameters", "learning_rate_multiplier", NULL,
                         "learning_rate_multiplier %g makes the rate %g: at most 1", r->multiplier,
                         values->learning_rate);
    } else if (r->multiplier > 0) {
        values->learning_rate = r->multiplier;
        warn(r, "multiplier_is_rate",
             "learning_rate_multiplier %g is below 0.01 and was taken as the learning rate itself; say learning_rate",
             r->multiplier);
    } else if (r->is_rate_auto && !r->given.learning_rate) {
        values->learning_rate = standard;
    } else if (values->lora && !r->given.learning_rate && r->request->method == METHOD_SUPERVISED) {
        warn(
            r, "lora_default_rate",
            "learning_rate was left at its default 1e-5, which hardly moves a LoRA adapter; 2e-4 or \"auto\" is usual");
    }
}

static void settle_method(struct reader *r)
{
    const char *name, *conflict;

    hyperparameters_settle(&r->request->values, r->request->method, &r->given);
    conflict = hyperparameters_conflict(&r->request->values, r->request->method, &r->given, &name);
    if (conflict)
        problems_add(r->problems, "value_error", "hyperparameters", name, NULL, "%s: %s", name, conflict);
}

static void check_quantization(struct reader *r)
{
    if (strcmp(r->request->quantization, "nf4") == 0 && !r->request->values.lora)
        problems_add(r->problems, "value_error", "quantization", NULL, NULL,
                     "quantization nf4 goes with lora: weights of four bits do not train");
}

static void check_fp8(struct reader *r)
{
    const struct json *dora = r->request->use_dora;

    if (r->request->is_fp8 && strcmp(r->request->quantization, "nf4") == 0)
        problems_add(r->problems, "value_error", "fp8", NULL, NULL, "fp8 does not go with quantization nf4");
    if (r->request->is_fp8 && dora && dora->boolean)
        problems_add(r->problems, "value_error", "fp8", NULL, NULL, "fp8 does not go with use_dora");
}

static void check_optim(struct reader *r)
{
    if (strcmp(r->request->optim, "adamw_torch") != 0 && r->request->values.lora)
        problems_add(r->problems, "value_error", "optim", NULL, NULL,
                     "optim %s is for full fine-tuning: an adapter's weights are few and stay in float32",
                     r->request->optim);
}

bool job_request_read(struct arena *arena, const struct json *body, struct job_request *request,
                      struct problems *problems)
{
    struct reader r = {.arena = arena, .request = request, .problems = problems};
    struct str twice = json_duplicate(body);

    *request = (struct job_request){.values = HYPERPARAMETERS_DEFAULT,
                                    .over_length = "drop",
                                    .has_tensorboard = true,
                                    .lr_scheduler_type = "linear",
                                    .quantization = "none",
                                    .device = "auto",
                                    .optim = "adamw_torch"};
    if (!json_has_type(body, JSON_OBJECT)) {
        problems_add(problems, "dict_type", NULL, NULL, NULL, "the body must be a JSON object, not %s",
                     json_type_name(body));
        return false;
    }
    if (twice.at)
        problems_add(problems, "value_error", str_copy(arena, twice), NULL, NULL, "%.*s occurs twice", STR_ARG(twice));
    request->model = read_string(&r, body, "model", true, 512);
    request->training_file = read_string(&r, body, "training_file", true, 128);
    request->validation_file = read_string(&r, body, "validation_file", false, 128);
    request->suffix = read_string(&r, body, "suffix", false, 64);
    check_suffix(&r, request->suffix);
    read_seed(&r, json_get(body, "seed"));
    read_metadata(&r, json_get(body, "metadata"));
    read_tags(&r, json_get(body, "tags"));
    request->integrations = json_get(body, "integrations");
    request->from_checkpoint = json_get(body, "from_checkpoint");
    read_method(&r, json_get(body, "method"), json_get(body, "hyperparameters"));
    read_top_level(&r, body);
    read_extra(&r, json_get(body, "extra_body"));
    settle_method(&r);
    check_quantization(&r);
    check_fp8(&r);
    check_optim(&r);
    resolve_rate(&r);
    return problems->count == 0;
}
