#include "model/decoder_int.h"

#include "compute/count/count.h"
#include "os/process.h"

#include <stdio.h>
#include <string.h>

/* More tokens than TOKENS_MOST at once fill no product better. Each chunk of head rows passes over the head's weights
 * and their gradients once: the more rows share that, the better, as far as their logits have room. */
enum { TOKENS_MOST = 2048, HEAD_ROWS_MIN = 64, HEAD_BYTES = 256 << 20 };
enum { FAKE_BASE = 1 << 20 };
/* A device fills its units with more. */
enum { DEVICE_TOKENS_MOST = 16384, DEVICE_HEAD_ROWS_MAX = 8192, DEVICE_HEAD_BYTES = 1 << 30 };

struct planner {
    const struct plan_request *request;
    struct plan *plan;
    struct model model; /* carved over addresses that do not exist */
    struct batch batch;
    int32_t cu_seqlens[2];
    int32_t probed_tokens, probed_rows;
    uint64_t scratch_bytes;
};

/* The optimizer's operations on none of the arenas' elements. */
static void probe_update(struct model *m)
{
    uint64_t last = m->params.arena_count - 1;
    enum dtype type = params_arena_type(&m->params, last), moment_type = params_moment_type(&m->params, last);

    if (type == DTYPE_F64)
        return;
    m->backend->sumsq(&m->queue, &(struct op_sumsq){.type = type});
    m->backend->adamw(
        &m->queue, &(struct op_adamw){.master_type = type, .moment_type = moment_type, .grad_type = type, .step = 1});
}

/* Queues one whole pass on the counting backend: what ops cannot do is refused here, and their scratch is known. */
static bool probe(struct planner *p, struct err *err)
{
    struct model *m = &p->model;
    struct count count = {.of = p->request->backend, .thread_count = p->request->thread_count};
    struct pass pass = {.batch = &p->batch, .step = &(struct model_step){0}};
    int32_t rows = m->plan.head_rows;

    if (p->probed_tokens == m->plan.tokens && p->probed_rows == rows)
        return true;
    p->cu_seqlens[1] = m->plan.tokens;
    p->batch = (struct batch){.T = m->plan.tokens, .doc_count = 1, .cu_seqlens = p->cu_seqlens, .head_row_count = rows};
    m->backend = &backend_count;
    m->queue.state = &count;
    if (m->slot_rank)
        adapter_probe(m, &pass);
    forward_layers(m, &pass);
    head_pass(m, &pass, m->is_trained);
    if (m->is_trained) {
        backward_layers(m, &pass);
        probe_update(m);
    }
    if (count.is_refused) {
        *err = count.err;
        return err_prefix(err, "the %s backend cannot run this model", p->request->backend->name);
    }
    p->scratch_bytes = count.scratch_bytes;
    p->probed_tokens = m->plan.tokens;
    p->probed_rows = rows;
    return true;
}

static const struct {
    const char *name;
    enum plan_part part;
} region_kinds[] = {
#define REGION_KIND(id, name, part) {name, PLAN_##part},
    REGIONS(REGION_KIND)
#undef REGION_KIND
};

/* Where a region's bytes come from, in words. */
static void region_formula(const struct model *m, enum region_id id, char *text, size_t size)
{
    const struct params *params = &m->params;
    size_t master = dtype_bytes(params->master_type), compute = dtype_bytes(params->compute_type);
    uint64_t short_count = params->arena_count - params->short_from;

    if ((id == REGION_MOMENT_M || id == REGION_MOMENT_V) && params->has_byte_moments)
        snprintf(text, size, "%llu elements x 1 and a scale of 4 for each 256, %llu x %zu",
                 (unsigned long long)short_count, (unsigned long long)params->short_from, master);
    else if (id <= REGION_MOMENT_V && short_count)
        snprintf(text, size, "%llu elements x 2, %llu x %zu", (unsigned long long)short_count,
                 (unsigned long long)params->short_from, master);
    else if (id == REGION_GRADS && m->grads_lie_over)
        snprintf(text, size, "%llu elements x %zu, as far as they do not lie over activations",
                 (unsigned long long)params->arena_count, master);
    else if (id <= REGION_MOMENT_V)
        snprintf(text, size, "%llu elements x %zu", (unsigned long long)params->arena_count, master);
    else if (id == REGION_COPY)
        snprintf(text, size, "%llu elements x %zu", (unsigned long long)(params->arena_count - params->copy_from),
                 compute);
    else if (id == REGION_FROZEN)
        snprintf(text, size, m->config.quantization.is_nf4 ? "base weights of four bits and their scales, norms"
                                                           : "base weights in another type or order than the file's");
    else if (id == REGION_MAPPED)
        snprintf(text, size, "base weights used in the file");
    else if (id == REGION_PANELS)
        snprintf(text, size, "base weights once more, in the order of the products");
    else if (id == REGION_KEPT)
        snprintf(text, size, "%d tokens x %d layers", m->plan.tokens, m->config.layers);
    else if (id == REGION_WORKING)
        snprintf(text, size, "%d tokens, one layer and its gradients", m->plan.tokens);
    else if (id == REGION_HEAD)
        snprintf(text, size, "%d rows x %d logits x %zu", m->plan.head_rows, m->config.vocab, master);
    else if (id == REGION_TABLES)
        snprintf(text, size, "cosines and sines of %d positions, losses, partial sums", m->plan.positions);
    else
        snprintf(text, size, "the largest of any operation%s", m->is_fp8 ? ", products in eight bits among them" : "");
}

bool region_is_on_host(const struct model *m, enum region_id id)
{
    return m->plan.moments_on_host && (id == REGION_MOMENT_M || id == REGION_MOMENT_V);
}

static void describe(const struct model *m, struct plan *plan)
{
    plan->region_count = 0;
    for (int i = 0; i < REGION_COUNT; i++) {
        struct plan_region *region = &plan->region[plan->region_count];
        if (!m->region_bytes[i])
            continue;
        *region = (struct plan_region){.name = region_kinds[i].name,
                                       .part = region_kinds[i].part,
                                       .bytes = m->region_bytes[i],
                                       .is_on_host = region_is_on_host(m, i)};
        region_formula(m, i, region->formula, sizeof region->formula);
        plan->region_count++;
    }
}

const char *plan_part_name(enum plan_part part)
{
    static const char *const names[] = {
#define PART_NAME(id, name) name,
        PLAN_PARTS(PART_NAME)
#undef PART_NAME
    };

    return names[part];
}

uint64_t plan_part_bytes(const struct plan *plan, enum plan_part part)
{
    uint64_t bytes = 0;

    for (int i = 0; i < plan->region_count; i++)
        if (plan->region[i].part == part && !plan->region[i].is_on_host)
            bytes += plan->region[i].bytes;
    return bytes;
}

/* Of the host, or of what operations work on. */
static uint64_t bytes_of(const struct model *m, bool is_on_host)
{
    uint64_t total = 0;

    for (int i = 0; i < REGION_COUNT; i++)
        total += region_is_on_host(m, i) == is_on_host ? m->region_bytes[i] : 0;
    return total;
}

static uint64_t total_bytes(const struct model *m)
{
    return bytes_of(m, false);
}

/* Works out the present choice. *fits tells whether it is within the limit; false only when an op refuses. */
static bool weigh(struct planner *p, bool *fits, struct err *err)
{
    struct model *m = &p->model;

    model_carve(m);
    if (!probe(p, err))
        return false;
    m->region_bytes[REGION_SCRATCH] = p->scratch_bytes;
    *fits = !p->request->limit_bytes || total_bytes(m) <= p->request->limit_bytes;
    return true;
}

static void keep_in_first(struct planner *p, int32_t layers, uint8_t keep, uint8_t keep_in_rest)
{
    for (int32_t l = 0; l < p->model.config.layers; l++)
        p->model.plan.keep[l] = l < layers ? keep : keep_in_rest;
}

/* Takes `lost` from as few layers as make it fit, from all when that does not suffice. */
static bool give_up(struct planner *p, uint8_t lost, bool *fits, struct err *err)
{
    int32_t low = 0, high = p->model.config.layers;
    uint8_t before = p->model.plan.keep[high - 1], after = before & (uint8_t)~lost;

    if (*fits || !p->request->is_trained)
        return true;
    while (low < high) {
        int32_t middle = (low + high) / 2;
        keep_in_first(p, middle, after, before);
        if (!weigh(p, fits, err))
            return false;
        if (*fits)
            high = middle;
        else
            low = middle + 1;
    }
    keep_in_first(p, low, after, before);
    return weigh(p, fits, err);
}

static bool shrink(struct planner *p, int32_t *value, int32_t least, bool *fits, struct err *err)
{
    while (!*fits && *value > least) {
        *value = *value / 2 > least ? *value / 2 : least;
        if (!weigh(p, fits, err))
            return false;
    }
    return true;
}

static int32_t largest(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static int32_t smallest(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t first_head_rows(const struct model *m, const struct plan_request *request)
{
    uint64_t row_bytes = (uint64_t)m->config.vocab * dtype_bytes(m->params.master_type);
    uint64_t rows = (uint64_t)(m->memory ? DEVICE_HEAD_BYTES : HEAD_BYTES) / row_bytes / 16 * 16;
    uint64_t most = m->memory ? DEVICE_HEAD_ROWS_MAX : TOKENS_MOST;

    if (request->head_rows)
        return request->head_rows;
    rows = rows < HEAD_ROWS_MIN ? HEAD_ROWS_MIN : rows > most ? most : rows;
    return smallest((int32_t)rows, m->plan.tokens);
}

/* Computing norms again takes half a percent of a step on a processor and saves a seventh of the activations: worth it
 * beside the state of a whole model, which leaves little room. */
static uint8_t first_keep(const struct model *m)
{
    return m->memory || m->params.lora_rank ? KEEP_ALL : KEEP_ALL & ~(KEEP_NORM1 | KEEP_NORM2);
}

static bool choose(struct planner *p, bool *fits, struct err *err)
{
    const struct plan_request *request = p->request;
    struct plan *plan = &p->model.plan;
    int32_t rows_least = request->head_rows ? request->head_rows : smallest(plan->head_rows, HEAD_ROWS_MIN);

    keep_in_first(p, p->model.config.layers,
                  request->fixed_keep >= 0 ? (uint8_t)request->fixed_keep : first_keep(&p->model), 0);
    if (!weigh(p, fits, err))
        return false;
    if (request->fixed_keep >= 0)
        return true;
    return give_up(p, KEEP_NORM1 | KEEP_NORM2, fits, err) &&
           shrink(p, &plan->tokens, largest(request->row_tokens, TOKENS_ENOUGH), fits, err) &&
           shrink(p, &plan->head_rows, rows_least, fits, err) && give_up(p, KEEP_GATE_UP, fits, err) &&
           give_up(p, KEEP_QKV, fits, err) && give_up(p, KEEP_ATTENTION | KEEP_MIDDLE | KEEP_MLP, fits, err) &&
           shrink(p, &plan->tokens, request->row_tokens, fits, err);
}

static void planner_init(struct planner *p, const struct plan_request *request)
{
    *p = (struct planner){.request = request};
    p->model.config = *request->config;
    p->model.params = *request->params;
    p->model.is_trained = request->is_trained;
    p->model.is_fp8 = request->is_fp8;
    p->model.panel_backend = request->is_trained ? NULL : request->backend;
    p->model.memory = request->backend->memory;
    p->model.slot_rank = request->slot_rank;
    p->model.step_tokens = request->step_tokens;
    for (int i = 0; i < REGION_COUNT; i++)
        p->model.region[i] = (char *)(uintptr_t)FAKE_BASE;
}

static bool check_request(const struct plan_request *request, struct err *err)
{
    int32_t positions = largest(request->positions, request->row_tokens);

    if (request->row_tokens < 1)
        return err_set(err, ERR_INPUT, "context_length must be at least 1");
    if (positions > request->config->positions_max)
        return err_set(err, ERR_INPUT,
                       "%d positions are asked for but the model's max_position_embeddings is %d; choose a smaller "
                       "context_length",
                       positions, request->config->positions_max);
    return true;
}

static double gigabytes(uint64_t bytes)
{
    return (double)bytes / 1e9;
}

static bool refuse(const struct planner *p, struct err *err)
{
    const struct model *m = &p->model;
    uint64_t state = 0, need = total_bytes(m);

    for (int i = REGION_MASTERS; i <= REGION_COPY; i++)
        state += region_is_on_host(m, i) ? 0 : m->region_bytes[i];
    return err_set(
        err, ERR_NO_SPACE,
        "%s %s with rows of %d tokens needs at least %.2f GB but the limit is %.2f GB (%.2f GB are "
        "weights, gradients and moments, %.2f GB activations); choose %sa smaller context_length%s or a higher memory "
        "limit",
        m->is_trained ? "training" : "running", m->config.model_type, p->request->row_tokens, gigabytes(need),
        gigabytes(p->request->limit_bytes), gigabytes(state),
        gigabytes(m->region_bytes[REGION_KEPT] + m->region_bytes[REGION_WORKING]),
        m->is_trained && !m->params.lora_rank ? "lora instead of full training, " : "",
        m->params.compute_type == DTYPE_F32 ? ", dtype bfloat16" : "");
}

static void settle(const struct planner *p, struct plan *plan)
{
    *plan = p->model.plan;
    describe(&p->model, plan);
    plan->total_bytes = total_bytes(&p->model);
    plan->host_bytes = bytes_of(&p->model, true);
    plan->limit_bytes = p->request->limit_bytes;
}

/* The most that is useful. */
static void begin_choice(struct planner *p)
{
    const struct plan_request *request = p->request;
    struct plan *choice = &p->model.plan;

    choice->tokens =
        smallest(largest(request->tokens_wanted, request->row_tokens),
                 largest(request->row_tokens, p->model.memory ? DEVICE_TOKENS_MOST : TOKENS_MOST));
    choice->positions = largest(request->positions, request->row_tokens);
    choice->head_rows = first_head_rows(&p->model, request);
}

/* The last resort; they may take half of the host's memory. */
static bool move_moments(struct planner *p, bool *fits, struct err *err)
{
    struct model *m = &p->model;
    uint64_t moments = m->region_bytes[REGION_MOMENT_M] + m->region_bytes[REGION_MOMENT_V];

    if (*fits || !m->memory || !m->is_trained || p->request->fixed_keep >= 0 || !host_has_room(moments, 2))
        return true;
    m->plan.moments_on_host = true;
    begin_choice(p);
    return choose(p, fits, err);
}

bool plan_make(const struct plan_request *request, struct plan *plan, struct err *err)
{
    struct planner p;
    bool fits = false, ok = false;

    planner_init(&p, request);
    if (!check_request(request, err))
        goto out;
    begin_choice(&p);
    if (!choose(&p, &fits, err) || !move_moments(&p, &fits, err))
        goto out;
    settle(&p, plan);
    ok = fits || refuse(&p, err);
out:
    arena_deinit(&p.model.arena);
    return ok;
}

bool plan_settle(const struct plan_request *request, struct plan *plan, struct err *err)
{
    struct planner p;
    bool fits = false, ok = false;

    planner_init(&p, request);
    if (!check_request(request, err))
        goto out;
    p.model.plan = *plan;
    if (!weigh(&p, &fits, err))
        goto out;
    settle(&p, plan);
    ok = fits || refuse(&p, err);
out:
    arena_deinit(&p.model.arena);
    return ok;
}

bool plan_cost(const struct plan_request *request, const struct plan *plan, const struct batch *batch,
               struct plan_cost *cost, struct err *err)
{
    struct count count = {.of = request->backend, .thread_count = request->thread_count};
    struct pass pass = {.batch = batch, .step = &(struct model_step){0}};
    struct planner p;
    struct model *m = &p.model;

    planner_init(&p, request);
    m->plan = *plan;
    m->backend = &backend_count;
    m->queue.state = &count;
    *cost = (struct plan_cost){.parameters = m->params.total_count, .trained_parameters = m->params.trained_count};
    model_carve(m);
    forward_layers(m, &pass);
    cost->forward_flops = count_flops(&count);
    head_pass(m, &pass, false);
    cost->head_flops = count_flops(&count) - cost->forward_flops;
    cost->flops = -cost->head_flops;
    head_pass(m, &pass, m->is_trained);
    if (m->is_trained)
        backward_layers(m, &pass);
    cost->flops += count_flops(&count);
    arena_deinit(&m->arena);
    if (count.is_refused)
        *err = count.err;
    return !count.is_refused;
}
