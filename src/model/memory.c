#include "model/memory.h"

#include <stdlib.h>
#include <string.h>

static uint64_t plan_total(const struct model *m)
{
    uint64_t total = 0;

    for (int i = 0; i < REGION_COUNT; i++)
        total += i == REGION_MAPPED || region_is_on_host(m, i) ? 0 : m->region_bytes[i];
    return total;
}

/* Somebody else has taken what was free when the plan was made. */
static bool refuse(struct model *m, struct err *err)
{
    double free_gb = (double)(m->memory ? m->memory->free_bytes(&m->queue) : 0) / 1e9;

    return err_set(err, ERR_NO_SPACE,
                   "the device has no room for %.2f GB: %.2f GB are left. End what else runs there, set a lower limit "
                   "of memory, or choose a smaller context_length, lora, or quantization nf4",
                   (double)plan_total(m) / 1e9, free_gb);
}

static bool refuse_host(const struct model *m, struct err *err)
{
    return err_set(err, ERR_NO_SPACE,
                   "the host has no room for the optimizer's moments, %.2f GB that the device has none for: "
                   "choose lora, or optim adamw_8bit",
                   (double)m->plan.host_bytes / 1e9);
}

static char *take_zeros_of_host(struct model *m, uint64_t bytes)
{
    char *at = m->memory->take_host(&m->queue, bytes);

    if (at)
        memset(at, 0, bytes);
    return at;
}

/* Gradients over activations are one piece with them. */
static uint64_t piece_bytes(const struct model *m, int region)
{
    return m->region_bytes[region] + (region == REGION_KEPT && m->grads_lie_over ? m->region_bytes[REGION_GRADS] : 0);
}

/* What was taken already is given back by memory_give_regions. */
bool memory_take_regions(struct model *m, struct err *err)
{
    const struct memory *memory = m->memory;

    if (memory && !memory->open(&m->queue, err))
        return false;
    for (int i = 0; i < REGION_COUNT; i++) {
        if (i == REGION_MAPPED)
            continue;
        if (i == REGION_GRADS && m->grads_lie_over)
            continue;
        if (region_is_on_host(m, i)) {
            m->region[i] = take_zeros_of_host(m, m->region_bytes[i]);
            if (!m->region[i] && m->region_bytes[i])
                return refuse_host(m, err);
            continue;
        }
        m->region[i] = memory ? memory->take(&m->queue, m->region_bytes[i]) : mem_alloc_pages(piece_bytes(m, i));
        if (!m->region[i] && m->region_bytes[i])
            return refuse(m, err);
    }
    return true;
}

void memory_give_regions(struct model *m)
{
    for (int i = 0; i < REGION_COUNT; i++)
        if (m->memory && region_is_on_host(m, i))
            m->memory->give_host(&m->queue, m->region[i]);
        else if (m->memory)
            m->memory->give(&m->queue, m->region[i]);
        else if (i != REGION_MAPPED && m->region[i])
            mem_free_pages(m->region[i], piece_bytes(m, i));
    if (!m->memory)
        return;
    m->memory->give_host(&m->queue, m->host_rows);
    m->memory->close(&m->queue);
}

void *memory_take(struct model *m, size_t bytes)
{
    return m->memory ? m->memory->take(&m->queue, bytes) : mem_alloc_zero(1, bytes);
}

void memory_give(struct model *m, void *at)
{
    if (m->memory)
        m->memory->give(&m->queue, at);
    else
        free(at);
}

void memory_zero(struct model *m, void *at, size_t bytes)
{
    if (m->memory)
        m->memory->zero(&m->queue, at, bytes);
    else
        memset(at, 0, bytes);
}

/* The memory that `at` is moved to or from; NULL: the host reads and writes it itself, what the
 * device had to do there done. */
static const struct memory *memory_of(struct model *m, const void *at)
{
    for (int i = 0; i < REGION_COUNT; i++) {
        const char *begin = m->region[i], *byte = at;
        if (!region_is_on_host(m, i) || byte < begin || byte >= begin + m->region_bytes[i])
            continue;
        m->memory->wait(&m->queue);
        return NULL;
    }
    return m->memory;
}

static struct stretches from_host(const void *at, size_t ld)
{
    return (struct stretches){(void *)(uintptr_t)at, ld};
}

void memory_write(struct model *m, void *to, const void *from, size_t bytes)
{
    const struct memory *memory = memory_of(m, to);

    if (memory)
        memory->put(&m->queue, (struct stretches){to, bytes}, from_host(from, bytes), bytes, 1);
    else
        memcpy(to, from, bytes);
}

void memory_read(struct model *m, void *to, const void *from, size_t bytes)
{
    const struct memory *memory = memory_of(m, from);

    if (memory)
        memory->get(&m->queue, (struct stretches){to, bytes}, from_host(from, bytes), bytes, 1);
    else
        memcpy(to, from, bytes);
}

static struct mat float_rows(const void *at, size_t ld, size_t row_bytes, int32_t rows)
{
    return (struct mat){(void *)(uintptr_t)at, rows, (int32_t)(row_bytes / sizeof(float)),
                        (int32_t)(ld / sizeof(float)), DTYPE_F32};
}

void memory_copy_rows(struct model *m, void *to, size_t to_ld, const void *from, size_t from_ld, size_t row_bytes,
                      int32_t rows)
{
    struct op_copy op = {.x = float_rows(from, from_ld, row_bytes, rows), .y = float_rows(to, to_ld, row_bytes, rows)};

    if (m->memory)
        m->backend->copy(&m->queue, &op);
    else
        for (size_t r = 0; r < (size_t)rows; r++)
            memcpy((char *)to + r * to_ld, (const char *)from + r * from_ld, row_bytes);
}

void memory_read_later(struct model *m, void *to, const void *from, size_t bytes)
{
    if (m->memory)
        m->memory->get_later(&m->queue, to, from, bytes);
    else
        memcpy(to, from, bytes);
}

void memory_write_rows(struct model *m, void *to, const void *from, size_t size, int32_t rows, int32_t cols, int32_t ld)
{
    size_t row_bytes = (size_t)cols * size, ld_bytes = (size_t)ld * size;
    const struct memory *memory = memory_of(m, to);

    if (memory)
        memory->put(&m->queue, (struct stretches){to, ld_bytes}, from_host(from, row_bytes), row_bytes, (size_t)rows);
    else
        for (size_t r = 0; r < (size_t)rows; r++)
            memcpy((char *)to + r * ld_bytes, (const char *)from + r * row_bytes, row_bytes);
}

struct mat memory_view(struct model *m, struct mat mat, void **copy)
{
    size_t size = dtype_bytes(mat.type), row_bytes = (size_t)mat.cols * size;
    struct stretches from = {mat.at, (size_t)mat.ld * size};
    const struct memory *memory = memory_of(m, mat.at);

    *copy = NULL;
    if (!memory || !mat.at)
        return mat;
    *copy = mat.at = mem_alloc((size_t)mat.rows * row_bytes + 1);
    mat.ld = mat.cols;
    memory->get(&m->queue, (struct stretches){mat.at, row_bytes}, from, row_bytes, (size_t)mat.rows);
    return mat;
}

/* Arrays of a batch one behind the other, T numbers apart: batches of equal T have them at the same addresses. */
enum { BATCH_ARRAYS = 7 };

struct batch memory_batch(struct model *m, const struct batch *batch)
{
    struct batch here = *batch;
    size_t T = (size_t)batch->T, n = (size_t)batch->head_row_count, at = 0, end = 0;
    struct {
        const void **array;
        size_t count;
    } arrays[BATCH_ARRAYS] = {
        {(const void **)&here.tok, T},       {(const void **)&here.pos, T},   {(const void **)&here.by_token, T},
        {(const void **)&here.head_rows, n}, {(const void **)&here.label, n}, {(const void **)&here.row_weight, n},
        {(const void **)&here.cu_seqlens, (size_t)batch->doc_count + 1},
    };

    if (!m->memory)
        return here;
    for (int i = 0; i < BATCH_ARRAYS; i++) {
        if (!*arrays[i].array)
            continue;
        ASSERT(arrays[i].count <= T + 1);
        memcpy(m->host_batch + at, *arrays[i].array, arrays[i].count * sizeof(int32_t));
        *arrays[i].array = m->device_batch + at;
        end = at + arrays[i].count;
        at += T;
    }
    memory_write(m, m->device_batch, m->host_batch, end * sizeof(int32_t));
    return here;
}
