#include "model/codes.h"

#include "compute/nf4.h"
#include "model/decoder_int.h"
#include "model/modules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 64 * 256, STATE_BYTES_MAX = 4096, NAME_BYTES = SAFETENSORS_NAME_MAX + 64, ALIGN = 64 };

bool codes_can_hold(const struct stored *stored)
{
    bool is_linear = false;

    for (int i = 0; i < LINEAR_KINDS; i++)
        is_linear |= stored->slot == linear_slot(i);
    return is_linear && stored->part == PART_W && stored->residence != IN_ARENA;
}

/* --- what lies beside codes in files --- */

const char *codes_beside_name(enum beside beside)
{
    static const char *const names[BESIDE_COUNT] = {
        [BESIDE_ABSMAX] = ".absmax",
        [BESIDE_MAP] = ".quant_map",
        [BESIDE_STATE] = ".quant_state.bitsandbytes__nf4",
        [BESIDE_NESTED_ABSMAX] = ".nested_absmax",
        [BESIDE_NESTED_MAP] = ".nested_quant_map",
    };

    return names[beside];
}

static bool refuse(const struct param *param, const char *what, struct err *err)
{
    return err_set(err, ERR_INPUT, "%s: %s", param->name, what);
}

static bool is_vector_of(const struct safetensor *tensor, enum dtype type, int64_t count)
{
    return tensor && tensor->type == type && tensor->bytes == (uint64_t)count * dtype_bytes(type);
}

static bool check_number(const struct json *state, const char *key, int64_t wanted, struct err *err)
{
    if (json_integer_or(json_get(state, key), -1) != wanted)
        return err_set(err, ERR_UNSUPPORTED, "the quant state's %s must be %d", key, (int)wanted);
    return true;
}

bool codes_state_parse(struct arena *arena, struct str text, int32_t rows, int32_t cols, bool *is_nested,
                       float *offset, struct err *err)
{
    const struct json *state = NULL, *shape, *nested_offset;

    if (text.len > STATE_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "the quant state is longer than %d bytes", STATE_BYTES_MAX);
    state = json_parse(arena, text, NULL, err);
    if (!state)
        return err_prefix(err, "the quant state");
    if (state->type != JSON_OBJECT)
        return err_set(err, ERR_INPUT, "the quant state must be an object, not %s", json_type_name(state));
    if (!json_is(json_get(state, "quant_type"), "nf4"))
        return err_set(err, ERR_UNSUPPORTED, "the quant state's quant_type must be nf4");
    if (!check_number(state, "blocksize", NF4_BLOCK, err))
        return false;
    shape = json_get(state, "shape");
    if (!json_has_type(shape, JSON_ARRAY) || shape->count != 2 || json_integer_or(json_at(shape, 0), -1) != rows ||
        json_integer_or(json_at(shape, 1), -1) != cols)
        return err_set(err, ERR_INPUT, "the quant state has another shape than config.json says: expected [%d, %d]",
                       rows, cols);
    nested_offset = json_get(state, "nested_offset");
    *is_nested = !json_is_null(nested_offset);
    if (!*is_nested)
        return true;
    if (nested_offset->type != JSON_NUMBER)
        return err_set(err, ERR_INPUT, "the quant state's nested_offset must be a number");
    *offset = (float)json_number(nested_offset);
    return check_number(state, "nested_blocksize", NF4_NESTED_BLOCK, err);
}

static bool check_scales(const struct param *param, const struct packed *packed, bool is_nested, struct err *err)
{
    int64_t blocks = nf4_blocks((int64_t)param->rows * param->cols, NF4_BLOCK);
    const struct safetensor *const *beside = packed->beside;

    if (!is_vector_of(beside[BESIDE_ABSMAX], is_nested ? DTYPE_U8 : DTYPE_F32, blocks))
        return refuse(param, "absmax is not there, or has another type or size than its blocks", err);
    if (!is_vector_of(beside[BESIDE_MAP], DTYPE_F32, NF4_CODES) ||
        memcmp(beside[BESIDE_MAP]->data, nf4_code, sizeof nf4_code) != 0)
        return refuse(param, "quant_map is not that of NF4", err);
    if (is_nested &&
        (!is_vector_of(beside[BESIDE_NESTED_ABSMAX], DTYPE_F32, nf4_blocks(blocks, NF4_NESTED_BLOCK)) ||
         !is_vector_of(beside[BESIDE_NESTED_MAP], DTYPE_F32, NF4_MAP)))
        return refuse(param, "nested_absmax or nested_quant_map is not there or has another type or size", err);
    return true;
}

bool codes_bind(struct arena *arena, const struct safetensors_set *set, bool is_nested, struct param *param,
                struct err *err)
{
    struct packed *packed = arena_new(arena, struct packed);
    const struct safetensor *state;
    char name[NAME_BYTES];
    bool has_offset;

    for (int i = 0; i < BESIDE_COUNT; i++) {
        snprintf(name, sizeof name, "%s%s", param->name, codes_beside_name(i));
        packed->beside[i] = safetensors_set_find(set, name);
    }
    state = packed->beside[BESIDE_STATE];
    if (!state || state->type != DTYPE_U8)
        return refuse(param, "it is U8 without a quant_state of NF4 beside it", err);
    if (param->file->bytes != (uint64_t)nf4_code_bytes((int64_t)param->rows * param->cols))
        return refuse(param, "it has another size than config.json says", err);
    if (!codes_state_parse(arena, (struct str){state->data, state->bytes}, param->rows, param->cols, &has_offset,
                           &packed->offset, err))
        return err_prefix(err, "%s", param->name);
    if (has_offset != is_nested)
        return refuse(param, "its quant state and config.json disagree about double quantization", err);
    param->packed = packed;
    return check_scales(param, packed, is_nested, err);
}

/* --- in memory --- */

/* Bytes from the beginning of a param's share. */
struct layout {
    uint64_t absmax, nested, map, end; /* codes come first */
};

static uint64_t take(uint64_t *end, uint64_t bytes)
{
    uint64_t at = *end;

    *end += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

static struct layout layout_of(const struct param *param, const struct quantization *quantization, bool is_copied)
{
    int64_t count = (int64_t)param->rows * param->cols, blocks = nf4_blocks(count, NF4_BLOCK);
    struct layout layout = {0};

    if (!quantization->is_in_file || is_copied)
        take(&layout.end, (uint64_t)nf4_code_bytes(count));
    if (!quantization->is_nested) {
        layout.absmax = take(&layout.end, 4 * (uint64_t)blocks);
        return layout;
    }
    layout.absmax = take(&layout.end, 4 * (uint64_t)nf4_blocks(blocks, NF4_NESTED_BLOCK));
    layout.nested = take(&layout.end, (uint64_t)blocks);
    layout.map = take(&layout.end, 4 * NF4_MAP);
    return layout;
}

uint64_t codes_bytes(const struct param *param, const struct quantization *quantization, bool is_copied)
{
    return layout_of(param, quantization, is_copied).end;
}

static void copy_packed(const struct param *param, bool is_nested, struct layout layout, char *at)
{
    const struct safetensor *const *beside = param->packed->beside;
    const struct safetensor *absmax = beside[is_nested ? BESIDE_NESTED_ABSMAX : BESIDE_ABSMAX];

    memcpy(at + layout.absmax, absmax->data, absmax->bytes);
    if (!is_nested)
        return;
    memcpy(at + layout.nested, beside[BESIDE_ABSMAX]->data, beside[BESIDE_ABSMAX]->bytes);
    memcpy(at + layout.map, beside[BESIDE_NESTED_MAP]->data, beside[BESIDE_NESTED_MAP]->bytes);
}

void codes_quantize(const void *values, enum dtype type, int64_t count, uint8_t *codes, float *absmax)
{
    float *chunk = mem_alloc(CHUNK * sizeof *chunk);

    for (int64_t i = 0; i < count; i += CHUNK) {
        int64_t here = count - i < CHUNK ? count - i : CHUNK;
        convert(chunk, DTYPE_F32, (const char *)values + (size_t)i * dtype_bytes(type), type, (size_t)here);
        nf4_quantize(chunk, here, codes + i / 2, absmax + i / NF4_BLOCK);
    }
    free(chunk);
}

/* With double quantization. */
static void quantize(const struct param *param, struct layout layout, char *at, float *offset)
{
    int64_t count = (int64_t)param->rows * param->cols, blocks = nf4_blocks(count, NF4_BLOCK);
    float *absmax = mem_alloc((size_t)blocks * sizeof *absmax);

    codes_quantize(param->file->data, param->file_type, count, (uint8_t *)at, absmax);
    nf4_make_map((float *)(at + layout.map));
    nf4_nest(absmax, blocks, (float *)(at + layout.map), (uint8_t *)at + layout.nested, (float *)(at + layout.absmax),
             offset);
    free(absmax);
}

void codes_load(const struct param *param, const struct quantization *quantization, bool is_copied, char *share,
                char *at)
{
    struct layout layout = layout_of(param, quantization, is_copied);
    struct nf4 *nf4 = param->codes;

    *nf4 = (struct nf4){.count = (int64_t)param->rows * param->cols};
    nf4->codes = param->packed && !is_copied ? param->file->data : (const uint8_t *)at;
    nf4->absmax = (const float *)(at + layout.absmax);
    if (quantization->is_nested) {
        nf4->nested = (const uint8_t *)at + layout.nested;
        nf4->map = (const float *)(at + layout.map);
    }
    if (param->packed) {
        if (is_copied)
            memcpy(share, param->file->data, param->file->bytes);
        copy_packed(param, quantization->is_nested, layout, share);
        nf4->offset = param->packed->offset;
    } else {
        quantize(param, layout, share, &nf4->offset);
    }
}
