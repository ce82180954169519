#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

void ref_qk_rope(struct queue *queue, const struct op_qk_rope *op)
{
    int32_t half = op->rot / 2;

    for (int32_t t = 0; t < op->qkv.rows; t++) {
        const float *cosines = op->cos_sin + (size_t)op->batch->pos[t] * (size_t)op->rot, *sines = cosines + half;

        for (int32_t head = 0; head < op->heads + op->kv_heads; head++)
            for (int32_t i = 0; i < half; i++) {
                int32_t col = head * op->head_dim + i;
                double a = get(&op->qkv, t, col), b = get(&op->qkv, t, col + half);
                double c = cosines[i], s = op->is_inverse ? -sines[i] : sines[i];

                set(&op->qkv, t, col, a * c - b * s);
                set(&op->qkv, t, col + half, b * c + a * s);
            }
    }
}
