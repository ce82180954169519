/* compute/cpu/cpu_int.h - what the files of one path share: the operations' names and their needs of scratch.
 *
 * Scratch is one slab per thread, behind what all threads share. An op's scratch is computed by the same function that
 * cuts its work, so that both agree. */
#pragma once

#include "compute/cpu/lanes.h"

#define CPU_DECLARE(name) void CPU(name)(struct queue *queue, const struct op_##name *op);
OPS(CPU_DECLARE)
#undef CPU_DECLARE

size_t CPU(linear_scratch)(const struct op_linear *op, int thread_count);
size_t CPU(linear_grad_in_scratch)(const struct op_linear_grad_in *op, int thread_count);
size_t CPU(linear_grad_w_scratch)(const struct op_linear_grad_w *op, int thread_count);
size_t CPU(qk_rope_grad_scratch)(const struct op_qk_rope_grad *op, int thread_count);
size_t CPU(attend_scratch)(const struct op_attend *op, int thread_count);
size_t CPU(attend_grad_scratch)(const struct op_attend_grad *op, int thread_count);
/* attend_once.c: dqkv with the bits of attend_grad.c, in one pass; delta is [H, T]. */
bool CPU(attend_grad_is_once)(const struct op_attend_grad *op, int thread_count);
size_t CPU(attend_grad_once_scratch)(const struct op_attend_grad *op, int thread_count);
void CPU(attend_grad_once)(struct queue *queue, const struct op_attend_grad *op, const float *delta, void *scratch);
size_t CPU(route_scratch)(const struct op_route *op, int thread_count);
size_t CPU(loss_scratch)(const struct op_loss *op, int thread_count);

/* thin.c: `linear` of a weight in panels for up to THIN_ROWS rows, with the bits that it
 * has among more; needs no scratch. */
enum { THIN_ROWS = LANES == 16 ? 8 : 4 };
bool CPU(linear_is_thin)(const struct op_linear *op);
void CPU(linear_thin)(struct queue *queue, const struct op_linear *op);

/* panels.c: see struct backend. */
size_t CPU(panel_bytes)(const struct mat *w);
void CPU(lay_out)(struct queue *queue, const struct mat *w, void *to);

/* keys.c: keys and values behind a cache in the order of attention's tiles: see struct backend. Appends those
 * that one key head of a document has in the batch, and finds the words of a packed tile, of keys or of
 * values, from a position on. */
size_t CPU(cache_bytes)(const struct kv_cache *cache, int32_t kv_heads, int32_t head_dim);
void CPU(cache_append)(const struct op_attend *op, int32_t document, int32_t kv_head);
const uint32_t *CPU(cache_tile)(const struct kv_cache *cache, bool is_value, int32_t head_dim, int32_t kv_head,
                                int32_t position);

INLINE size_t whole_lines(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

INLINE int32_t ceil_div(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

INLINE int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}
