#include "model/config_int.h"

#include "os/file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CONFIG_BYTES_MAX = 1 << 20 };

/* Sizes: key, member, smallest, largest. Those with a fallback are read apart. */
#define CONFIG_SIZES(X)                                                                                                \
    X(hidden_size, hidden, 1, 1 << 20)                                                                                 \
    X(intermediate_size, mlp_width, 1, 1 << 20)                                                                        \
    X(num_hidden_layers, layers, 1, 512)                                                                               \
    X(num_attention_heads, heads, 1, 1024)                                                                             \
    X(vocab_size, vocab, 1, 1 << 22)                                                                                   \
    X(max_position_embeddings, positions_max, 1, 1 << 24)

const struct json *key_get(const struct keys *keys, const char *key)
{
    const struct json *given = json_get(keys->given, key);

    return given ? given : json_get(keys->defaults, key);
}

bool key_is_true(const struct keys *keys, const char *key)
{
    return json_bool_or(key_get(keys, key), false);
}

bool key_size(const struct keys *keys, const char *key, int32_t fallback, int32_t min, int32_t max, int32_t *value,
              struct err *err)
{
    const struct json *item = key_get(keys, key);

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

bool key_positive(const struct keys *keys, const char *key, double fallback, double max, double *value, struct err *err)
{
    const struct json *item = key_get(keys, key);

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

static bool read_sizes(const struct keys *keys, struct model_config *config, struct err *err)
{
    double eps, range;
#define READ_SIZE(key, member, min, max)                                                                               \
    if (!key_size(keys, #key, -1, min, max, &config->member, err))                                                     \
        return false;
    CONFIG_SIZES(READ_SIZE)
#undef READ_SIZE
    if (!key_size(keys, "num_key_value_heads", config->heads, 1, 1024, &config->kv_heads, err) ||
        !key_size(keys, "head_dim", config->hidden / config->heads, 2, 512, &config->head_dim, err) ||
        !key_positive(keys, "rms_norm_eps", 1e-6, 1, &eps, err) ||
        !key_positive(keys, "initializer_range", 0.02, 100, &range, err))
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

static bool read_dtype(const struct keys *outer, const struct keys *text, struct model_config *config, struct err *err)
{
    static const struct {
        const char *name;
        enum dtype type;
    } types[] = {{"float32", DTYPE_F32}, {"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}};
    const struct json *places[] = {key_get(outer, "dtype"), key_get(outer, "torch_dtype"), key_get(text, "dtype"),
                                   key_get(text, "torch_dtype")};
    const struct json *item = NULL;
    struct str name;

    for (int i = 0; i < 4 && json_is_null(item); i++)
        item = places[i];
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

/* An id that may be missing: -1. */
static bool read_token_id(const struct keys *outer, const struct keys *text, const char *key, int32_t *id,
                          struct err *err)
{
    const struct keys *owner = json_is_null(key_get(text, key)) ? outer : text;

    *id = -1;
    return json_is_null(key_get(owner, key)) || key_size(owner, key, -1, -1, INT32_MAX, id, err);
}

/* The text model's part, or the file around it. */
static bool read_token_ids(const struct keys *outer, const struct keys *text, struct model_config *config,
                           struct err *err)
{
    const struct json *eos = key_get(outer, "eos_token_id");

    if (!read_token_id(outer, text, "bos_token_id", &config->bos_id, err) ||
        !read_token_id(outer, text, "pad_token_id", &config->pad_id, err))
        return false;
    if (json_is_null(eos))
        eos = key_get(text, "eos_token_id");
    if (json_is_null(eos))
        return true;
    if (eos->type != JSON_ARRAY)
        return add_eos(eos, config, err);
    json_each(item, eos)
        if (!add_eos(item, config, err))
            return false;
    return true;
}

static const struct architecture *find_architecture(const struct json *root, struct model_config *config,
                                                    struct err *err)
{
    struct str type = json_string_or(json_get(root, "model_type"), STR_NONE);
    const struct architecture *architecture = architecture_find(type);

    if (!type.len)
        err_set(err, ERR_INPUT, "config.json has no model_type");
    else if (!architecture)
        err_set(err, ERR_UNSUPPORTED, "the architecture \"%.*s\" is not supported; supported: %s",
                (int)(type.len > 64 ? 64 : type.len), type.at, config_supported());
    else
        snprintf(config->model_type, sizeof config->model_type, "%.*s", (int)type.len, type.at);
    return architecture;
}

/* gpt-oss' experts as codes of four bits, which loading widens. */
static bool is_mxfp4(const struct json *quantization, const struct model_config *config)
{
    return config->moe.names == MOE_NAMES_OSS &&
           json_is(json_get(quantization, "quant_method"), "mxfp4");
}

/* Of the ways to quantize, bitsandbytes' NF4 is read. */
static bool read_quantization(const struct json *quantization, struct model_config *config, struct err *err)
{
    struct str type = json_string_or(json_get(quantization, "bnb_4bit_quant_type"), STR("fp4"));
    struct str storage = json_string_or(json_get(quantization, "bnb_4bit_quant_storage"), STR("uint8"));

    if (json_is_null(quantization) || is_mxfp4(quantization, config))
        return true;
    if (quantization->type != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "config.json: quantization_config must be an object");
    if (!json_bool_or(json_get(quantization, "load_in_4bit"), false) || !str_is(type, "nf4") ||
        !str_is(storage, "uint8"))
        return err_set(err, ERR_UNSUPPORTED,
                       "config.json: of quantization_config only bitsandbytes' NF4 in uint8 is supported (give the "
                       "model in float32, bfloat16 or float16)");
    config->quantization.is_nf4 = config->quantization.is_in_file = true;
    config->quantization.is_nested = json_bool_or(json_get(quantization, "bnb_4bit_use_double_quant"), false);
    return true;
}

static bool parse_root(struct arena *arena, struct json *root, struct model_config *config, struct err *err)
{
    const struct architecture *architecture = find_architecture(root, config, err);
    struct keys outer = {root, NULL}, text = outer;
    const char *text_key;

    if (!architecture)
        return false;
    text.defaults = json_parse(arena, str_of(architecture_defaults(architecture)), NULL, NULL);
    ASSERT(text.defaults);
    text_key = architecture_text_key(architecture);
    if (text_key)
        text.given = json_get(root, text_key);
    if (!text.given || text.given->type != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "config.json: %s must be an object", text_key);
    if (json_is_null(json_get(root, "tie_word_embeddings")))
        config->is_tied = key_is_true(&text, "tie_word_embeddings");
    else
        config->is_tied = key_is_true(&outer, "tie_word_embeddings");
    return read_sizes(&text, config, err) && read_block(arena, architecture, &text, config, err) &&
           read_quantization(json_get(root, "quantization_config"), config, err) &&
           read_dtype(&outer, &text, config, err) && read_token_ids(&outer, &text, config, err);
}

bool config_parse(struct arena *arena, struct str text, struct model_config *config, struct err *err)
{
    struct json *root;

    *config = (struct model_config){.text = text};
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
    return parse_root(arena, root, config, err);
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

    root = json_parse(arena, config->text, NULL, NULL);
    ASSERT(json_has_type(root, JSON_OBJECT));
    if (config->dtype == weights_type && json_is_null(json_get(root, "quantization_config")))
        return config->text;
    key = json_get(root, "dtype") || json_get(root, "rope_parameters") ? "dtype" : "torch_dtype";
    json_write_begin_object(&writer);
    json_each(item, root)
        if (!str_is(item->key, "dtype") && !str_is(item->key, "torch_dtype") &&
            !str_is(item->key, "quantization_config")) {
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
