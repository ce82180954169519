#include "model/checkpoint_int.h"
#include "model/memory.h"

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

/* What trains in eight bits, and what does not. */
static bool check_fp8(const struct model *m, const struct model_options *options, struct err *err)
{
    if (!m->is_fp8)
        return true;
    if (options->profile == PROFILE_F64)
        return err_set(err, ERR_INPUT, "fp8 does not go with numbers of f64");
    if (m->config.quantization.is_nf4)
        return err_set(err, ERR_INPUT, "fp8 does not go with weights of four bits (quantization nf4)");
    if (m->config.moe.experts)
        return err_set(err, ERR_UNSUPPORTED, "fp8 is not supported for mixtures of experts");
    return !m->lora.is_dora || err_set(err, ERR_UNSUPPORTED, "use_dora is not supported with fp8");
}

/* What is known before memory: the config, the table of params and how the plan is asked for. */
static bool describe(struct model *m, const char *folder, const struct model_options *options, struct err *err)
{
    m->folder = arena_copy(&m->arena, folder, strlen(folder));
    m->lora = options->lora;
    m->is_trained = options->is_trained;
    m->is_fp8 = options->is_fp8 && options->is_trained;
    m->step_tokens = options->step_tokens;
    m->backend = options->backend;
    m->panel_backend = options->is_trained ? NULL : options->backend;
    m->memory = options->backend->memory;
    m->queue.device = options->device;
    m->slot_rank = options->slot_rank;
    m->queue.pool = options->pool;
    if (!config_read(&m->arena, folder, &m->config, err))
        return false;
    if (options->is_nf4 && !m->config.quantization.is_nf4)
        m->config.quantization = (struct quantization){.is_nf4 = true, .is_nested = true};
    if (options->adapter_folder && !adapter_config_read(&m->arena, options->adapter_folder, &m->lora, err))
        return false;
    if (!check_fp8(m, options, err))
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
        .is_fp8 = m->is_fp8,
        .row_tokens = options->row_tokens,
        .tokens_wanted = options->tokens_wanted,
        .step_tokens = options->step_tokens,
        .positions = options->positions,
        .head_rows = options->head_rows,
        .slot_rank = options->slot_rank,
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
                       options->is_random || options->slice, m->memory != NULL, NULL, &m->params, err);
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

/* Where the losses of passes come to: the sum of squares, then for each pass T numbers, then T bytes. */
static void place_pending(struct model *m, size_t T)
{
    size_t row_bytes = (T + 15) / 16 * 16, bytes = 64 + PENDING_MAX * (sizeof(float) + 1) * row_bytes;
    char *at = m->host_rows = m->memory->take_host(&m->queue, bytes);

    if (!at)
        at = arena_new_array(&m->arena, char, bytes);
    m->host_sumsq = (void *)at;
    at += 64;
    for (int i = 0; i < PENDING_MAX; i++) {
        m->pending[i].row_nll = (void *)at;
        m->pending[i].row_hit = (void *)(at + sizeof(float) * row_bytes);
        at += (sizeof(float) + 1) * row_bytes;
    }
}

/* The first carving tells the bytes, the second the addresses. */
static bool allocate(struct model *m, bool has_graphs, struct err *err)
{
    uint64_t scratch_bytes = 0;

    for (int i = 0; i < m->plan.region_count; i++)
        if (!strcmp(m->plan.region[i].name, "op scratch"))
            scratch_bytes = m->plan.region[i].bytes;
    model_carve(m);
    m->region_bytes[REGION_SCRATCH] = scratch_bytes;
    if (!memory_take_regions(m, err))
        return false;
    model_carve(m);
    m->region_bytes[REGION_SCRATCH] = scratch_bytes;
    m->queue.scratch = m->region[REGION_SCRATCH];
    m->queue.scratch_bytes = scratch_bytes;
    if (m->memory) {
        size_t T = (size_t)m->plan.tokens;
        m->host_batch = arena_new_array(&m->arena, int32_t, 7 * T + 1);
        place_pending(m, T);
        if (has_graphs)
            graphs_open(m);
    }
    return true;
}

static void fill_rope_tables(struct model *m)
{
    for (int i = 0; i < m->config.rope_count; i++) {
        size_t rows = (size_t)rope_table_rows(&m->config.rope[i], m->plan.positions);
        size_t count = rows * (size_t)m->config.rope[i].dim;
        float *table = mem_alloc(count * sizeof *table);
        rope_table(&m->config, i, m->plan.positions, table);
        memory_write(m, m->cos_sin[i], table, count * sizeof *table);
        free(table);
    }
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
    fill_rope_tables(m);
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
    if (!params_make(&m->arena, &m->config, options->profile, &m->lora, options->is_trained, !set,
                     m->memory != NULL, set,
                     &m->params, err))
        goto out;
    if (!make_plan(m, options, err))
        goto out;
    if (!allocate(m, options->has_graphs, err))
        goto out;
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
    memory_give_regions(m);
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
    for (int i = 0; i < m->config.rope_count; i++) {
        int32_t *row = m->memory ? m->host_batch : m->rope_row[i];
        rope_rows(&m->config.rope[i], batch, m->plan.positions, row);
        if (m->memory)
            memory_write(m, m->rope_row[i], row, (size_t)batch->T * sizeof *row);
    }
}

/* The losses of the supervised rows, added in their order. */
static void add_result(const struct model *m, const struct pending *pass)
{
    const float *row_nll = m->memory ? pass->row_nll : m->nll;
    const uint8_t *hit = m->memory ? pass->row_hit : m->hit;

    for (int32_t i = 0; i < pass->count; i++) {
        double nll = m->params.master_type == DTYPE_F64 ? ((const double *)m->nll)[i] : (double)row_nll[i];
        pass->result->loss += (double)pass->row_weight[i] * nll;
        pass->result->nll_sum += nll;
        pass->result->hit_count += hit[i];
    }
    pass->result->row_count += pass->count;
}

void model_finish(struct model *m)
{
    if (!m->pending_count)
        return;
    m->memory->wait(&m->queue);
    for (int i = 0; i < m->pending_count; i++)
        add_result(m, &m->pending[i]);
    m->pending_count = 0;
}

/* Losses and hits of the supervised rows, on their way to where the host reads them. */
static void fetch_rows(struct model *m, int32_t count)
{
    const struct pending *pass = &m->pending[m->pending_count];

    if (!m->memory)
        return;
    memory_read_later(m, pass->row_nll, m->nll, (size_t)count * sizeof(float));
    memory_read_later(m, pass->row_hit, m->hit, (size_t)count);
}

/* What the pass adds to the result: at once, or when it has come. */
static void end_pass(struct model *m, const struct batch *batch, struct model_result *result)
{
    struct pending *pass = &m->pending[m->pending_count];

    pass->row_weight = batch->row_weight;
    pass->count = batch->head_row_count;
    pass->result = result;
    if (!m->memory)
        add_result(m, pass);
    else if (++m->pending_count == PENDING_MAX)
        model_finish(m);
}

/* The load-balance loss belongs to plain training; its average over micro-batches is by tokens. */
static double balance_coefficient(const struct model *m, const struct batch *batch, const struct model_step *step)
{
    bool is_plain = step && !step->weigh && step->tokens > 0;

    return is_plain ? m->config.moe.aux_coefficient * batch->T / (double)step->tokens : 0;
}

void model_queue_pass(struct model *m, const struct batch *batch, bool has_grads, const struct model_step *step,
                      struct model_result *result)
{
    struct pass pass = {.step = has_grads ? step : NULL, .begins_grads = has_grads && m->grads_lie_over};
    struct batch weighed = graphs_batch(m, batch), here;

    ASSERT(!has_grads || m->is_trained);
    ASSERT(!pass.begins_grads || !m->has_gradients);
    m->has_gradients |= has_grads;
    check_batch(m, batch);
    place_tokens(m, &weighed);
    here = memory_batch(m, &weighed);
    pass.batch = &here;
    if (m->load.at)
        memory_zero(m, m->load.at, (size_t)m->load.rows * (size_t)m->load.ld * dtype_bytes(m->load.type));
    graphs_forward(m, &pass);
    if (pass.step && step->weigh) {
        model_finish(m);
        head_pass(m, &pass, false);
        fetch_rows(m, batch->head_row_count);
        if (m->memory)
            m->memory->wait(&m->queue);
        weighed.row_weight = step->weigh(step->context, batch);
        here = memory_batch(m, &weighed);
    }
    if (has_grads) /* rows without a label get nothing from the head */
        memory_zero(m, m->dr.at, (size_t)here.T * (size_t)m->dr.ld * dtype_bytes(m->dr.type));
    if (pass.begins_grads)
        grads_begin(m, -1, batch->head_row_count > 0);
    head_pass(m, &pass, has_grads);
    if (has_grads && m->config.moe.experts)
        result->loss += experts_balance(m, batch->T, balance_coefficient(m, batch, step));
    if (has_grads)
        graphs_backward(m, &pass);
    fetch_rows(m, batch->head_row_count);
    end_pass(m, &weighed, result);
    if (pass.step && step->weigh)
        model_finish(m);
}

void model_forward_backward(struct model *m, const struct batch *batch, bool has_grads, const struct model_step *step,
                            struct model_result *result)
{
    model_finish(m);
    model_queue_pass(m, batch, has_grads, step, result);
    model_finish(m);
}

const float *model_row_nll(const struct model *m)
{
    return m->memory ? m->pending[0].row_nll : m->nll;
}

const uint8_t *model_row_hits(const struct model *m)
{
    return m->memory ? m->pending[0].row_hit : m->hit;
}

/* From the head's own memory to the caller's. */
static void fetch_logits(struct model *m, struct mat out)
{
    struct mat logits = mat_rows(m->logits, out.rows);
    struct stretches to = {out.at, (size_t)out.ld * sizeof(float)};
    struct stretches from = {logits.at, (size_t)logits.ld * sizeof(float)};

    if (m->memory)
        m->memory->get(&m->queue, to, from, (size_t)out.cols * sizeof(float), (size_t)out.rows);
    else
        m->backend->copy(&m->queue, &(struct op_copy){.x = logits, .y = out});
}

/* Documents in a row with the same adapter are one range. */
static int32_t make_ranges(const struct batch *batch, const struct adapter *const *adapters,
                           struct adapter_range ranges[ADAPTER_RANGES_MAX])
{
    int32_t count = 0;

    for (int32_t d = 0; d < batch->doc_count; d++) {
        if (count == 0 || ranges[count - 1].adapter != adapters[d]) {
            ASSERT(count < ADAPTER_RANGES_MAX);
            ranges[count++].adapter = adapters[d];
        }
        ranges[count - 1].row_end = batch->cu_seqlens[d + 1];
    }
    return count;
}

/* By what the pass has appended: `batch` is the host's. */
static void move_caches(const struct model *m, const struct batch *batch, struct kv_cache *cache)
{
    for (int32_t l = 0; l < m->config.layers; l++)
        for (int32_t d = 0; d < batch->doc_count; d++)
            cache[l * batch->doc_count + d].length += batch->cu_seqlens[d + 1] - batch->cu_seqlens[d];
}

void model_forward(struct model *m, const struct batch *batch, struct kv_cache *cache,
                   const struct adapter *const *adapters, const int32_t *rows, int32_t row_count, float *logits)
{
    struct batch here = *batch;
    struct pass pass = {.batch = &here, .cache = cache};
    struct adapter_range ranges[ADAPTER_RANGES_MAX];
    int32_t vocab = m->config.vocab;

    if (adapters) {
        ASSERT(m->slot_rank > 0);
        pass.range_count = make_ranges(batch, adapters, ranges);
        pass.ranges = ranges;
    }

    check_batch(m, batch);
    place_tokens(m, batch);
    here.head_rows = rows;
    here.head_row_count = row_count;
    here = memory_batch(m, &here);
    forward_layers(m, &pass);
    if (cache)
        move_caches(m, batch, cache);
    for (int32_t at = 0; at < row_count; at += m->plan.head_rows) {
        int32_t n = row_count - at < m->plan.head_rows ? row_count - at : m->plan.head_rows;
        struct mat out = {logits + (size_t)at * (size_t)vocab, n, vocab, vocab, DTYPE_F32};
        if (m->memory || m->params.compute_type == DTYPE_F64) {
            forward_head(m, here.head_rows + at, n, mat_rows(m->logits, n), &pass, at);
            fetch_logits(m, out);
        } else {
            forward_head(m, rows + at, n, out, &pass, at);
        }
    }
}
