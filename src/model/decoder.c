#include "model/checkpoint_int.h"

#include <stdlib.h>
#include <string.h>

enum { SLICE_ROWS_MIN = 256 };

static int32_t share(int32_t count, int32_t slice, int32_t least)
{
    return count / slice > least ? count / slice : least < count ? least : count;
}

/* A model of the same proportions. Its layers are the first ones, so an adapter is on all of them. */
static void cut_slice(struct model *m, int32_t slice)
{
    m->config.layers = share(m->config.layers, slice, 1);
    m->config.vocab = share(m->config.vocab, slice, SLICE_ROWS_MIN);
    m->config.quantization = (struct quantization){0};
    if (slice > 1) {
        m->lora.layers = NULL;
        m->lora.rank_pattern = m->lora.alpha_pattern = (struct lora_patterns){0};
    }
}

/* What is known before memory: the config, the table of params and how the plan is asked for. */
static bool describe(struct model *m, const char *folder, const struct model_options *options, struct err *err)
{
    m->folder = arena_copy(&m->arena, folder, strlen(folder));
    m->lora = options->lora;
    m->is_trained = options->is_trained;
    m->backend = options->backend;
    m->panel_backend = options->is_trained ? NULL : options->backend;
    m->queue.pool = options->pool;
    if (!config_read(&m->arena, folder, &m->config, err))
        return false;
    if (options->is_nf4 && !m->config.quantization.is_nf4)
        m->config.quantization = (struct quantization){.is_nf4 = true, .is_nested = true};
    if (options->adapter_folder && !adapter_config_read(&m->arena, options->adapter_folder, &m->lora, err))
        return false;
    if (options->slice)
        cut_slice(m, options->slice);
    return true;
}

static struct plan_request plan_request_of(const struct model *m, const struct model_options *options)
{
    return (struct plan_request){
        .config = &m->config,
        .params = &m->params,
        .is_trained = m->is_trained,
        .row_tokens = options->row_tokens,
        .tokens_wanted = options->tokens_wanted,
        .positions = options->positions,
        .head_rows = options->head_rows,
        .limit_bytes = options->limit_bytes,
        .fixed_keep = options->fixed_keep_plus_one - 1,
        .backend = options->backend,
        .thread_count = options->pool             ? pool_thread_count(options->pool)
                        : options->thread_count ? options->thread_count
                                                : 1,
    };
}

static bool make_plan(struct model *m, const struct model_options *options, struct err *err)
{
    struct plan_request request = plan_request_of(m, options);
    bool ok;

    if (options->plan)
        m->plan = *options->plan;
    ok = options->plan ? plan_settle(&request, &m->plan, err) : plan_make(&request, &m->plan, err);
    if (ok && m->is_trained) {
        m->plan.checkpoint_bytes = checkpoint_bytes(m);
        m->plan.state_bytes = checkpoint_state_bytes(m);
    }
    return ok;
}

/* A model that reads no weights. */
static bool describe_unread(struct model *m, const char *folder, const struct model_options *options, struct err *err)
{
    return describe(m, folder, options, err) &&
           params_make(&m->arena, &m->config, options->profile, &m->lora, options->is_trained,
                       options->is_random || options->slice, NULL, &m->params, err);
}

bool model_plan(const char *folder, const struct model_options *options, struct plan *plan, struct err *err)
{
    struct model *m = mem_alloc_zero(1, sizeof *m);
    bool ok;

    ok = describe_unread(m, folder, options, err) && make_plan(m, options, err);
    *plan = m->plan;
    model_close(m);
    return ok;
}

bool model_cost(const char *folder, const struct model_options *options, const struct batch *batch,
                struct plan_cost *cost, struct err *err)
{
    struct model *m = mem_alloc_zero(1, sizeof *m);
    struct plan_request request;
    bool ok = describe_unread(m, folder, options, err);

    if (ok) {
        request = plan_request_of(m, options);
        ok = plan_cost(&request, options->plan, batch, cost, err);
    }
    model_close(m);
    return ok;
}

/* The first carving tells the bytes, the second the addresses. */
static void allocate(struct model *m)
{
    uint64_t scratch_bytes = 0;

    for (int i = 0; i < m->plan.region_count; i++)
        if (!strcmp(m->plan.region[i].name, "op scratch"))
            scratch_bytes = m->plan.region[i].bytes;
    model_carve(m);
    m->region_bytes[REGION_SCRATCH] = scratch_bytes;
    for (int i = 0; i < REGION_COUNT; i++)
        if (i != REGION_MAPPED)
            m->region[i] = mem_alloc_pages(m->region_bytes[i]);
    model_carve(m);
    m->region_bytes[REGION_SCRATCH] = scratch_bytes;
    m->queue.scratch = m->region[REGION_SCRATCH];
    m->queue.scratch_bytes = scratch_bytes;
}

static bool fill(struct model *m, const struct model_options *options, struct err *err)
{
    if (options->is_random)
        init_random(m, options->seed);
    else if (!options->slice)
        load_base(m);
    if (options->adapter_folder && !options->slice && !load_adapter(m, options->adapter_folder, err))
        return false;
    if (m->params.lora_rank && !options->adapter_folder && !options->slice)
        init_adapter(m, options->seed);
    for (int i = 0; i < m->config.rope_count; i++)
        rope_table(&m->config, i, m->plan.positions, m->cos_sin[i]);
    forward_first_gains(m);
    model_masters_changed(m);
    lay_out_panels(m);
    return true;
}

bool model_open(struct model **model, const char *folder, const struct model_options *options, struct err *err)
{
    struct model *m = mem_alloc_zero(1, sizeof *m);
    const struct safetensors_set *set = options->is_random || options->slice ? NULL : &m->set;
    bool ok = false;

    *model = NULL;
    if (!describe(m, folder, options, err))
        goto out;
    if (set && !safetensors_set_open(&m->set, &m->arena, folder, err))
        goto out;
    if (!params_make(&m->arena, &m->config, options->profile, &m->lora, options->is_trained, !set, set,
                     &m->params, err))
        goto out;
    if (!make_plan(m, options, err))
        goto out;
    allocate(m);
    if (!fill(m, options, err))
        goto out;
    *model = m;
    ok = true;
out:
    if (!ok)
        model_close(m);
    return ok;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    for (int i = 0; i < REGION_COUNT; i++)
        if (i != REGION_MAPPED && m->region[i])
            mem_free_pages(m->region[i], m->region_bytes[i]);
    safetensors_set_close(&m->set);
    arena_deinit(&m->arena);
    free(m);
}

const struct model_config *model_config(const struct model *model)
{
    return &model->config;
}

const struct params *model_params(const struct model *model)
{
    return &model->params;
}

const struct plan *model_plan_used(const struct model *model)
{
    return &model->plan;
}

const struct lora_config *model_lora(const struct model *model)
{
    return &model->lora;
}

const char *model_folder(const struct model *model)
{
    return model->folder;
}

const struct backend *model_backend(const struct model *model)
{
    return model->backend;
}

struct queue *model_queue(struct model *model)
{
    return &model->queue;
}

enum dtype model_cache_type(const struct model *model)
{
    return model->params.compute_type;
}

static void check_batch(const struct model *m, const struct batch *batch)
{
    ASSERT(batch->T > 0 && batch->T <= m->plan.tokens && batch->cu_seqlens[batch->doc_count] == batch->T);
    for (int32_t t = 0; t < batch->T; t++) {
        ASSERT(batch->tok[t] >= 0 && batch->tok[t] < m->config.vocab);
        ASSERT(batch->pos[t] >= 0 && batch->pos[t] < m->plan.positions);
    }
    for (int32_t i = 0; i < batch->head_row_count; i++)
        ASSERT(batch->label[i] >= 0 && batch->label[i] < m->config.vocab);
}

/* Which rows of the tables of positions the tokens take. */
static void place_tokens(struct model *m, const struct batch *batch)
{
    for (int i = 0; i < m->config.rope_count; i++)
        rope_rows(&m->config.rope[i], batch, m->plan.positions, m->rope_row[i]);
}

/* The losses of the supervised rows, added in their order. */
static void add_result(const struct model *m, const struct batch *batch, struct model_result *result)
{
    for (int32_t i = 0; i < batch->head_row_count; i++) {
        double nll =
            m->params.master_type == DTYPE_F64 ? ((const double *)m->nll)[i] : (double)((const float *)m->nll)[i];
        result->loss += (double)batch->row_weight[i] * nll;
        result->nll_sum += nll;
        result->hit_count += m->hit[i];
    }
    result->row_count += batch->head_row_count;
}

/* The load-balance loss belongs to plain training; its average over micro-batches is by tokens. */
static double balance_coefficient(const struct model *m, const struct batch *batch, const struct model_step *step)
{
    bool is_plain = step && !step->weigh && step->tokens > 0;

    return is_plain ? m->config.moe.aux_coefficient * batch->T / (double)step->tokens : 0;
}

void model_forward_backward(struct model *m, const struct batch *batch, bool has_grads, const struct model_step *step,
                            struct model_result *result)
{
    struct pass pass = {.batch = batch, .step = has_grads ? step : NULL};
    struct batch weighed = *batch;

    ASSERT(!has_grads || m->is_trained);
    check_batch(m, batch);
    place_tokens(m, batch);
    if (m->load.at)
        memset(m->load.at, 0, (size_t)m->load.rows * (size_t)m->load.ld * dtype_bytes(m->load.type));
    forward_layers(m, &pass);
    if (pass.step && step->weigh) {
        head_pass(m, &pass, false);
        weighed.row_weight = step->weigh(step->context, batch);
        pass.batch = &weighed;
    }
    if (has_grads) /* rows without a label get nothing from the head */
        memset(m->dr.at, 0, (size_t)batch->T * (size_t)m->dr.ld * dtype_bytes(m->dr.type));
    head_pass(m, &pass, has_grads);
    if (has_grads && m->config.moe.experts)
        result->loss += experts_balance(m, batch->T, balance_coefficient(m, batch, step));
    if (has_grads)
        backward_layers(m, &pass);
    add_result(m, pass.batch, result);
}

const float *model_row_nll(const struct model *m)
{
    return m->nll;
}

const uint8_t *model_row_hits(const struct model *m)
{
    return m->hit;
}

void model_forward(struct model *m, const struct batch *batch, struct kv_cache *cache, const int32_t *rows,
                   int32_t row_count, float *logits)
{
    struct pass pass = {.batch = batch, .cache = cache};
    int32_t vocab = m->config.vocab;

    check_batch(m, batch);
    place_tokens(m, batch);
    forward_layers(m, &pass);
    for (int32_t at = 0; at < row_count; at += m->plan.head_rows) {
        int32_t n = row_count - at < m->plan.head_rows ? row_count - at : m->plan.head_rows;
        struct mat out = {logits + (size_t)at * (size_t)vocab, n, vocab, vocab, DTYPE_F32};
        if (m->params.compute_type != DTYPE_F64) {
            forward_head(m, rows + at, n, out, &pass, at);
        } else {
            forward_head(m, rows + at, n, mat_rows(m->logits, n), &pass, at);
            m->backend->copy(&m->queue, &(struct op_copy){.x = mat_rows(m->logits, n), .y = out});
        }
    }
}
