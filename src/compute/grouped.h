/* compute/grouped.h - the products of experts as one product for each.
 *
 * What a backend runs when an operation has row_end: `dense` with the rows, the weight, the bias and the gradients of
 * one expert after the other. An expert without rows costs nothing. The order of every sum is that of the dense
 * product. */
#pragma once

#include "compute/backend.h"

void grouped_linear(struct queue *queue, const struct op_linear *op,
                    void (*dense)(struct queue *, const struct op_linear *));
void grouped_linear_grad_in(struct queue *queue, const struct op_linear_grad_in *op,
                            void (*dense)(struct queue *, const struct op_linear_grad_in *));
void grouped_linear_grad_w(struct queue *queue, const struct op_linear_grad_w *op,
                           void (*dense)(struct queue *, const struct op_linear_grad_w *));

/* The dense product that needs the most scratch: all rows meet one expert, whose weight lies in *w. */
struct op_linear grouped_linear_largest(const struct op_linear *op, struct weight *w);
struct op_linear_grad_in grouped_linear_grad_in_largest(const struct op_linear_grad_in *op, struct weight *w);
struct op_linear_grad_w grouped_linear_grad_w_largest(const struct op_linear_grad_w *op, struct weight *w);
