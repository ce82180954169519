/* compute/check.h - which shapes and types the operations take; what `can` of every backend on the host asks.
 *
 * One rule per operand stands in check.c. In short: activations and weights are F32 or BF16, each by itself;
 * statistics, gradients of weights and optimizer state are F32; F64 goes only with F64, and only where allowed. */
#pragma once

#include "compute/backend.h"

bool op_check(enum op op, const void *args, bool is_f64_allowed, struct err *err);
