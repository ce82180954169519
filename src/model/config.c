#include "model/config.h"

#include "base/json.h"
#include "os/file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CONFIG_BYTES_MAX = 1 << 20, FACTOR_MAX = 100000 };

/* What distinguishes the block of one model type from another's. */
struct architecture {
    const char *model_type;
    enum norm_kind norm;
};

static const struct architecture architectures[] = {
    {"llama", NORM_LLAMA},
};

/* Sizes: key, member, smallest, largest. Those with a fallback are read apart. */
#define CONFIG_SIZES(X)                                                                                                \
    X(hidden_size, hidden, 1, 1 << 20)                                                                                 \
    X(intermediate_size, mlp_width, 1, 1 << 20)                                                                        \
    X(num_hidden_layers, layers, 1, 512)                                                                               \
    X(num_attention_heads, heads, 1, 1024)                                                                             \
    X(vocab_size, vocab, 1, 1 << 22)                                                                                   \
    X(max_position_embeddings, positions_max, 1, 1 << 24)

const char *config_supported(void)
{
    return "llama";
}

static bool read_size(const struct json *root, const char *key, int32_t fallback, int32_t min, int32_t max,
                      int32_t *value, struct err *err)
{
    const struct json *item = json_get(root, key);

    if (json_is_null(item) && fallback >= 0) {
        *value = fallback;
        return true;
    }
    if (json_is_null(item))
        return err_set(err, ERR_INPUT, "config.json has no %s", key);
    if (item->type != JSON_NUMBER || !item->is_integer)
        return err_set(err, ERR_INPUT, "config.json: %s must be an integer, not %s", key,
                       item->type == JSON_NUMBER ? "a fraction" : json_type_name(item));
    if (item->integer < min || item->integer > max)
        return err_set(err, ERR_LIMIT, "config.json: %s is %lld; it must be from %d to %d", key,
                       (long long)item->integer, min, max);
    *value = (int32_t)item->integer;
    return true;
}

/* A number in (0, max]. */
static bool read_positive(const struct json *object, const char *key, double fallback, double max, double *value,
                          struct err *err)
{
    const struct json *item = json_get(object, key);

    *value = fallback;
    if (json_is_null(item) && fallback > 0)
        return true;
    if (json_is_null(item))
        return err_set(err, ERR_INPUT, "config.json has no %s", key);
    if (item->type != JSON_NUMBER)
        return err_set(err, ERR_INPUT, "config.json: %s must be a number, not %s", key, json_type_name(item));
    *value = json_number(item);
    if (!(*value > 0 && *value <= max))
        return err_set(err, ERR_LIMIT, "config.json: %s must be above 0 and at most %g", key, max);
    return true;
}

static bool read_sizes(const struct json *root, struct model_config *config, struct err *err)
{
    double eps, range;
#define READ_SIZE(key, member, min, max)                                                                               \
    if (!read_size(root, #key, -1, min, max, &config->member, err))                                                    \
        return false;
    CONFIG_SIZES(READ_SIZE)
#undef READ_SIZE
    if (!read_size(root, "num_key_value_heads", config->heads, 1, 1024, &config->kv_heads, err) ||
        !read_size(root, "head_dim", config->hidden / config->heads, 2, 512, &config->head_dim, err) ||
        !read_positive(root, "rms_norm_eps", 1e-6, 1, &eps, err) ||
        !read_positive(root, "initializer_range", 0.02, 100, &range, err))
        return false;
    config->norm_eps = (float)eps;
    config->initializer_range = (float)range;
    if (config->heads % config->kv_heads)
        return err_set(err, ERR_INPUT,
                       "config.json: num_attention_heads %d is not a multiple of num_key_value_heads %d", config->heads,
                       config->kv_heads);
    if (config->head_dim < 2 || config->head_dim % 2)
        return err_set(err, ERR_INPUT, "config.json: head_dim is %d; rotary positions need an even number",
                       config->head_dim);
    return true;
}

static bool read_rope_llama3(const struct json *root, const struct json *rope, struct model_config *config,
                             struct err *err)
{
    struct rope_config *out = &config->rope[0];
    const struct json *outer = json_get(root, "original_max_position_embeddings");

    if (!read_positive(rope, "low_freq_factor", 0, FACTOR_MAX, &out->low_freq_factor, err) ||
        !read_positive(rope, "high_freq_factor", 0, FACTOR_MAX, &out->high_freq_factor, err) ||
        !read_size(json_is_null(outer) ? rope : root, "original_max_position_embeddings", config->positions_max, 1,
                   1 << 24, &out->original_positions, err))
        return false;
    if (out->high_freq_factor <= out->low_freq_factor)
        return err_set(err, ERR_INPUT, "config.json: high_freq_factor must be above low_freq_factor");
    return true;
}

/* Dialect v5 keeps everything in rope_parameters; v4 has rope_theta beside an optional rope_scaling. */
static bool read_rope(const struct json *root, struct model_config *config, struct err *err)
{
    const struct json *v5 = json_get(root, "rope_parameters");
    const struct json *rope = json_is_null(v5) ? json_get(root, "rope_scaling") : v5;
    const struct json *theta_owner = !json_is_null(v5) && json_get(v5, "rope_theta") ? v5 : root;
    struct rope_config *out = &config->rope[0];
    struct str kind;

    if (!json_is_null(rope) && rope->type != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "config.json: rope_parameters and rope_scaling must be objects, not %s",
                       json_type_name(rope));
    *out = (struct rope_config){.dim = config->head_dim, .attention_scaling = 1};
    config->rope_count = 1;
    if (!read_positive(theta_owner, "rope_theta", 10000, 1e12, &out->theta, err))
        return false;
    if (json_number_or(json_get(rope, "partial_rotary_factor"), 1) != 1 ||
        json_number_or(json_get(root, "partial_rotary_factor"), 1) != 1)
        return err_set(err, ERR_UNSUPPORTED, "config.json: partial_rotary_factor other than 1 is not supported");
    kind = json_string_or(json_get(rope, "rope_type"), json_string_or(json_get(rope, "type"), STR("default")));
    /* dynamic equals default up to max_position_embeddings, and longer documents are refused. */
    if (str_is(kind, "default") || str_is(kind, "dynamic")) {
        out->kind = ROPE_DEFAULT;
        return true;
    }
    if (!str_is(kind, "linear") && !str_is(kind, "llama3"))
        return err_set(err, ERR_UNSUPPORTED,
                       "config.json: rope type \"%.*s\" is not supported; default, linear and llama3 are",
                       (int)(kind.len > 64 ? 64 : kind.len), kind.at);
    out->kind = str_is(kind, "linear") ? ROPE_LINEAR : ROPE_LLAMA3;
    return read_positive(rope, "factor", 0, FACTOR_MAX, &out->factor, err) &&
           (out->kind == ROPE_LINEAR || read_rope_llama3(root, rope, config, err));
}

static bool read_dtype(const struct json *root, struct model_config *config, struct err *err)
{
    static const struct {
        const char *name;
        enum dtype type;
    } types[] = {{"float32", DTYPE_F32}, {"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}};
    const struct json *item = json_get(root, "dtype");
    struct str name;

    if (json_is_null(item))
        item = json_get(root, "torch_dtype");
    config->dtype = DTYPE_F32;
    if (json_is_null(item))
        return true;
    config->has_dtype = true;
    name = json_string_or(item, STR_NONE);
    if (str_starts(name, STR("torch.")))
        name = str_slice(name, 6, name.len);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (str_is(name, types[i].name)) {
            config->dtype = types[i].type;
            return true;
        }
    return err_set(err, ERR_UNSUPPORTED,
                   "config.json: dtype \"%.*s\" is not supported; float32, bfloat16 and float16 are",
                   (int)(name.len > 64 ? 64 : name.len), name.at);
}

static bool add_eos(const struct json *item, struct model_config *config, struct err *err)
{
    if (item->type != JSON_NUMBER || !item->is_integer || item->integer < 0 || item->integer > INT32_MAX)
        return err_set(err, ERR_INPUT, "config.json: eos_token_id must be a token id or a list of them");
    if (config->eos_count == EOS_IDS_MAX)
        return err_set(err, ERR_LIMIT, "config.json: eos_token_id has more than %d ids", EOS_IDS_MAX);
    config->eos_ids[config->eos_count++] = (int32_t)item->integer;
    return true;
}

static bool read_token_ids(const struct json *root, struct model_config *config, struct err *err)
{
    const struct json *eos = json_get(root, "eos_token_id"), *bos = json_get(root, "bos_token_id");
    const struct json *pad = json_get(root, "pad_token_id");

    config->bos_id = config->pad_id = -1;
    if (!json_is_null(bos) && !read_size(root, "bos_token_id", -1, -1, INT32_MAX, &config->bos_id, err))
        return false;
    if (!json_is_null(pad) && !read_size(root, "pad_token_id", -1, -1, INT32_MAX, &config->pad_id, err))
        return false;
    if (json_is_null(eos))
        return true;
    if (eos->type != JSON_ARRAY)
        return add_eos(eos, config, err);
    for
        json_each(item, eos) if (!add_eos(item, config, err)) return false;
    return true;
}

static bool read_architecture(const struct json *root, struct model_config *config, struct err *err)
{
    struct str type = json_string_or(json_get(root, "model_type"), STR_NONE);

    if (!type.len)
        return err_set(err, ERR_INPUT, "config.json has no model_type");
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (str_is(type, architectures[i].model_type)) {
            snprintf(config->model_type, sizeof config->model_type, "%s", architectures[i].model_type);
            config->norm = architectures[i].norm;
            return true;
        }
    return err_set(err, ERR_UNSUPPORTED, "the architecture \"%.*s\" is not supported; supported: %s",
                   (int)(type.len > 64 ? 64 : type.len), type.at, config_supported());
}

/* Valid features that the block does not have: silence about them would train another model. */
static bool check_features(const struct json *root, struct err *err)
{
    static const char *const refused[] = {"auto_map", "quantization_config"};
    static const char *const biases[] = {"attention_bias", "mlp_bias"};
    struct str act = json_string_or(json_get(root, "hidden_act"), STR("silu"));

    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (!json_is_null(json_get(root, refused[i])))
            return err_set(err, ERR_UNSUPPORTED, "config.json: %s is not supported (%s)", refused[i],
                           i == 0 ? "code in a model folder is never run"
                                  : "give the model in float32, bfloat16 or float16");
    for (size_t i = 0; i < sizeof biases / sizeof *biases; i++)
        if (json_bool_or(json_get(root, biases[i]), false))
            return err_set(err, ERR_UNSUPPORTED, "config.json: %s true is not supported", biases[i]);
    if (json_number_or(json_get(root, "attention_dropout"), 0) != 0)
        return err_set(err, ERR_UNSUPPORTED, "config.json: attention_dropout above 0 is not supported");
    if (!str_is(act, "silu") && !str_is(act, "swish"))
        return err_set(err, ERR_UNSUPPORTED, "config.json: hidden_act \"%.*s\" is not supported; silu is",
                       (int)(act.len > 64 ? 64 : act.len), act.at);
    return true;
}

bool config_parse(struct arena *arena, struct str text, struct model_config *config, struct err *err)
{
    struct json *root;

    *config = (struct model_config){.act = ACT_SILU, .tensor_prefix = "model.", .embed_scale = 1, .text = text};
    if (text.len > CONFIG_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "config.json is longer than %d bytes", CONFIG_BYTES_MAX);
    root = json_parse(arena, text, NULL, err);
    if (!root)
        return err_prefix(err, "config.json");
    if (root->type != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "config.json must be an object, not %s", json_type_name(root));
    if (json_duplicate(root).len)
        return err_set(err, ERR_INPUT, "config.json has the key \"%.*s\" twice",
                       (int)(json_duplicate(root).len > 64 ? 64 : json_duplicate(root).len), json_duplicate(root).at);
    config->is_tied = json_bool_or(json_get(root, "tie_word_embeddings"), false);
    if (!read_architecture(root, config, err) || !check_features(root, err) || !read_sizes(root, config, err) ||
        !read_rope(root, config, err) || !read_dtype(root, config, err) || !read_token_ids(root, config, err))
        return false;
    config->attention_scale = 1.0f / sqrtf((float)config->head_dim);
    config->layer = arena_new_array(arena, struct layer_config, (size_t)config->layers);
    return true;
}

bool config_read(struct arena *arena, const char *folder, struct model_config *config, struct err *err)
{
    struct str text;

    if (!file_read(arena, path_join(arena, folder, "config.json"), CONFIG_BYTES_MAX, &text, err))
        return false;
    return config_parse(arena, text, config, err);
}

static const char *torch_name(enum dtype type)
{
    return type == DTYPE_BF16 ? "bfloat16" : type == DTYPE_F16 ? "float16" : "float32";
}

struct str config_write(struct arena *arena, const struct model_config *config, enum dtype weights_type)
{
    struct strbuf buf = {0};
    struct json_writer writer = {.buf = &buf, .indent = 2};
    struct json *root;
    const char *key;
    struct str text;

    if (config->dtype == weights_type)
        return config->text;
    root = json_parse(arena, config->text, NULL, NULL);
    ASSERT(root && root->type == JSON_OBJECT);
    key = json_get(root, "dtype") || json_get(root, "rope_parameters") ? "dtype" : "torch_dtype";
    json_write_begin_object(&writer);
    for
        json_each(item, root) if (!str_is(item->key, "dtype") && !str_is(item->key, "torch_dtype"))
        {
            json_write_key_str(&writer, item->key);
            json_write_value(&writer, item);
        }
    json_put_text(&writer, key, torch_name(weights_type));
    json_write_end_object(&writer);
    strbuf_add_char(&buf, '\n');
    text = (struct str){arena_copy(arena, buf.at, buf.len), buf.len};
    strbuf_deinit(&buf);
    return text;
}
