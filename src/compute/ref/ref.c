#include "compute/check.h"
#include "compute/ref/ref_int.h"

static bool can(enum op op, const void *args, struct err *err)
{
    return op_check(op, args, true, err);
}

static size_t scratch_bytes(enum op op, const void *args, int thread_count)
{
    return 0;
}

const struct backend backend_ref = {
    .name = "ref",
#define REF_FIELD(op) .op = ref_##op,
    OPS(REF_FIELD)
#undef REF_FIELD
    .can = can,
    .scratch_bytes = scratch_bytes,
};
