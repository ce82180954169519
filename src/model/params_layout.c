/* Where each stored weight lives: in the arenas of what trains, among the frozen ones, or in the file. */
#include "compute/eight_bit.h"
#include "compute/nf4.h"
#include "model/codes.h"
#include "model/modules.h"
#include "model/params_int.h"

enum { STORED_ALIGN = 64 }; /* bytes of frozen weights, elements of trained ones */

/* Frozen and whole in one file tensor of a type that the ops read: used where it is mapped. */
static bool is_usable_in_file(const struct builder *b, const struct param *param, const struct stored *stored)
{
    bool is_lookup = stored->slot == SLOT_EMBED && has_own_head(b) && param->file_type != DTYPE_F16;

    if (stored->part != PART_W || stored->is_saved || param->experts ||
        slot_part_count(b->config, stored->slot) != 1 || b->profile == PROFILE_F64)
        return false;
    if (param->file && (uintptr_t)param->file->data % dtype_bytes(param->file_type))
        return false;
    return param->file_type == stored->type || is_lookup;
}

static uint64_t align_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

void params_settle(struct builder *b)
{
    for (int i = 0; i < b->out->count; i++) {
        const struct param *param = &b->out->param[i];
        struct stored *stored = &b->out->stored[param->stored];
        if (b->config->quantization.is_nf4 && codes_can_hold(stored)) {
            stored->residence = IN_CODES;
        } else if (stored->residence == IN_FROZEN && !b->out->is_copied && is_usable_in_file(b, param, stored)) {
            stored->residence = IN_FILE;
            stored->type = param->file_type;
        }
    }
}

/* Room for the codes of one more param of a stored weight; params come in the order of their rows. */
static void lay_out_codes(struct builder *b, struct param *param, struct stored *stored)
{
    const struct quantization *quantization = &b->config->quantization;
    size_t count = (size_t)slot_part_count(b->config, stored->slot);

    if (!stored->codes) {
        stored->codes = arena_new_array(b->arena, struct nf4, count);
        stored->code_row_end = arena_new_array(b->arena, int32_t, count);
    }
    param->codes = &stored->codes[stored->code_count];
    param->codes_at = b->out->frozen_bytes;
    b->out->frozen_bytes =
        align_up(b->out->frozen_bytes + codes_bytes(param, quantization, b->out->is_copied), STORED_ALIGN);
    if (quantization->is_in_file && !b->out->is_copied)
        b->out->file_code_bytes += (uint64_t)nf4_code_bytes((int64_t)param->rows * param->cols);
    stored->code_row_end[stored->code_count++] = param->row_at + param->rows;
}

/* Where operations have a memory of their own a frozen weight has its adapter in the same
 * rectangle, B behind its columns and A below its rows: one product over both serves a product and
 * its adapter. Rows begin at whole cache lines. */
static void make_room(struct builder *b, struct stored *stored)
{
    bool is_product = stored->part == PART_W && (stored->slot == SLOT_QKV || stored->slot == SLOT_O ||
                                                 stored->slot == SLOT_GATE_UP || stored->slot == SLOT_DOWN);
    int a = b->stored_at[stored_key(stored->slot, stored->layer, PART_A)] - 1;

    if (!is_product || a < 0 || !b->is_trained || !b->out->is_copied || b->out->has_dora)
        return;
    stored->joined = b->out->stored[a].rows;
    stored->ld = (stored->cols + stored->joined + 31) / 32 * 32;
}

/* `to` elements of those that share a scale, or a cache line, from the start of the arena or of its short part. */
static void place_in_arena(struct builder *b, struct stored *stored, uint64_t to)
{
    struct params *out = b->out;

    stored->at = out->arena_count;
    out->arena_count += align_up((uint64_t)stored->rows * (uint64_t)stored->cols, to);
    stored->end = out->arena_count;
    if (stored->slot == SLOT_EMBED && stored->part != PART_B && has_own_head(b))
        out->copy_from = out->arena_count;
}

/* Vectors before all others where these are short. */
static void lay_out_arena(struct builder *b)
{
    struct params *out = b->out;

    for (int i = 0; i < out->stored_count; i++)
        if (out->stored[i].residence == IN_ARENA && (!has_short_state(b) || slot_is_vector(out->stored[i].slot)))
            place_in_arena(b, &out->stored[i], STORED_ALIGN);
    out->short_from = out->arena_count;
    for (int i = 0; has_short_state(b) && i < out->stored_count; i++)
        if (out->stored[i].residence == IN_ARENA && !slot_is_vector(out->stored[i].slot))
            place_in_arena(b, &out->stored[i], out->has_byte_moments ? EIGHT_BIT_BLOCK : STORED_ALIGN);
}

uint64_t params_arena_bytes(const struct params *params, uint64_t at)
{
    uint64_t wide = at < params->short_from ? at : params->short_from;

    return wide * dtype_bytes(params->master_type) + (at - wide) * dtype_bytes(DTYPE_BF16);
}

enum dtype params_arena_type(const struct params *params, uint64_t at)
{
    return at < params->short_from ? params->master_type : DTYPE_BF16;
}

enum dtype params_moment_type(const struct params *params, uint64_t at)
{
    return params->has_byte_moments && at >= params->short_from ? DTYPE_U8 : params_arena_type(params, at);
}

uint64_t params_moment_bytes(const struct params *params, uint64_t at)
{
    uint64_t wide = at < params->short_from ? at : params->short_from;

    return params->has_byte_moments ? wide * dtype_bytes(params->master_type) + (at - wide)
                                    : params_arena_bytes(params, at);
}

uint64_t params_scale_count(const struct params *params)
{
    return params->has_byte_moments ? eight_bit_blocks(params->arena_count - params->short_from) : 0;
}

uint64_t params_moments_whole(const struct params *params)
{
    return params_moment_bytes(params, params->arena_count) + params_scale_count(params) * sizeof(float);
}

void params_lay_out(struct builder *b)
{
    struct params *out = b->out;

    lay_out_arena(b);
    for (int i = 0; i < out->stored_count; i++) {
        struct stored *stored = &out->stored[i];
        uint64_t count = (uint64_t)stored->rows * (uint64_t)stored->cols;
        if (stored->residence == IN_FROZEN) {
            make_room(b, stored);
            count = (uint64_t)(stored->rows + stored->joined) * (uint64_t)stored->ld;
            stored->at = out->frozen_bytes;
            out->frozen_bytes = align_up(out->frozen_bytes + count * dtype_bytes(stored->type), STORED_ALIGN);
        }
    }
    for (int i = 0; i < out->count; i++) {
        struct param *param = &out->param[i];
        uint64_t count = (uint64_t)param->rows * (uint64_t)param->cols;
        if (out->stored[param->stored].residence == IN_CODES)
            lay_out_codes(b, param, &out->stored[param->stored]);
        out->total_count += count;
        out->trained_count += out->param[i].is_trained ? count : 0;
    }
}
