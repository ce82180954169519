/* One path's table of operations, and what a bench asks. */
#include "compute/check.h"
#include "compute/cpu/brick.h"
#include "compute/cpu/cpu_int.h"
#include "compute/cpu/path.h"

static bool can(enum op op, const void *args, struct err *err)
{
    return op_check(op, args, false, err);
}

static size_t scratch_bytes(enum op op, const void *args, int thread_count)
{
    switch (op) {
    case OP_linear:
        return CPU(linear_scratch)(args, thread_count);
    case OP_linear_grad_in:
        return CPU(linear_grad_in_scratch)(args, thread_count);
    case OP_linear_grad_w:
        return CPU(linear_grad_w_scratch)(args, thread_count);
    case OP_qk_rope_grad:
        return CPU(qk_rope_grad_scratch)(args, thread_count);
    case OP_attend:
        return CPU(attend_scratch)(args, thread_count);
    case OP_attend_grad:
        return CPU(attend_grad_scratch)(args, thread_count);
    case OP_route:
        return CPU(route_scratch)(args, thread_count);
    case OP_loss:
        return CPU(loss_scratch)(args, thread_count);
    default:
        return 0;
    }
}

const struct cpu_path_info CPU(path) = {
    .backend = {
        .name = "cpu",
#define CPU_FIELD(op) .op = CPU(op),
        OPS(CPU_FIELD)
#undef CPU_FIELD
        .can = can,
        .scratch_bytes = scratch_bytes,
        .panel_bytes = CPU(panel_bytes),
        .lay_out = CPU(lay_out),
        .cache_bytes = CPU(cache_bytes),
    },
    .peak_block = CPU(peak_block),
    .peak_block_flops = {2.0 * VECTOR_ROWS * PANEL, HAS_TILES           ? 4.0 * 4 * TILE_ROWS * LANES * TILE_STEPS
                                                    : HAS_BF16_PRODUCTS ? 4.0 * VECTOR_ROWS * PANEL
                                                                        : 0},
};
