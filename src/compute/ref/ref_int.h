/* compute/ref/ref_int.h - the reference's operations, one file a family; ref.c puts them into the table. */
#pragma once

#include "compute/backend.h"

#define REF_DECLARE(name) void ref_##name(struct queue *queue, const struct op_##name *op);
OPS(REF_DECLARE)
#undef REF_DECLARE
