#include "model/batch.h"

#include <stdlib.h>

/* Token in the high half, row in the low: sorting the keys sorts by (token, row). */
static int key_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static const int32_t *sort_rows(struct arena *arena, const int32_t *tok, int32_t T)
{
    int32_t *rows = arena_new_array(arena, int32_t, (size_t)T);
    uint64_t *keys = mem_alloc((size_t)T * sizeof *keys);

    for (int32_t t = 0; t < T; t++)
        keys[t] = (uint64_t)(uint32_t)tok[t] << 32 | (uint32_t)t;
    qsort(keys, (size_t)T, sizeof *keys, key_compare);
    for (int32_t t = 0; t < T; t++)
        rows[t] = (int32_t)(uint32_t)keys[t];
    free(keys);
    return rows;
}

static void add_supervision(struct arena *arena, struct batch *batch, const float *weight, float scale)
{
    int32_t *rows = arena_new_array(arena, int32_t, (size_t)batch->T);
    int32_t *label = arena_new_array(arena, int32_t, (size_t)batch->T);
    float *row_weight = arena_new_array(arena, float, (size_t)batch->T);

    for (int32_t d = 0; weight && d < batch->doc_count; d++)
        for (int32_t t = batch->cu_seqlens[d]; t + 1 < batch->cu_seqlens[d + 1]; t++)
            if (weight[t + 1] != 0) {
                rows[batch->head_row_count] = t;
                label[batch->head_row_count] = batch->tok[t + 1];
                row_weight[batch->head_row_count++] = weight[t + 1] * scale;
            }
    batch->head_rows = rows;
    batch->label = label;
    batch->row_weight = row_weight;
}

void batch_make(struct arena *arena, struct batch *batch, const int32_t *tok, const int32_t *cu_seqlens,
                int32_t doc_count, const int32_t *first_pos, const float *weight, float scale)
{
    int32_t T = cu_seqlens[doc_count], *pos = arena_new_array(arena, int32_t, (size_t)T);

    for (int32_t d = 0; d < doc_count; d++)
        for (int32_t t = cu_seqlens[d]; t < cu_seqlens[d + 1]; t++)
            pos[t] = t - cu_seqlens[d] + (first_pos ? first_pos[d] : 0);
    *batch = (struct batch){.T = T, .doc_count = doc_count, .cu_seqlens = cu_seqlens, .tok = tok, .pos = pos};
    batch->by_token = sort_rows(arena, tok, T);
    add_supervision(arena, batch, weight, scale);
}
