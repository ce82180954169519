#include "model/merge.h"

#include "model/checkpoint_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_ELEMENTS = 1 << 22, TASK_ROWS = 16, NAME_MAX_BYTES = SAFETENSORS_NAME_MAX + 64 };

struct merge {
    struct arena arena;
    struct pool *pool;
    struct lora_config lora;
    struct safetensors_set base, adapter;
    bool *is_used;   /* [adapter.count] */
    const char *out; /* under its temporary name */
};

void merge_row(const struct merge_delta *delta, int32_t n, float *w, float *sum)
{
    const float *coef = delta->coef + (size_t)n * (size_t)delta->rank;
    size_t cols = (size_t)delta->cols;

    memset(sum, 0, cols * sizeof *sum);
    for (int32_t r = 0; r < delta->rank; r++) {
        const float *row = delta->row + (size_t)r * cols;
        for (size_t j = 0; j < cols; j++)
            sum[j] += coef[r] * row[j];
    }
    for (size_t j = 0; j < cols; j++)
        w[j] += delta->scale * sum[j];
}

/* --- what the adapter holds for a tensor --- */

/* The adapter's tensor for the module of base tensor `name`, marked as used; NULL: there is none. */
static const struct safetensor *adapter_find(struct merge *m, struct str name, const char *suffix)
{
    struct str module = str_ends(name, STR(".weight")) ? str_slice(name, 0, name.len - 7) : name;
    const struct safetensor *tensor;
    char text[NAME_MAX_BYTES];

    snprintf(text, sizeof text, "base_model.model.%.*s.%s", STR_ARG(module), suffix);
    tensor = safetensors_set_find(&m->adapter, text);
    if (tensor)
        m->is_used[tensor - m->adapter.tensor] = true;
    return tensor;
}

static bool is_float(enum dtype type)
{
    return type == DTYPE_F32 || type == DTYPE_BF16 || type == DTYPE_F16;
}

static bool check_pair(const struct safetensor *w, const struct safetensor *a, const struct safetensor *b,
                       struct err *err)
{
    if (!a || !b)
        return err_set(err, ERR_INPUT, "the adapter has only one of lora_A and lora_B for %.*s", STR_ARG(w->name));
    if (!is_float(w->type) || w->rank != 2)
        return err_set(err, ERR_UNSUPPORTED, "%.*s is %.*s with %d dimensions; matrices in F32, BF16 and F16 are merged",
                       STR_ARG(w->name), STR_ARG(w->type_name), w->rank);
    if (!is_float(a->type) || !is_float(b->type))
        return err_set(err, ERR_UNSUPPORTED, "the adapter of %.*s is %.*s; F32, BF16 and F16 are read",
                       STR_ARG(w->name), STR_ARG(is_float(a->type) ? b->type_name : a->type_name));
    if (a->rank != 2 || b->rank != 2 || a->shape[1] != w->shape[1] || b->shape[0] != w->shape[0] ||
        a->shape[0] != b->shape[1] || a->shape[0] == 0 || w->shape[1] > INT32_MAX || w->shape[0] > INT32_MAX)
        return err_set(err, ERR_INPUT, "the adapter of %.*s has another shape than the base: is it of another model?",
                       STR_ARG(w->name));
    return true;
}

static float *floats_of(const struct safetensor *tensor)
{
    size_t count = tensor->shape[0] * tensor->shape[1];
    float *values = mem_alloc(count * sizeof *values);

    convert(values, DTYPE_F32, tensor->data, tensor->type, count);
    return values;
}

/* has_delta false: the adapter leaves w as it is. The factors are the caller's to free. */
static bool delta_of(struct merge *m, const struct safetensor *w, struct merge_delta *delta, bool *has_delta,
                     struct err *err)
{
    const struct safetensor *a = adapter_find(m, w->name, "lora_A.weight");
    const struct safetensor *b = adapter_find(m, w->name, "lora_B.weight");

    *delta = (struct merge_delta){0};
    *has_delta = a || b;
    if (!*has_delta)
        return true;
    if (!check_pair(w, a, b, err))
        return false;
    if (a->shape[0] != (uint64_t)m->lora.rank)
        return err_set(err, ERR_INPUT, "the adapter of %.*s has rank %d, adapter_config.json says %d",
                       STR_ARG(w->name), (int)a->shape[0], m->lora.rank);
    delta->rank = m->lora.rank;
    delta->scale = lora_scale(&m->lora);
    delta->cols = (int32_t)w->shape[1];
    delta->row = floats_of(a);
    delta->coef = floats_of(b);
    return true;
}

static void delta_free(struct merge_delta *delta)
{
    free((void *)(uintptr_t)delta->row);
    free((void *)(uintptr_t)delta->coef);
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

static bool write_tensor(struct merge *m, struct safetensors_writer *writer, const struct safetensor *w,
                         struct err *err)
{
    struct merge_delta delta;
    bool has_delta, ok;

    if (!delta_of(m, w, &delta, &has_delta, err))
        return false;
    ok = has_delta ? write_merged(m, writer, w, &delta, err) : safetensors_write(writer, w->data, w->bytes, err);
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
    struct safetensors_entry *entries = arena_new_array(&m->arena, struct safetensors_entry, (size_t)m->base.count);
    struct safetensors_writer writer = {0};
    int count = 0;

    for (int i = 0; i < m->base.count; i++)
        if (m->base.tensor[i].file == file && !make_entry(m, &m->base.tensor[i], &entries[count++], err))
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

static bool fill(struct merge *m, const char *base, struct err *err)
{
    if (!dir_remove(m->out, err) || !dir_make(m->out, err))
        return false;
    for (int i = 0; i < m->base.file_count; i++)
        if (!write_shard(m, i, err))
            return false;
    return check_all_used(m, err) && folder_copy_others(&m->arena, base, m->out, err) && dir_sync(m->out, err);
}

static bool open_inputs(struct merge *m, const char *base, const char *adapter, struct err *err)
{
    if (!adapter_config_read(&m->arena, adapter, &m->lora, err) ||
        !safetensors_set_open(&m->base, &m->arena, base, err) ||
        !safetensors_set_open_file(&m->adapter, &m->arena,
                                   path_join(&m->arena, adapter, "adapter_model.safetensors"), err))
        return false;
    m->is_used = arena_new_array(&m->arena, bool, (size_t)m->adapter.count);
    return true;
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
    safetensors_set_close(&m.base);
    safetensors_set_close(&m.adapter);
    arena_deinit(&m.arena);
    return ok;
}
