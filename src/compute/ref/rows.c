#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

void ref_rows(struct queue *queue, const struct op_rows *op)
{
    for (int32_t i = 0; i < op->count; i++)
        for (int32_t j = 0; j < op->x.cols; j++)
            if (op->is_scatter)
                add(&op->y, op->index[i], j, get(&op->x, i, j));
            else
                set(&op->y, i, j, get(&op->x, op->index[i], j));
}

void ref_copy(struct queue *queue, const struct op_copy *op)
{
    for (int32_t i = 0; i < op->x.rows; i++)
        for (int32_t j = 0; j < op->x.cols; j++)
            set(&op->y, i, j, get(&op->x, i, j) + (op->is_added ? get(&op->y, i, j) : 0));
}
