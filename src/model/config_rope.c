#include "model/config_int.h"

#include <math.h>

enum { FACTOR_MAX = 100000, POSITIONS_MAX = 1 << 24 };

/* What one kind of positions is read from: its own object, and the file around it. */
struct source {
    struct keys own;
    const struct keys *file;
    const struct rope_dialect *dialect;
    const struct json *outer; /* the whole of rope_parameters: transformers reads yarn's `truncate` there */
};

static bool read_kind(const struct source *source, enum rope_kind *kind, struct err *err)
{
    static const struct {
        const char *name;
        enum rope_kind kind;
    } kinds[] = {{"default", ROPE_DEFAULT},  {"mrope", ROPE_DEFAULT}, {"linear", ROPE_LINEAR},
                 {"dynamic", ROPE_DYNAMIC},  {"llama3", ROPE_LLAMA3}, {"yarn", ROPE_YARN},
                 {"longrope", ROPE_LONGROPE}};
    struct str old = json_string_or(key_get(&source->own, "type"), STR("default"));
    struct str name = json_string_or(key_get(&source->own, "rope_type"), old);

    if (source->dialect->has_old_longrope && (str_is(name, "su") || str_is(name, "yarn")))
        name = STR("longrope");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (str_is(name, kinds[i].name)) {
            *kind = kinds[i].kind;
            return true;
        }
    return err_set(err, ERR_UNSUPPORTED,
                   "config.json: rope type \"%.*s\" is not supported; default, linear, dynamic, llama3, yarn and "
                   "longrope are",
                   (int)(name.len > 64 ? 64 : name.len), name.at);
}

/* The file's own key wins over the one beside the factors; neither: the longest position. */
static bool read_original(const struct source *source, const struct model_config *config, struct rope_config *rope,
                          struct err *err)
{
    static const char key[] = "original_max_position_embeddings";
    const struct keys *owner = json_is_null(key_get(source->file, key)) ? &source->own : source->file;

    return key_size(owner, key, config->positions_max, 1, POSITIONS_MAX, &rope->original_positions, err);
}

static bool read_llama3(const struct source *source, struct rope_config *rope, struct err *err)
{
    if (!key_positive(&source->own, "low_freq_factor", 0, FACTOR_MAX, &rope->low_freq_factor, err) ||
        !key_positive(&source->own, "high_freq_factor", 0, FACTOR_MAX, &rope->high_freq_factor, err))
        return false;
    if (rope->high_freq_factor <= rope->low_freq_factor)
        return err_set(err, ERR_INPUT, "config.json: high_freq_factor must be above low_freq_factor");
    return true;
}

static double yarn_scale(double factor, double strength)
{
    return factor <= 1 ? 1 : 0.1 * strength * log(factor) + 1;
}

static bool read_yarn(const struct source *source, struct rope_config *rope, struct err *err)
{
    double strength = json_number_or(key_get(&source->own, "mscale"), 0);
    double strength_all = json_number_or(key_get(&source->own, "mscale_all_dim"), 0), scaling;

    if (!key_positive(&source->own, "beta_fast", 32, FACTOR_MAX, &rope->beta_fast, err) ||
        !key_positive(&source->own, "beta_slow", 1, FACTOR_MAX, &rope->beta_slow, err))
        return false;
    if (rope->theta <= 1)
        return err_set(err, ERR_INPUT, "config.json: rope_theta must be above 1 for yarn");
    rope->is_truncated = json_bool_or(json_get(source->outer, "truncate"), true);
    scaling = strength != 0 && strength_all != 0
                  ? yarn_scale(rope->factor, strength) / yarn_scale(rope->factor, strength_all)
                  : yarn_scale(rope->factor, 1);
    if (!(scaling > 0))
        return err_set(err, ERR_INPUT, "config.json: mscale and mscale_all_dim must be above 0");
    if (!key_positive(&source->own, "attention_factor", scaling, FACTOR_MAX, &scaling, err))
        return false;
    rope->attention_scaling = (float)scaling;
    return true;
}

static const float *read_factors(struct arena *arena, const struct source *source, const char *key, int32_t count,
                                 struct err *err)
{
    const struct json *list = key_get(&source->own, key);
    float *factors = arena_new_array(arena, float, (size_t)count + 1);
    int32_t i = 0;

    if (!json_has_type(list, JSON_ARRAY) || list->count != (uint32_t)count) {
        err_set(err, ERR_INPUT, "config.json: %s must be a list of %d numbers, half the rotated size of a head", key,
                count);
        return NULL;
    }
    json_each(item, list) {
        factors[i] = (float)json_number_or(item, 0);
        if (!(factors[i] > 0 && factors[i] <= FACTOR_MAX)) {
            err_set(err, ERR_INPUT, "config.json: %s has something else than a number above 0 and at most %d", key,
                    FACTOR_MAX);
            return NULL;
        }
        i++;
    }
    return factors;
}

static bool read_longrope(struct arena *arena, const struct source *source, struct rope_config *rope, struct err *err)
{
    double scaling = 1;

    rope->short_factor = read_factors(arena, source, "short_factor", rope->dim / 2, err);
    if (!rope->short_factor)
        return false;
    rope->long_factor = read_factors(arena, source, "long_factor", rope->dim / 2, err);
    if (!rope->long_factor)
        return false;
    if (rope->original_positions < 2)
        return err_set(err, ERR_INPUT, "config.json: longrope needs original_max_position_embeddings above 1");
    if (rope->factor > 1)
        scaling = sqrt(1 + log(rope->factor) / log(rope->original_positions));
    if (!key_positive(&source->own, "attention_factor", scaling, FACTOR_MAX, &scaling, err))
        return false;
    rope->attention_scaling = (float)scaling;
    return true;
}

/* transformers: int(head_dim · partial_rotary_factor). */
static bool read_rotated(const struct source *source, const struct model_config *config, struct rope_config *rope,
                         struct err *err)
{
    const struct json *own = key_get(&source->own, "partial_rotary_factor");
    const struct json *partial = json_is_null(own) ? key_get(source->file, "partial_rotary_factor") : own;
    double share = json_number_or(partial, 1);

    if (share != 1 && !source->dialect->is_partial)
        return err_set(err, ERR_UNSUPPORTED,
                       "config.json: partial_rotary_factor other than 1 is not supported for model_type \"%s\"",
                       config->model_type);
    if (!(share > 0 && share <= 1))
        return err_set(err, ERR_INPUT, "config.json: partial_rotary_factor must be above 0 and at most 1");
    rope->dim = (int32_t)(config->head_dim * share);
    if (rope->dim < 2 || rope->dim % 2)
        return err_set(err, ERR_INPUT,
                       "config.json: partial_rotary_factor rotates %d of a head's %d dims; it must be an even number",
                       rope->dim, config->head_dim);
    return true;
}

static bool read_rope(struct arena *arena, const struct source *source, double theta, const struct model_config *config,
                      struct rope_config *rope, struct err *err)
{
    bool has_ratio;

    *rope = (struct rope_config){.attention_scaling = 1, .factor = 1};
    if (!read_kind(source, &rope->kind, err) || !read_rotated(source, config, rope, err) ||
        !key_positive(&source->own, "rope_theta", theta, 1e12, &rope->theta, err) ||
        !read_original(source, config, rope, err))
        return false;
    has_ratio = rope->kind == ROPE_YARN || rope->kind == ROPE_LONGROPE;
    if (rope->kind != ROPE_DEFAULT &&
        !key_positive(&source->own, "factor", has_ratio ? (double)config->positions_max / rope->original_positions : 0,
                      FACTOR_MAX, &rope->factor, err))
        return false;
    return rope->kind == ROPE_LLAMA3     ? read_llama3(source, rope, err)
           : rope->kind == ROPE_YARN     ? read_yarn(source, rope, err)
           : rope->kind == ROPE_LONGROPE ? read_longrope(arena, source, rope, err)
                                         : true;
}

static bool is_per_kind(const struct json *rope)
{
    return !json_is_null(json_get(rope, "full_attention")) || !json_is_null(json_get(rope, "sliding_attention"));
}

/* Dialect v5 keeps everything in rope_parameters; v4 has rope_theta beside an optional rope_scaling. */
static bool find_object(const struct keys *keys, const struct json **rope, bool *is_v5, struct err *err)
{
    const struct json *v4 = key_get(keys, "rope_scaling"), *v5 = key_get(keys, "rope_parameters");

    *is_v5 = json_is_null(v4) || (v4->type == JSON_OBJECT && !v4->count);
    *rope = !*is_v5 ? v4 : json_is_null(v5) ? json_get(keys->defaults, "rope_parameters") : v5;
    if (!json_is_null(*rope) && (*rope)->type != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "config.json: rope_parameters and rope_scaling must be objects, not %s",
                       json_type_name(*rope));
    return true;
}

/* Two kinds of positions, of full and of sliding layers. v4's rope_scaling is of the full layers alone. */
static bool read_two(struct arena *arena, const struct rope_dialect *dialect, const struct keys *keys,
                     const struct json *rope, bool is_v5, double theta, struct model_config *config, struct err *err)
{
    const struct json *full = is_per_kind(rope) ? json_get(rope, "full_attention") : is_v5 ? NULL : rope;
    struct source source = {{full, NULL}, keys, dialect, is_per_kind(rope) ? rope : NULL};
    double theta_sliding = dialect->sliding_key ? dialect->theta_sliding : theta;

    config->rope_count = 2;
    if (is_v5 && rope && rope->count && !is_per_kind(rope))
        return err_set(err, ERR_INPUT,
                       "config.json: rope_parameters of model_type \"%s\" must have full_attention and "
                       "sliding_attention",
                       config->model_type);
    if (dialect->sliding_key && !key_positive(keys, dialect->sliding_key, theta_sliding, 1e12, &theta_sliding, err))
        return false;
    if (!read_rope(arena, &source, theta, config, &config->rope[0], err))
        return false;
    source.own.given = is_per_kind(rope) ? json_get(rope, "sliding_attention") : NULL;
    return read_rope(arena, &source, theta_sliding, config, &config->rope[1], err);
}

bool read_ropes(struct arena *arena, const struct rope_dialect *dialect, const struct keys *keys,
                struct model_config *config, struct err *err)
{
    const struct json *rope;
    double theta;
    bool is_v5;

    if (!find_object(keys, &rope, &is_v5, err) ||
        !key_positive(keys, "rope_theta", dialect->theta_full, 1e12, &theta, err))
        return false;
    if (dialect->theta_sliding > 0)
        return read_two(arena, dialect, keys, rope, is_v5, theta, config, err);
    if (is_per_kind(rope))
        return err_set(err, ERR_UNSUPPORTED,
                       "config.json: rope_parameters per layer type are not supported for model_type \"%s\"",
                       config->model_type);
    config->rope_count = 1;
    return read_rope(arena, &(struct source){{rope, NULL}, keys, dialect, rope}, theta, config, &config->rope[0], err);
}
