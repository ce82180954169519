#include "api/job_request_int.h"

#include "job/devices.h"

#include <math.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

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
    if (takes_auto(field) && json_is(value, "auto")) {
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
    if (json_is(value, "auto"))
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
        if (json_is(value, choices[i])) {
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

bool job_request_is_name_list(const struct json *value)
{
    if (value->type != JSON_ARRAY || value->count == 0 || value->count > 64)
        return false;
    json_each(item, value)
        if (item->type != JSON_STRING || item->string.len == 0 || item->string.len > 128)
            return false;
    return true;
}

static bool is_layer_list(const struct json *value)
{
    if (value->type != JSON_ARRAY || value->count == 0 || value->count > 1024)
        return false;
    json_each(item, value)
        if (item->type != JSON_NUMBER || !item->is_integer || item->integer < 0)
            return false;
    return true;
}

static bool is_pattern_object(const struct json *value)
{
    if (value->type != JSON_OBJECT || value->count > 1024)
        return false;
    json_each(item, value)
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
        wanted =
            job_request_is_name_list(value) ? NULL : "must be a list of module names, such as [\"q_proj\", \"v_proj\"]";
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
    "quantization", "fp8", "tensorboard", "device", "optim",
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
    else if (str_is(value->key, "fp8"))
        read_switch(r, value, &request->is_fp8);
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

bool job_request_read_extension(struct reader *r, const struct json *value)
{
    if (!is_extension(value->key))
        return false;
    if (value->type != JSON_NULL)
        read_extension(r, value);
    return true;
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
    if (job_request_read_extension(r, value))
        return;
    for (size_t i = 0; i < COUNT(fields); i++) {
        if (str_is(value->key, fields[i].name)) {
            read_field(r, &fields[i], value);
            return;
        }
    }
    unknown_hyperparameter(r, value);
}

void job_request_read_hyperparameters(struct reader *r, const struct json *object, const char *outer, const char *inner)
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
        json_each(value, object)
            read_hyperparameter(r, value);
    r->outer = r->inner = NULL;
}
