#include "compute/ref/element.h"
#include "compute/ref/ref_int.h"

static double gathered(const struct op_rows *op, int32_t i, int32_t j)
{
    int32_t fan = op->fan > 1 ? op->fan : 1;
    double sum = op->add.at ? get(&op->add, i, j) : 0;

    for (int32_t f = i * fan; f < (i + 1) * fan; f++)
        sum += (op->scale.at ? get(&op->scale, 0, f) : 1) * get(&op->x, op->index[f], j);
    return sum;
}

void ref_rows(struct queue *queue, const struct op_rows *op)
{
    for (int32_t i = 0; i < op->count; i++)
        for (int32_t j = 0; j < op->x.cols; j++)
            if (op->is_scatter)
                add(&op->y, op->index[i], j, get(&op->x, i, j));
            else
                set(&op->y, i, j, gathered(op, i, j));
}

void ref_copy(struct queue *queue, const struct op_copy *op)
{
    for (int32_t i = 0; i < op->x.rows; i++)
        for (int32_t j = 0; j < op->x.cols; j++)
            set(&op->y, i, j, get(&op->x, i, j) + (op->is_added ? get(&op->y, i, j) : 0));
}
