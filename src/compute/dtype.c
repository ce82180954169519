#include "compute/backend.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 4}, [DTYPE_BF16] = {"BF16", 2}, [DTYPE_F16] = {"F16", 2}, [DTYPE_F64] = {"F64", 8},
    [DTYPE_I32] = {"I32", 4}, [DTYPE_I64] = {"I64", 8},   [DTYPE_U8] = {"U8", 1},
};

size_t dtype_bytes(enum dtype type)
{
    ASSERT(type < DTYPE_COUNT);
    return dtypes[type].bytes;
}

const char *dtype_name(enum dtype type)
{
    ASSERT(type < DTYPE_COUNT);
    return dtypes[type].name;
}

const char *op_name(enum op op)
{
    static const char *const names[OP_COUNT] = {
#define OP_NAME(name) #name,
        OPS(OP_NAME)
#undef OP_NAME
    };

    ASSERT(op < OP_COUNT);
    return names[op];
}
