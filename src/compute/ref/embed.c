#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

void ref_embed(struct queue *queue, const struct op_embed *op)
{
    for (int32_t t = 0; t < op->x.rows; t++)
        for (int32_t j = 0; j < op->x.cols; j++)
            set(&op->x, t, j, op->scale * get(&op->table, op->batch->tok[t], j));
}

void ref_embed_grad(struct queue *queue, const struct op_embed_grad *op)
{
    const struct batch *batch = op->batch;

    for (int32_t j = 0; j < op->dx.cols; j++)
        for (int32_t i = 0, next; i < op->dx.rows; i = next) {
            int32_t token = batch->tok[batch->by_token[i]];
            double sum = 0;

            for (next = i; next < op->dx.rows && batch->tok[batch->by_token[next]] == token; next++)
                sum += get(&op->dx, batch->by_token[next], j);
            if (!op->has_padding || token != op->padding)
                add(&op->dtable, token, j, op->scale * sum);
        }
}
