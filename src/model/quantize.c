#include "model/quantize.h"

#include "compute/nf4.h"
#include "model/checkpoint_int.h"
#include "model/codes.h"

#include <stdlib.h>
#include <string.h>

/* One tensor of the base's files. */
struct source {
    const struct safetensor *tensor;
    const struct param *param; /* NULL: it is copied */
    struct nf4 codes;          /* while its shard is written */
    float *absmax, *nested_absmax;
    const char *state; /* JSON */
};

struct quantize {
    struct arena arena;
    struct pool *pool;
    struct model_config config;
    struct safetensors_set set;
    struct params params;
    struct source *source; /* [set.count] */
    const char **names;    /* of all tensors written, and in which file each is */
    const char **files;
    uint64_t total_bytes;
    int name_count;
    float map[NF4_MAP];
    enum dtype compute_type;
    const char *out; /* under its temporary name */
};

/* What is written for a tensor; its place is the context of an entry. */
struct piece {
    struct source *source;
    const void *at;
    uint64_t bytes;
};

static const char *torch_name(enum dtype type)
{
    return type == DTYPE_BF16 ? "bfloat16" : type == DTYPE_F16 ? "float16" : "float32";
}

/* As bitsandbytes packs it: Python's json.dumps. */
static const char *state_text(struct quantize *q, const struct source *source)
{
    char offset[32];

    offset[json_format_number((double)source->codes.offset, offset)] = 0;
    return arena_printf(&q->arena,
                        "{\"quant_type\": \"nf4\", \"blocksize\": %d, \"dtype\": \"%s\", \"shape\": [%d, %d], "
                        "\"nested_blocksize\": %d, \"nested_dtype\": \"float32\", \"nested_offset\": %s}",
                        NF4_BLOCK, torch_name(source->tensor->type), source->param->rows, source->param->cols,
                        NF4_NESTED_BLOCK, offset);
}

/* --- the codes of one shard --- */

struct shard {
    struct quantize *q;
    struct source **source; /* to be quantized */
};

static void quantize_task(void *context, int task, int thread)
{
    struct shard *shard = context;
    struct source *source = shard->source[task];
    int64_t count = source->codes.count, blocks = nf4_blocks(count, NF4_BLOCK);

    codes_quantize(source->tensor->data, source->tensor->type, count, (uint8_t *)(uintptr_t)source->codes.codes,
                   source->absmax);
    nf4_nest(source->absmax, blocks, shard->q->map, (uint8_t *)(uintptr_t)source->codes.nested, source->nested_absmax,
             &source->codes.offset);
}

static void source_open(struct source *source)
{
    int64_t count = (int64_t)source->param->rows * source->param->cols, blocks = nf4_blocks(count, NF4_BLOCK);

    source->codes = (struct nf4){.codes = mem_alloc((size_t)nf4_code_bytes(count)),
                                 .nested = mem_alloc((size_t)blocks),
                                 .count = count};
    source->absmax = mem_alloc((size_t)blocks * sizeof(float));
    source->nested_absmax = mem_alloc((size_t)nf4_blocks(blocks, NF4_NESTED_BLOCK) * sizeof(float));
}

static void source_close(struct source *source)
{
    free((void *)(uintptr_t)source->codes.codes);
    free((void *)(uintptr_t)source->codes.nested);
    free(source->absmax);
    free(source->nested_absmax);
}

static void shard_open(struct shard *shard, struct quantize *q, int file)
{
    int count = 0;

    *shard = (struct shard){q, arena_new_array(&q->arena, struct source *, (size_t)q->set.count + 1)};
    for (int i = 0; i < q->set.count; i++)
        if (q->source[i].tensor->file == file && q->source[i].param)
            shard->source[count++] = &q->source[i];
    for (int i = 0; i < count; i++)
        source_open(shard->source[i]);
    pool_run(q->pool, count, quantize_task, shard);
    for (int i = 0; i < count; i++)
        shard->source[i]->state = state_text(q, shard->source[i]);
}

static void shard_close(struct shard *shard)
{
    for (int i = 0; shard->source[i]; i++)
        source_close(shard->source[i]);
}

/* --- writing it --- */

static void add_entry(struct quantize *q, struct safetensors_entry *entry, struct source *source, const char *suffix,
                      enum dtype type, const void *at, uint64_t count)
{
    struct piece *piece = arena_new(&q->arena, struct piece);

    *entry = (struct safetensors_entry){.type = type, .rank = 1, .shape = {count}, .context = piece};
    entry->name = arena_printf(&q->arena, "%.*s%s", STR_ARG(source->tensor->name), suffix);
    *piece = (struct piece){source, at, count * dtype_bytes(type)};
}

static int add_copied(struct quantize *q, struct source *source, struct safetensors_entry *entry)
{
    add_entry(q, entry, source, "", source->tensor->type, source->tensor->data, 0);
    entry->rank = source->tensor->rank;
    memcpy(entry->shape, source->tensor->shape, sizeof entry->shape);
    ((struct piece *)entry->context)->bytes = source->tensor->bytes;
    return 1;
}

static int add_quantized(struct quantize *q, struct source *source, struct safetensors_entry *entry)
{
    const struct nf4 *codes = &source->codes;
    uint64_t blocks = (uint64_t)nf4_blocks(codes->count, NF4_BLOCK);
    int count = 0;

    add_entry(q, &entry[count], source, "", DTYPE_U8, codes->codes, (uint64_t)nf4_code_bytes(codes->count));
    entry[count].rank = 2, entry[count].shape[1] = 1;
    count++;
    add_entry(q, &entry[count++], source, codes_beside_name(BESIDE_ABSMAX), DTYPE_U8, codes->nested, blocks);
    add_entry(q, &entry[count++], source, codes_beside_name(BESIDE_MAP), DTYPE_F32, nf4_code, NF4_CODES);
    add_entry(q, &entry[count++], source, codes_beside_name(BESIDE_NESTED_ABSMAX), DTYPE_F32, source->nested_absmax,
              (uint64_t)nf4_blocks((int64_t)blocks, NF4_NESTED_BLOCK));
    add_entry(q, &entry[count++], source, codes_beside_name(BESIDE_NESTED_MAP), DTYPE_F32, q->map, NF4_MAP);
    add_entry(q, &entry[count++], source, codes_beside_name(BESIDE_STATE), DTYPE_U8, source->state,
              strlen(source->state));
    return count;
}

static bool write_entries(struct quantize *q, const char *name, struct safetensors_entry *entries, int count,
                          struct err *err)
{
    struct safetensors_writer writer = {0};

    if (!safetensors_write_begin(&writer, path_join(&q->arena, q->out, name), entries, count, err))
        return false;
    for (int i = 0; i < count; i++) {
        const struct piece *piece = entries[i].context;
        if (!safetensors_write(&writer, piece->at, piece->bytes, err)) {
            safetensors_write_abort(&writer);
            return false;
        }
        q->names[q->name_count] = entries[i].name;
        q->files[q->name_count++] = name;
        q->total_bytes += piece->bytes;
    }
    return safetensors_write_end(&writer, NULL, NULL, err);
}

static bool write_shard(struct quantize *q, int file, struct err *err)
{
    size_t most = (size_t)q->set.count * (1 + BESIDE_COUNT);
    struct safetensors_entry *entries = arena_new_array(&q->arena, struct safetensors_entry, most);
    struct shard shard;
    int count = 0;
    bool ok;

    shard_open(&shard, q, file);
    for (int i = 0; i < q->set.count; i++)
        if (q->source[i].tensor->file == file)
            count += q->source[i].param ? add_quantized(q, &q->source[i], &entries[count])
                                        : add_copied(q, &q->source[i], &entries[count]);
    ok = write_entries(q, q->set.file_name[file], entries, count, err);
    shard_close(&shard);
    return ok;
}

/* --- what stands beside the weights --- */

static bool write_text(struct quantize *q, const char *name, struct strbuf *text, struct err *err)
{
    bool ok;

    strbuf_add_char(text, '\n');
    ok = file_replace(path_join(&q->arena, q->out, name), strbuf_view(text), err);
    strbuf_deinit(text);
    return ok;
}

static bool write_index(struct quantize *q, struct err *err)
{
    struct strbuf text = {0};
    struct json_writer json = {.buf = &text, .indent = 2};

    if (!file_exists(path_join(&q->arena, q->out, "model.safetensors.index.json")))
        return true;
    json_write_begin_object(&json);
    json_write_key(&json, "metadata");
    json_write_begin_object(&json);
    json_put_integer(&json, "total_size", (int64_t)q->total_bytes);
    json_write_end_object(&json);
    json_write_key(&json, "weight_map");
    json_write_begin_object(&json);
    for (int i = 0; i < q->name_count; i++)
        json_put_text(&json, q->names[i], q->files[i]);
    json_write_end_object(&json);
    json_write_end_object(&json);
    return write_text(q, "model.safetensors.index.json", &text, err);
}

/* The keys that transformers' BitsAndBytesConfig writes. */
static void put_quantization(const struct quantize *q, struct json_writer *json)
{
    json_write_key(json, "quantization_config");
    json_write_begin_object(json);
    json_put_bool(json, "_load_in_4bit", true);
    json_put_bool(json, "_load_in_8bit", false);
    json_put_text(json, "bnb_4bit_compute_dtype", torch_name(q->compute_type));
    json_put_text(json, "bnb_4bit_quant_storage", "uint8");
    json_put_text(json, "bnb_4bit_quant_type", "nf4");
    json_put_bool(json, "bnb_4bit_use_double_quant", true);
    json_put_bool(json, "llm_int8_enable_fp32_cpu_offload", false);
    json_put_bool(json, "llm_int8_has_fp16_weight", false);
    json_put_null(json, "llm_int8_skip_modules");
    json_write_key(json, "llm_int8_threshold"), json_write_raw(json, STR("6.0")); /* transformers takes no integer */
    json_put_bool(json, "load_in_4bit", true);
    json_put_bool(json, "load_in_8bit", false);
    json_put_text(json, "quant_method", "bitsandbytes");
    json_write_end_object(json);
}

static bool write_config(struct quantize *q, struct err *err)
{
    const struct json *root = json_parse(&q->arena, q->config.text, NULL, err);
    struct strbuf text = {0};
    struct json_writer json = {.buf = &text, .indent = 2};

    if (!root)
        return false;
    json_write_begin_object(&json);
    json_each(item, root) {
        json_write_key_str(&json, item->key);
        json_write_value(&json, item);
    }
    put_quantization(q, &json);
    json_write_end_object(&json);
    return write_text(q, "config.json", &text, err);
}

/* --- the whole --- */

static bool open_inputs(struct quantize *q, const char *folder, struct err *err)
{
    if (!config_read(&q->arena, folder, &q->config, err))
        return false;
    if (!json_is_null(json_get(json_parse(&q->arena, q->config.text, NULL, err), "quantization_config")))
        return err_set(err, ERR_CONFLICT, "the weights in %s are quantized already", folder);
    if (!safetensors_set_open(&q->set, &q->arena, folder, err) ||
        !params_make(&q->arena, &q->config, PROFILE_F32, NULL, false, false, false, &q->set, &q->params, err))
        return false;
    q->source = arena_new_array(&q->arena, struct source, (size_t)q->set.count + 1);
    for (int i = 0; i < q->set.count; i++)
        q->source[i].tensor = &q->set.tensor[i];
    for (int i = 0; i < q->params.count; i++) {
        const struct param *param = &q->params.param[i];
        if (codes_can_hold(&q->params.stored[param->stored]))
            q->source[param->file - q->set.tensor].param = param;
    }
    q->names = arena_new_array(&q->arena, const char *, (size_t)q->set.count * (1 + BESIDE_COUNT));
    q->files = arena_new_array(&q->arena, const char *, (size_t)q->set.count * (1 + BESIDE_COUNT));
    nf4_make_map(q->map);
    return true;
}

static bool fill(struct quantize *q, const char *folder, struct err *err)
{
    if (!dir_remove(q->out, err) || !dir_make(q->out, err))
        return false;
    for (int i = 0; i < q->set.file_count; i++)
        if (!write_shard(q, i, err))
            return false;
    return folder_copy_others(&q->arena, folder, q->out, err) && write_index(q, err) && write_config(q, err) &&
           dir_sync(q->out, err);
}

bool quantize_write(const char *folder, const char *out, enum dtype compute_type, struct pool *pool, struct err *err)
{
    struct quantize q = {.pool = pool, .compute_type = compute_type};
    bool ok = false;

    if (file_exists(out) || dir_exists(out)) {
        err_set(err, ERR_CONFLICT, "%s is there already: choose another folder", out);
        goto out;
    }
    q.out = arena_printf(&q.arena, "%s.tmp", out);
    if (!open_inputs(&q, folder, err))
        goto out;
    ok = fill(&q, folder, err) && file_rename(q.out, out, err);
    if (!ok)
        dir_remove(q.out, NULL);
out:
    safetensors_set_close(&q.set);
    arena_deinit(&q.arena);
    return ok;
}
