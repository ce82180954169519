#include "api/job_request.h"

#include "job/devices.h"

#include <math.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Below this a "multiplier" is what Nebius' own notebook means by it: a rate. */
#define MULTIPLIER_MIN 0.01

struct reader {
    struct arena *arena;
    struct job_request *request;
    struct problems *problems;
    const char *outer, *inner; /* where the hyperparameters at hand stand */
    double multiplier;         /* 0: none given */
    struct hyperparameters_given given;
    bool is_rate_auto;
};

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

/* Adds a problem with a field of the hyperparameters at hand. */
static void wrong(struct reader *r, const char *type, struct str name, const char *what)
{
    const char *field = str_copy(r->arena, name);

    if (r->outer && r->inner)
        problems_add(r->problems, type, r->outer, r->inner, field, "%s: %s", field, what);
    else if (r->outer)
        problems_add(r->problems, type, r->outer, field, NULL, "%s: %s", field, what);
    else
        problems_add(r->problems, type, field, NULL, NULL, "%s: %s", field, what);
}

/* --- hyperparameters --- */

static const struct field {
    const char *name;
    enum hyperparameter_kind kind;
    size_t offset;
    double min, max;
    bool is_dpo; /* of that method alone */
} fields[] = {
#define FIELD(field_name, field_kind, standard, low, high, help)                                                       \
    {#field_name, HYPERPARAMETER_##field_kind, offsetof(struct hyperparameters, field_name), low, high, false},
#define DPO_FIELD(field_name, field_kind, standard, low, high, help)                                                   \
    {#field_name, HYPERPARAMETER_##field_kind, offsetof(struct hyperparameters, field_name), low, high, true},
    HYPERPARAMETERS(FIELD)
    DPO_HYPERPARAMETERS(DPO_FIELD)
#undef FIELD
#undef DPO_FIELD
};

static bool takes_auto(const struct field *field)
{
    return strcmp(field->name, "n_epochs") == 0 || strcmp(field->name, "batch_size") == 0 ||
           strcmp(field->name, "learning_rate") == 0 || field->is_dpo;
}

static void read_bool(struct reader *r, const struct field *field, const struct json *value)
{
    if (value->type == JSON_BOOL)
        *(bool *)((char *)&r->request->values + field->offset) = value->boolean;
    else
        wrong(r, "bool_type", value->key,
              arena_printf(r->arena, "must be true or false, not %s", json_type_name(value)));
}

static void read_number(struct reader *r, const struct field *field, const struct json *value)
{
    char *at = (char *)&r->request->values + field->offset;
    bool is_integer = field->kind == HYPERPARAMETER_INT;
    double number = json_number_or(value, NAN);

    if (value->type != JSON_NUMBER)
        wrong(r, is_integer ? "int_type" : "float_type", value->key,
              arena_printf(r->arena, "must be %s%s, not %s", is_integer ? "an integer" : "a number",
                           takes_auto(field) ? " or \"auto\"" : "", json_type_name(value)));
    else if (is_integer && number != floor(number))
        wrong(r, "int_from_float", value->key, "must be an integer");
    else if (!(number >= field->min && number <= field->max))
        wrong(
            r, "value_error", value->key,
            arena_printf(r->arena, "must be from %g to %g, not %.*s", field->min, field->max, STR_ARG(value->string)));
    else if (is_integer)
        *(int64_t *)at = (int64_t)number;
    else
        *(double *)at = number;
}

static void read_field(struct reader *r, const struct field *field, const struct json *value)
{
    bool is_rate = strcmp(field->name, "learning_rate") == 0;

    if (field->is_dpo && r->request->method != METHOD_DPO) {
        wrong(r, "extra_forbidden", value->key, "is of method dpo alone");
        return;
    }
    if (takes_auto(field) && str_is(json_string_or(value, STR_NONE), "auto")) {
        r->is_rate_auto |= is_rate; /* the others: their defaults */
        return;
    }
    r->given.learning_rate |= is_rate;
    r->given.packing |= strcmp(field->name, "packing") == 0;
    if (field->kind == HYPERPARAMETER_BOOL)
        read_bool(r, field, value);
    else
        read_number(r, field, value);
}

static void read_multiplier(struct reader *r, const struct json *value)
{
    if (str_is(json_string_or(value, STR_NONE), "auto"))
        r->is_rate_auto = true;
    else if (value->type != JSON_NUMBER)
        wrong(r, "float_type", value->key, "must be a number or \"auto\"");
    else if (!(json_number(value) > 0) || json_number(value) > 1e4)
        wrong(r, "value_error", value->key, "must be above 0 and at most 10000");
    else
        r->multiplier = json_number(value);
}

/* --- extensions --- */

static void read_choice(struct reader *r, const struct json *value, const char *const *choices, size_t count,
                        const char **into)
{
    struct strbuf list = {0};

    for (size_t i = 0; i < count; i++) {
        if (str_is(json_string_or(value, STR_NONE), choices[i])) {
            *into = choices[i];
            strbuf_deinit(&list);
            return;
        }
        strbuf_printf(&list, "%s\"%s\"", i ? ", " : "", choices[i]);
    }
    wrong(r, "enum", value->key, arena_printf(r->arena, "must be one of %s", list.at));
    strbuf_deinit(&list);
}

static void read_count(struct reader *r, const struct json *value, int64_t max, int64_t *into)
{
    int64_t number = json_integer_or(value, -1);

    if (number < 0 || number > max)
        wrong(r, "value_error", value->key,
              arena_printf(r->arena, "must be an integer from 0 to %lld", (long long)max));
    else
        *into = number;
}

static void read_switch(struct reader *r, const struct json *value, bool *into)
{
    if (value->type != JSON_BOOL)
        wrong(r, "bool_type", value->key, "must be true or false");
    else
        *into = value->boolean;
}

static bool is_string_list(const struct json *value)
{
    if (value->type != JSON_ARRAY || value->count == 0 || value->count > 64)
        return false;
    for json_each (item, value)
        if (item->type != JSON_STRING || item->string.len == 0 || item->string.len > 128)
            return false;
    return true;
}

static bool is_layer_list(const struct json *value)
{
    if (value->type != JSON_ARRAY || value->count == 0 || value->count > 1024)
        return false;
    for json_each (item, value)
        if (item->type != JSON_NUMBER || !item->is_integer || item->integer < 0)
            return false;
    return true;
}

static bool is_pattern_object(const struct json *value)
{
    if (value->type != JSON_OBJECT || value->count > 1024)
        return false;
    for json_each (item, value)
        if (item->type != JSON_NUMBER || item->key.len == 0 || item->key.len > 128)
            return false;
    return true;
}

/* lora_target_modules and the like: which shape each has, and where it goes. */
static void read_lora_option(struct reader *r, const struct json *value)
{
    struct job_request *request = r->request;
    const char *wanted = NULL;

    if (str_is(value->key, "layers_to_transform"))
        wanted = is_layer_list(value) ? NULL : "must be a list of layers' numbers, such as [0, 1]";
    else if (str_ends(value->key, STR("_pattern")))
        wanted = is_pattern_object(value) ? NULL : "must be an object of numbers by module, such as {\"q_proj\": 4}";
    else if (str_starts(value->key, STR("use_")))
        wanted = value->type == JSON_BOOL ? NULL : "must be true or false";
    else
        wanted = is_string_list(value) ? NULL : "must be a list of module names, such as [\"q_proj\", \"v_proj\"]";
    if (wanted) {
        wrong(r, "value_error", value->key, wanted);
        return;
    }
#define TAKE(name)                                                                                                     \
    if (str_is(value->key, #name))                                                                                     \
        request->name = value;
    LORA_OPTIONS(TAKE)
#undef TAKE
}

/* Which there are is the route's business. */
static void read_device(struct reader *r, const struct json *value)
{
    struct str name = json_string_or(value, STR_NONE);

    if (str_is(name, "auto") || device_name_is_text(name))
        r->request->device = str_copy(r->arena, name);
    else
        wrong(r, "enum", value->key, "must be \"auto\", \"cpu\", \"cuda\" or a GPU such as \"cuda:0\"");
}

static const char *const extension_names[] = {
    "over_length", "lr_scheduler_type", "checkpoint_steps", "keep_checkpoints", "eval_steps", "priority",
    "quantization", "tensorboard", "device", "optim",
#define NAME(name) #name,
    LORA_OPTIONS(NAME)
#undef NAME
};

static void read_extension(struct reader *r, const struct json *value)
{
    static const char *const over_length[] = {"drop", "error", "truncate"};
    static const char *const schedules[] = {"linear", "cosine", "constant", "constant_with_warmup"};
    static const char *const quantizations[] = {"none", "nf4"};
    static const char *const optims[] = {"adamw_torch", "adamw_bf16", "adamw_8bit"};
    struct job_request *request = r->request;

    if (str_is(value->key, "over_length"))
        read_choice(r, value, over_length, COUNT(over_length), &request->over_length);
    else if (str_is(value->key, "lr_scheduler_type"))
        read_choice(r, value, schedules, COUNT(schedules), &request->lr_scheduler_type);
    else if (str_is(value->key, "quantization"))
        read_choice(r, value, quantizations, COUNT(quantizations), &request->quantization);
    else if (str_is(value->key, "device"))
        read_device(r, value);
    else if (str_is(value->key, "optim"))
        read_choice(r, value, optims, COUNT(optims), &request->optim);
    else if (str_is(value->key, "tensorboard"))
        read_switch(r, value, &request->has_tensorboard);
    else if (str_is(value->key, "checkpoint_steps"))
        read_count(r, value, 1000000000, &request->checkpoint_steps);
    else if (str_is(value->key, "keep_checkpoints"))
        read_count(r, value, 1000000000, &request->keep_checkpoints);
    else if (str_is(value->key, "eval_steps"))
        read_count(r, value, 1000000000, &request->eval_steps);
    else if (str_is(value->key, "priority"))
        read_count(r, value, 1000, &request->priority);
    else
        read_lora_option(r, value);
}

static bool is_extension(struct str name)
{
    for (size_t i = 0; i < COUNT(extension_names); i++)
        if (str_is(name, extension_names[i]))
            return true;
    return false;
}

static void unknown_hyperparameter(struct reader *r, const struct json *value)
{
    const char *names[COUNT(fields) + COUNT(extension_names) + 1];
    const char *nearest;
    size_t count = 0;

    for (size_t i = 0; i < COUNT(fields); i++)
        names[count++] = fields[i].name;
    for (size_t i = 0; i < COUNT(extension_names); i++)
        names[count++] = extension_names[i];
    names[count++] = "learning_rate_multiplier";
    nearest = str_nearest(value->key, names, count);
    if (str_is(value->key, "lora_rank"))
        nearest = "lora_r";
    wrong(r, "extra_forbidden", value->key,
          nearest ? arena_printf(r->arena, "unknown hyperparameter, did you mean \"%s\"?", nearest)
                  : "unknown hyperparameter");
}

static void read_hyperparameter(struct reader *r, const struct json *value)
{
    if (value->type == JSON_NULL)
        return;
    if (str_is(value->key, "learning_rate_multiplier")) {
        read_multiplier(r, value);
        return;
    }
    if (is_extension(value->key)) {
        read_extension(r, value);
        return;
    }
    for (size_t i = 0; i < COUNT(fields); i++) {
        if (str_is(value->key, fields[i].name)) {
            read_field(r, &fields[i], value);
            return;
        }
    }
    unknown_hyperparameter(r, value);
}

static void read_hyperparameters(struct reader *r, const struct json *object, const char *outer, const char *inner)
{
    struct str twice = json_duplicate(object);

    if (json_is_null(object))
        return;
    r->outer = outer;
    r->inner = inner;
    if (object->type != JSON_OBJECT)
        problems_add(r->problems, "dict_type", outer, inner, NULL, "%s must be an object", inner ? inner : outer);
    else if (twice.at)
        wrong(r, "value_error", twice, "occurs twice");
    else
        for json_each (value, object)
            read_hyperparameter(r, value);
    r->outer = r->inner = NULL;
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
    for json_each (value, object)
        if (str_equal(value->key, name))
            return value;
    return NULL;
}

static bool is_subset(const struct json *a, const struct json *b)
{
    for json_each (value, a)
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
        read_hyperparameters(r, top, "hyperparameters", NULL);
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
        read_hyperparameters(r, top, "hyperparameters", NULL);
    else
        read_hyperparameters(r, inner, "method", "hyperparameters");
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
    for json_each (pair, value) {
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
    if (value->type == JSON_STRING || is_string_list(value))
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
    for json_each (value, extra) {
        if (is_extension(value->key) && value->type != JSON_NULL)
            read_extension(r, value);
        else if (!is_extension(value->key))
            warn(r, "unknown_field", "extra_body.%.*s is not known and was ignored", STR_ARG(value->key));
    }
    r->outer = NULL;
}

static void read_top_level(struct reader *r, const struct json *body)
{
    static const char *const known[] = {
        "model",  "training_file", "validation_file", "hyperparameters", "method",         "integrations", "seed",
        "suffix", "tags",          "metadata",        "extra_body",      "from_checkpoint"};

    for json_each (value, body) {
        bool is_known = false;
        for (size_t i = 0; i < COUNT(known); i++)
            is_known |= str_is(value->key, known[i]);
        if (is_known)
            continue;
        if (is_extension(value->key)) {
            if (value->type != JSON_NULL)
                read_extension(r, value);
        } else {
            const char *nearest = str_nearest(value->key, known, COUNT(known));
            warn(r, "unknown_field", "the field \"%.*s\" is not known and was ignored%s%s%s", STR_ARG(value->key),
                 nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
        }
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
    if (!body || body->type != JSON_OBJECT) {
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
    check_optim(&r);
    resolve_rate(&r);
    return problems->count == 0;
}
