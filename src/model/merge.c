#include "model/merge.h"

#include "model/checkpoint_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_ELEMENTS = 1 << 22, TASK_ROWS = 16 };

struct merge {
    struct arena arena;
    struct pool *pool;
    struct model_config config;
    struct lora_config lora;
    struct lora_rules *rules;
    struct safetensors_set base, adapter;
    bool *is_used;   /* [adapter.count] */
    const char *out; /* under its temporary name */
    /* A tied head and the embedding are one tensor of the base. Where the adapter changes one of them the merged model
     * has two; otherwise NULL: */
    const struct safetensor *tied;
    struct safetensor head; /* that tensor again, by the head's name */
};

static void set_length(float *w, size_t cols, float length)
{
    double squares = 0;
    float gain;

    for (size_t j = 0; j < cols; j++)
        squares += (double)w[j] * (double)w[j];
    gain = length * (float)(1 / sqrt(squares));
    for (size_t j = 0; j < cols; j++)
        w[j] *= gain;
}

void merge_row(const struct merge_delta *delta, int32_t n, float *w, float *sum)
{
    const float *coef = delta->coef + (size_t)n * (size_t)delta->coef_ld;
    size_t cols = (size_t)delta->cols;

    memset(sum, 0, cols * sizeof *sum);
    for (int32_t r = 0; r < delta->rank; r++) {
        const float *row = delta->row + (size_t)r * cols;
        for (size_t j = 0; j < cols; j++)
            sum[j] += coef[r] * row[j];
    }
    for (size_t j = 0; j < cols; j++)
        w[j] += delta->scale * sum[j];
    if (delta->magnitude)
        set_length(w, cols, delta->magnitude[n]);
}

/* --- what the adapter holds for a tensor --- */

/* "model.layers.3.self_attn.q_proj" of a tensor "….q_proj.weight", as PEFT calls the module. */
static const char *module_of(struct merge *m, struct str tensor)
{
    struct str prefix = str_of(m->config.tensor_prefix), module = tensor;

    if (str_ends(module, STR(".weight")))
        module.len -= strlen(".weight");
    if (str_ends(module, STR("lm_head")))
        return "lm_head";
    if (str_starts(module, prefix))
        return arena_printf(&m->arena, "%s%.*s", m->config.adapter_prefix,
                            STR_ARG(str_slice(module, prefix.len, module.len)));
    return str_copy(&m->arena, module);
}

/* The adapter's tensor for a module, marked as used; NULL: there is none. */
static const struct safetensor *adapter_find(struct merge *m, const char *module, const char *suffix)
{
    const char *name = arena_printf(&m->arena, "base_model.model.%s.%s", module, suffix);
    const struct safetensor *tensor = safetensors_set_find(&m->adapter, name);

    if (tensor)
        m->is_used[tensor - m->adapter.tensor] = true;
    return tensor;
}

static bool is_float(enum dtype type)
{
    return type == DTYPE_F32 || type == DTYPE_BF16 || type == DTYPE_F16;
}

/* a [rank, inputs] and b [outputs, rank] of a weight with these outputs and inputs. */
static bool check_pair(const struct safetensor *w, const struct safetensor *a, const struct safetensor *b,
                       uint64_t outputs, uint64_t inputs, struct err *err)
{
    if (!a || !b)
        return err_set(err, ERR_INPUT, "the adapter has only one of A and B for %.*s", STR_ARG(w->name));
    if (!is_float(w->type) || w->rank != 2)
        return err_set(err, ERR_UNSUPPORTED,
                       "%.*s is %.*s with %d dimensions; matrices in F32, BF16 and F16 are merged", STR_ARG(w->name),
                       STR_ARG(w->type_name), w->rank);
    if (!is_float(a->type) || !is_float(b->type))
        return err_set(err, ERR_UNSUPPORTED, "the adapter of %.*s is %.*s; F32, BF16 and F16 are read",
                       STR_ARG(w->name), STR_ARG(is_float(a->type) ? b->type_name : a->type_name));
    if (a->rank != 2 || b->rank != 2 || a->shape[1] != inputs || b->shape[0] != outputs ||
        a->shape[0] != b->shape[1] || a->shape[0] == 0 || inputs > INT32_MAX || outputs > INT32_MAX)
        return err_set(err, ERR_INPUT, "the adapter of %.*s has another shape than the base: is it of another model?",
                       STR_ARG(w->name));
    return true;
}

static float *floats_of(const struct safetensor *tensor, bool is_transposed)
{
    size_t rows = tensor->shape[0], cols = tensor->rank == 1 ? 1 : tensor->shape[1];
    float *values = mem_alloc(rows * cols * sizeof *values), *other;

    convert(values, DTYPE_F32, tensor->data, tensor->type, rows * cols);
    if (!is_transposed)
        return values;
    other = mem_alloc(rows * cols * sizeof *other);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            other[j * rows + i] = values[i * cols + j];
    free(values);
    return other;
}

static int32_t layer_of(const char *module)
{
    const char *at = strstr(module, "layers.");

    return at ? (int32_t)strtol(at + strlen("layers."), NULL, 10) : -1;
}

/* W[v] += scale · (B·A)[:, v] on the embedding: it takes the columns that the adapter of a product has as rows. */
static bool factors_of(struct merge *m, const struct safetensor *w, const char *module, struct merge_delta *delta,
                       struct err *err)
{
    const struct safetensor *a = adapter_find(m, module, "lora_A.weight");
    const struct safetensor *b = adapter_find(m, module, "lora_B.weight");
    const struct safetensor *ea = adapter_find(m, module, "lora_embedding_A");
    const struct safetensor *eb = adapter_find(m, module, "lora_embedding_B");
    const struct safetensor *magnitude = adapter_find(m, module, "lora_magnitude_vector");
    bool is_embedding = ea || eb;
    uint64_t outputs = w->rank == 2 ? w->shape[is_embedding] : 0, inputs = w->rank == 2 ? w->shape[!is_embedding] : 0;
    struct lora_choice choice;

    if (!a && !b && !is_embedding)
        return true;
    a = is_embedding ? ea : a;
    b = is_embedding ? eb : b;
    if (!check_pair(w, a, b, outputs, inputs, err) ||
        !lora_rules_choose(m->rules, module, layer_of(module), true, &choice, err))
        return false;
    if (a->shape[0] != (uint64_t)choice.rank)
        return err_set(err, ERR_INPUT, "the adapter of %s has rank %d, adapter_config.json says %d", module,
                       (int)a->shape[0], choice.rank);
    if (m->lora.is_dora && (!magnitude || magnitude->rank != 1 || magnitude->shape[0] != outputs ||
                            !is_float(magnitude->type) || is_embedding))
        return err_set(err, ERR_INPUT, "the adapter of %s lacks the magnitudes that use_dora asks for", module);
    *delta = (struct merge_delta){.coef = floats_of(is_embedding ? a : b, is_embedding),
                                  .row = floats_of(is_embedding ? b : a, is_embedding),
                                  .rank = choice.rank, .coef_ld = choice.rank, .cols = (int32_t)w->shape[1],
                                  .scale = choice.scale};
    if (m->lora.is_dora)
        delta->magnitude = floats_of(magnitude, false);
    return true;
}

/* PEFT's copy of the base's own weight beside an adapter on the embedding or the head. */
static bool check_copy(struct merge *m, const struct safetensor *w, const char *module, struct err *err)
{
    const struct safetensor *copy = adapter_find(m, module, "base_layer.weight");

    return !copy || tensor_has_values(w, copy) ||
           err_set(err, ERR_UNSUPPORTED, "the adapter's %.*s is not this base's: it was trained on another one",
                   STR_ARG(copy->name));
}

static void delta_free(struct merge_delta *delta)
{
    free((void *)(uintptr_t)delta->row);
    free((void *)(uintptr_t)delta->coef);
    free((void *)(uintptr_t)delta->magnitude);
}

/* --- merging rows --- */

/* Rows [first, first + count) of a weight, into `merged` in the weight's type. */
struct chunk {
    const struct merge_delta *delta;
    const struct safetensor *w;
    int32_t first, count;
    char *merged;
    float *scratch; /* two rows a thread */
};

static void chunk_task(void *context, int task, int thread)
{
    const struct chunk *chunk = context;
    size_t cols = (size_t)chunk->delta->cols, row_bytes = cols * dtype_bytes(chunk->w->type);
    float *w = chunk->scratch + (size_t)thread * 2 * cols;
    int32_t end = (task + 1) * TASK_ROWS < chunk->count ? (task + 1) * TASK_ROWS : chunk->count;

    for (int32_t i = task * TASK_ROWS; i < end; i++) {
        int32_t n = chunk->first + i;
        convert(w, DTYPE_F32, (const char *)chunk->w->data + (size_t)n * row_bytes, chunk->w->type, cols);
        merge_row(chunk->delta, n, w, w + cols);
        convert(chunk->merged + (size_t)i * row_bytes, chunk->w->type, w, DTYPE_F32, cols);
    }
}

static bool write_merged(struct merge *m, struct safetensors_writer *writer, const struct safetensor *w,
                         const struct merge_delta *delta, struct err *err)
{
    size_t cols = (size_t)delta->cols, row_bytes = cols * dtype_bytes(w->type);
    int32_t rows = (int32_t)w->shape[0], most = cols < CHUNK_ELEMENTS ? (int32_t)(CHUNK_ELEMENTS / cols) : 1;
    struct chunk chunk = {.delta = delta, .w = w};
    bool ok = true;

    chunk.merged = mem_alloc((size_t)most * row_bytes);
    chunk.scratch = mem_alloc((size_t)pool_thread_count(m->pool) * 2 * cols * sizeof(float));
    for (chunk.first = 0; ok && chunk.first < rows; chunk.first += most) {
        chunk.count = rows - chunk.first < most ? rows - chunk.first : most;
        pool_run(m->pool, (chunk.count + TASK_ROWS - 1) / TASK_ROWS, chunk_task, &chunk);
        ok = safetensors_write(writer, chunk.merged, (uint64_t)chunk.count * row_bytes, err);
    }
    free(chunk.merged);
    free(chunk.scratch);
    return ok;
}

/* --- files --- */

/* A weight that the adapter holds whole, in the base's type. */
static bool write_saved(struct safetensors_writer *writer, const struct safetensor *w, const struct safetensor *saved,
                        struct err *err)
{
    bool is_vector = w->rank == 1;

    if (saved->rank != w->rank || memcmp(saved->shape, w->shape, sizeof w->shape) != 0 || w->rank < 1 || w->rank > 2 ||
        !is_float(w->type) || !is_float(saved->type))
        return err_set(err, ERR_INPUT, "the adapter's %.*s does not fit the base's %.*s", STR_ARG(saved->name),
                       STR_ARG(w->name));
    return write_rows(writer, saved->data, saved->type, w->type, is_vector ? 1 : (int32_t)w->shape[0],
                      (int32_t)w->shape[is_vector ? 0 : 1], (int32_t)w->shape[is_vector ? 0 : 1], err);
}

static bool write_tensor(struct merge *m, struct safetensors_writer *writer, const struct safetensor *w,
                         struct err *err)
{
    const char *module = module_of(m, w->name);
    const struct safetensor *saved = str_ends(w->name, STR(".weight")) ? adapter_find(m, module, "weight") : NULL;
    struct merge_delta delta = {0};
    bool ok;

    if (saved)
        return write_saved(writer, w, saved, err);
    if (!check_copy(m, w, module, err) || !factors_of(m, w, module, &delta, err))
        return false;
    ok = delta.rank ? write_merged(m, writer, w, &delta, err) : safetensors_write(writer, w->data, w->bytes, err);
    delta_free(&delta);
    return ok;
}

static bool make_entry(struct merge *m, const struct safetensor *w, struct safetensors_entry *entry, struct err *err)
{
    if (w->type == DTYPE_COUNT)
        return err_set(err, ERR_UNSUPPORTED, "tensor %.*s is %.*s, which is not merged onto", STR_ARG(w->name),
                       STR_ARG(w->type_name));
    *entry = (struct safetensors_entry){.name = str_copy(&m->arena, w->name), .type = w->type, .rank = w->rank};
    memcpy(entry->shape, w->shape, sizeof entry->shape);
    entry->context = (void *)(uintptr_t)w;
    return true;
}

static bool write_shard(struct merge *m, int file, struct err *err)
{
    struct safetensors_entry *entries = arena_new_array(&m->arena, struct safetensors_entry, (size_t)m->base.count + 1);
    struct safetensors_writer writer = {0};
    int count = 0;

    for (int i = 0; i < m->base.count; i++)
        if (m->base.tensor[i].file == file && !make_entry(m, &m->base.tensor[i], &entries[count++], err))
            return false;
    if (m->tied && m->tied->file == file && !make_entry(m, &m->head, &entries[count++], err))
        return false;
    if (!safetensors_write_begin(&writer, path_join(&m->arena, m->out, m->base.file_name[file]), entries, count, err))
        return false;
    for (int i = 0; i < count; i++)
        if (!write_tensor(m, &writer, entries[i].context, err)) {
            safetensors_write_abort(&writer);
            return false;
        }
    return safetensors_write_end(&writer, NULL, NULL, err);
}

static bool check_all_used(const struct merge *m, struct err *err)
{
    for (int i = 0; i < m->adapter.count; i++)
        if (!m->is_used[i])
            return err_set(err, ERR_INPUT, "the adapter's tensor %.*s belongs to no tensor of the base",
                           STR_ARG(str_slice(m->adapter.tensor[i].name, 0, 256)));
    return true;
}

/* --- a head of its own --- */

static bool touches(const struct merge *m, const char *module)
{
    struct arena arena = {0};
    struct str want = str_of(arena_printf(&arena, "base_model.model.%s.", module));
    bool found = false;

    for (int i = 0; i < m->adapter.count; i++)
        found |= str_starts(m->adapter.tensor[i].name, want) &&
                 !str_ends(m->adapter.tensor[i].name, STR(".base_layer.weight"));
    arena_deinit(&arena);
    return found;
}

static void untie(struct merge *m)
{
    struct str prefix = str_of(m->config.tensor_prefix);
    const char *embed = arena_printf(&m->arena, "%sembed_tokens", m->config.adapter_prefix);

    if (!m->config.is_tied || (!touches(m, "lm_head") && !touches(m, embed)))
        return;
    m->tied = safetensors_set_find(&m->base, arena_printf(&m->arena, "%.*sembed_tokens.weight", STR_ARG(prefix)));
    if (!m->tied)
        return;
    m->head = *m->tied;
    prefix.len -= strlen("model.");
    m->head.name = str_of(arena_printf(&m->arena, "%.*slm_head.weight", STR_ARG(prefix)));
}

/* An object with one member set; `inner` may name an object in it that has that member too. */
static void write_with(struct json_writer *w, const struct json *object, const char *key, const char *inner,
                       void (*put)(struct json_writer *, const void *), const void *value)
{
    json_write_begin_object(w);
    json_each(member, object) {
        if (str_is(member->key, key))
            continue;
        json_write_key_str(w, member->key);
        if (inner && str_is(member->key, inner) && json_get(member, key))
            write_with(w, member, key, NULL, put, value);
        else
            json_write_value(w, member);
    }
    json_write_key(w, key);
    put(w, value);
    json_write_end_object(w);
}

static void put_false(struct json_writer *w, const void *value)
{
    json_write_bool(w, false);
}

struct head_place {
    const struct json *map;
    const char *name, *file;
};

static void put_file(struct json_writer *w, const void *value)
{
    json_write_text(w, value);
}

static void put_map(struct json_writer *w, const void *value)
{
    const struct head_place *place = value;

    write_with(w, place->map, place->name, NULL, put_file, place->file);
}

static bool rewrite(struct merge *m, const char *base, const char *name, bool is_index, struct err *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text, .indent = 2};
    const struct json *root;
    struct head_place place;
    struct str old;
    bool ok;

    if (!file_read(&m->arena, path_join(&m->arena, base, name), 64 << 20, &old, err))
        return false;
    root = json_parse(&m->arena, old, NULL, err);
    if (!root)
        return err_prefix(err, "%s", name);
    place = (struct head_place){json_get(root, "weight_map"), str_copy(&m->arena, m->head.name),
                                m->base.file_name[m->tied->file]};
    if (is_index)
        write_with(&w, root, "weight_map", NULL, put_map, &place);
    else
        write_with(&w, root, "tie_word_embeddings", "text_config", put_false, NULL);
    strbuf_add_char(&text, '\n');
    ok = file_replace(path_join(&m->arena, m->out, name), strbuf_view(&text), err);
    strbuf_deinit(&text);
    return ok;
}

static bool rewrite_all(struct merge *m, const char *base, struct err *err)
{
    return !m->tied ||
           (rewrite(m, base, "config.json", false, err) &&
            (m->base.file_count == 1 || rewrite(m, base, "model.safetensors.index.json", true, err)));
}

static bool fill(struct merge *m, const char *base, struct err *err)
{
    if (!dir_remove(m->out, err) || !dir_make(m->out, err))
        return false;
    for (int i = 0; i < m->base.file_count; i++)
        if (!write_shard(m, i, err))
            return false;
    return check_all_used(m, err) && folder_copy_others(&m->arena, base, m->out, err) && rewrite_all(m, base, err) &&
           dir_sync(m->out, err);
}

static bool open_inputs(struct merge *m, const char *base, const char *adapter, struct err *err)
{
    if (!config_read(&m->arena, base, &m->config, err) || !adapter_config_read(&m->arena, adapter, &m->lora, err) ||
        !safetensors_set_open(&m->base, &m->arena, base, err) ||
        !safetensors_set_open_file(&m->adapter, &m->arena,
                                   path_join(&m->arena, adapter, "adapter_model.safetensors"), err))
        return false;
    m->is_used = arena_new_array(&m->arena, bool, (size_t)m->adapter.count);
    m->rules = lora_rules_new(&m->lora, err);
    untie(m);
    return m->rules != NULL;
}

bool merge_write(const char *base, const char *adapter, const char *out, struct pool *pool, struct err *err)
{
    struct merge m = {.pool = pool};
    bool ok = false;

    if (file_exists(out) || dir_exists(out)) {
        err_set(err, ERR_CONFLICT, "%s is there already: choose another folder", out);
        goto out;
    }
    m.out = arena_printf(&m.arena, "%s.tmp", out);
    if (!open_inputs(&m, base, adapter, err))
        goto out;
    ok = fill(&m, base, err) && file_rename(m.out, out, err);
    if (!ok)
        dir_remove(m.out, NULL);
out:
    lora_rules_free(m.rules);
    safetensors_set_close(&m.base);
    safetensors_set_close(&m.adapter);
    arena_deinit(&m.arena);
    return ok;
}
