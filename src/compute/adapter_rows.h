/* compute/adapter_rows.h - op_linear with several adapters as one product after the other. */
#pragma once

#include "compute/backend.h"

/* w with the adapter of range i, or without one. */
struct weight adapter_rows_weight(const struct op_linear *op, int32_t i);
/* Each range as a product of its own, which `dense` runs. */
void adapter_rows_linear(struct queue *queue, const struct op_linear *op,
                         void (*dense)(struct queue *, const struct op_linear *));
/* The most that a range could ask for if it had all rows. */
size_t adapter_rows_scratch(const struct op_linear *op, int thread_count,
                            size_t (*dense)(const struct op_linear *, int));
