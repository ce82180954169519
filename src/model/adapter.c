#include "model/adapter.h"
#include "model/checkpoint.h"
#include "model/decoder_int.h"

#include <stdlib.h>
#include <string.h>

/* Of the model nothing is there but the adapter's matrices. */
struct adapter {
    struct model model;
};

static bool check_kind(const struct lora_config *lora, struct err *err)
{
    if (lora->is_dora)
        return err_set(err, ERR_UNSUPPORTED, "an adapter with DoRA needs a process of its own");
    return !lora->saved.count ||
           err_set(err, ERR_UNSUPPORTED, "an adapter with modules_to_save needs a process of its own");
}

static bool check_matrices(const struct model *m, int32_t slot_rank, struct err *err)
{
    for (int i = 0; i < m->params.stored_count; i++) {
        const struct stored *stored = &m->params.stored[i];
        if (stored->part != PART_A)
            continue;
        if (stored->slot == SLOT_EMBED || stored->slot == SLOT_HEAD)
            return err_set(err, ERR_UNSUPPORTED, "an adapter on embeddings or head needs a process of its own");
        if (stored->rows > slot_rank * slot_part_count(&m->config, stored->slot))
            return err_set(err, ERR_UNSUPPORTED, "an adapter of a rank above %d needs a process of its own", slot_rank);
    }
    return true;
}

static enum model_profile profile_of(const struct params *params)
{
    return params->compute_type == DTYPE_F64    ? PROFILE_F64
           : params->compute_type == DTYPE_BF16 ? PROFILE_BF16
                                                : PROFILE_F32;
}

static bool describe(struct model *m, struct model *base, const char *folder, struct err *err)
{
    const struct safetensors_set *set = base->set.count ? &base->set : NULL;

    m->config = base->config;
    m->folder = base->folder;
    m->backend = base->backend;
    m->panel_backend = base->panel_backend;
    m->memory = base->memory;
    m->queue = base->queue;
    return adapter_config_read(&m->arena, folder, &m->lora, err) && check_kind(&m->lora, err) &&
           params_make(&m->arena, &m->config, profile_of(&base->params), &m->lora, false, !set, base->memory != NULL,
                       set, &m->params, err) &&
           check_matrices(m, base->slot_rank, err);
}

static const enum region_id regions[] = {REGION_FROZEN, REGION_PANELS};

enum { ADAPTER_REGIONS = sizeof regions / sizeof *regions };

/* The first carving tells the bytes, the second the addresses. */
static bool allocate(struct model *m, struct err *err)
{
    adapter_carve(m);
    for (int i = 0; i < ADAPTER_REGIONS; i++) {
        uint64_t bytes = m->region_bytes[regions[i]];
        m->region[regions[i]] = m->memory ? m->memory->take(&m->queue, bytes) : mem_alloc_pages(bytes);
        if (bytes && !m->region[regions[i]])
            return err_set(err, ERR_LIMIT, "the device has no room for an adapter of %llu MiB",
                           (unsigned long long)(bytes >> 20));
    }
    adapter_carve(m);
    return true;
}

bool adapter_open(struct adapter **adapter, struct model *base, const char *folder, struct err *err)
{
    struct adapter *a = mem_alloc_zero(1, sizeof *a);

    ASSERT(base->slot_rank > 0 && !base->is_trained && !base->params.lora_rank);
    *adapter = NULL;
    if (!describe(&a->model, base, folder, err)) {
        adapter_close(a);
        return false;
    }
    if (!allocate(&a->model, err) || !load_adapter(&a->model, folder, err)) {
        adapter_close(a);
        return false;
    }
    lay_out_panels(&a->model);
    *adapter = a;
    return true;
}

void adapter_close(struct adapter *a)
{
    if (!a)
        return;
    for (int i = 0; i < ADAPTER_REGIONS; i++)
        if (a->model.memory)
            a->model.memory->give(&a->model.queue, a->model.region[regions[i]]);
        else
            mem_free_pages(a->model.region[regions[i]], a->model.region_bytes[regions[i]]);
    arena_deinit(&a->model.arena);
    free(a);
}

uint64_t adapter_bytes(const struct adapter *a)
{
    return a->model.region_bytes[REGION_FROZEN] + a->model.region_bytes[REGION_PANELS];
}

const struct weight *adapter_weight(const struct adapter *a, int32_t layer, enum linear linear)
{
    const struct weight *weight = a ? &a->model.layer[layer].linear[linear].weight : NULL;

    return weight && weight->a.rows ? weight : NULL;
}

/* An adapter that is as wide as there is room for, less `lost` columns. Its numbers are
 * nowhere: they are only counted. */
static struct weight widest(const struct model *m, const struct weight *base, enum linear linear, int32_t lost)
{
    int32_t R = m->slot_rank * slot_part_count(&m->config, linear_slot(linear)) - lost;
    struct weight w = {.lora_scale = 1};

    w.a = (struct mat){base->w.at, R, base->w.cols, base->w.cols, m->params.compute_type};
    w.b = (struct mat){base->w.at, base->w.rows, R, R, m->params.compute_type};
    return w;
}

/* Layers of experts lack some products. */
static const struct layer *layer_with(const struct model *m, enum linear linear)
{
    for (int32_t l = 0; l < m->config.layers; l++)
        if (m->layer[l].linear[linear].weight.w.rows)
            return &m->layer[l];
    return NULL;
}

static void probe_linear(struct model *m, const struct layer *layer, enum linear linear, int32_t T)
{
    const struct mat in[] = {layer->y1, layer->att, layer->y2, m->h};
    const struct mat out[] = {layer->qkv, layer->o.at ? layer->o : layer->x, layer->gate_up,
                              layer->down.at ? layer->down : layer->x};
    struct weight base = layer->linear[linear].weight, all = widest(m, &base, linear, 0);
    struct weight odd = widest(m, &base, linear, 1);
    struct adapter_rows rows[] = {{&all, T - 1}, {odd.a.rows ? &odd : NULL, T}};

    m->backend->linear(&m->queue, &(struct op_linear){.x = mat_rows(in[linear], T), .y = mat_rows(out[linear], T),
                                                      .w = &base, .adapters = rows, .adapter_count = 2});
}

void adapter_probe(struct model *m, const struct pass *pass)
{
    for (int i = 0; i < LINEAR_KINDS; i++)
        if (layer_with(m, i))
            probe_linear(m, layer_with(m, i), i, pass->batch->T);
}
