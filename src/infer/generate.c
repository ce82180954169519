#include "infer/generate.h"
#include "base/arena.h"
#include "infer/kept.h"

#include <stdlib.h>
#include <string.h>

/* Keys of documents beyond the length of the short factors are turned by others: they have scopes of their own. */
enum { SHORT = 's', LONG = 'l' };

struct sequence {
    struct sequence_request request;
    sequence_fn *on_token;
    void *context;
    char *scope;      /* SHORT or LONG, then the request's; NULL: nothing is shared */
    int32_t *token;   /* the prompt, then what was drawn */
    int32_t count;    /* of them */
    int32_t position; /* those that were run: their keys and values are there */
    int32_t shared_count, drawn_count;
    int64_t turn; /* prompts with less come first */
    struct model_cache *cache;
    int32_t step_tokens; /* taken by the step that runs */
    int32_t step_row;    /* of the step's logits; -1: its prompt goes on */
};

struct generator {
    struct model *model;
    int32_t tokens, prompt_tokens, vocab, layers;
    int32_t short_most; /* longer sequences turn by other factors (rope_short_most) */
    struct sequence *sequence[SEQUENCES_MAX];
    int count, next;        /* next: where the next step begins to take drawn tokens, should not all find room */
    int64_t prompts_run;    /* tokens of prompts so far: the clock of their turns */
    float *logits;          /* [SEQUENCES_MAX, vocab] */
    uint64_t *order;        /* [2 · vocab] */
    struct kept *kept;
    struct kv_cache *cache; /* [layers · SEQUENCES_MAX] of a step */
    struct arena step;
};

struct generator *generator_new(struct model *model, int32_t tokens, int32_t prompt_tokens, uint64_t kept_bytes)
{
    const struct model_config *config = model_config(model);
    struct generator *g = mem_alloc_zero(1, sizeof *g);

    g->model = model;
    g->tokens = tokens;
    g->prompt_tokens = prompt_tokens < tokens ? prompt_tokens : tokens;
    g->vocab = config->vocab;
    g->layers = config->layers;
    g->short_most = rope_short_most(config, model_plan_used(model)->positions);
    g->kept = kept_new(model, kept_bytes);
    g->logits = mem_alloc_zero(SEQUENCES_MAX * (size_t)g->vocab, sizeof *g->logits);
    g->order = mem_alloc_zero(2 * (size_t)g->vocab, sizeof *g->order);
    g->cache = mem_alloc_zero(SEQUENCES_MAX * (size_t)g->layers, sizeof *g->cache);
    return g;
}

static void free_sequence(const struct generator *g, struct sequence *s)
{
    free(s->scope);
    free(s->token);
    model_cache_free(g->model, s->cache);
    free(s);
}

void generator_free(struct generator *g)
{
    if (!g)
        return;
    for (int i = 0; i < g->count; i++)
        free_sequence(g, g->sequence[i]);
    kept_free(g->kept);
    free(g->logits);
    free(g->order);
    free(g->cache);
    arena_deinit(&g->step);
    free(g);
}

static int32_t waiting_count(const struct sequence *s)
{
    return s->count - s->position;
}

/* What runs and begins with the most of s's tokens; *count is how many. */
static const struct sequence *find_running(const struct generator *g, const struct sequence *s, int32_t *count)
{
    const struct sequence *best = NULL;

    *count = 0;
    for (int i = 0; i < g->count; i++) {
        const struct sequence *other = g->sequence[i];
        int32_t most = other->position < s->count - 1 ? other->position : s->count - 1, same;
        if (other == s || !other->scope || strcmp(other->scope, s->scope) != 0)
            continue;
        same = kept_common(s->token, other->token, most);
        if (same > *count) {
            *count = same;
            best = other;
        }
    }
    return best;
}

/* Of a prompt: takes what others have run beyond its own position. Its last token is always its own, which draws. */
static void share(struct generator *g, struct sequence *s)
{
    const struct model_cache *from;
    const struct sequence *running;
    int32_t kept_count, running_count;

    if (!s->scope)
        return;
    from = kept_find(g->kept, s->scope, s->token, s->count - 1, &kept_count);
    running = find_running(g, s, &running_count);
    if (running_count > kept_count) {
        from = running->cache;
        kept_count = running_count;
    }
    if (kept_count < s->position + KEPT_TOKENS_MIN || !model_cache_copy(g->model, s->cache, from, kept_count))
        return;
    s->shared_count += kept_count - s->position;
    s->position = kept_count;
}

/* What is kept makes room on a device. */
static struct model_cache *new_cache(struct generator *g, int32_t positions)
{
    struct model_cache *cache = model_cache_new(g->model, positions);

    if (!cache && kept_clear(g->kept))
        cache = model_cache_new(g->model, positions);
    return cache;
}

static char *new_scope(const char *scope, char length)
{
    size_t bytes = strlen(scope) + 1;
    char *text = mem_alloc(bytes + 1);

    text[0] = length;
    memcpy(text + 1, scope, bytes);
    return text;
}

struct sequence *generator_add(struct generator *g, const struct sequence_request *request, sequence_fn *on_token,
                               void *context)
{
    struct model_cache *cache;
    struct sequence *s;

    if (g->count == SEQUENCES_MAX)
        return NULL;
    ASSERT(request->prompt_count > 0 && request->max_tokens > 0);
    cache = new_cache(g, request->prompt_count + request->max_tokens);
    if (!cache)
        return NULL;
    s = mem_alloc_zero(1, sizeof *s);
    *s = (struct sequence){.request = *request, .on_token = on_token, .context = context,
                           .count = request->prompt_count, .cache = cache};
    s->token = mem_alloc((size_t)(request->prompt_count + request->max_tokens) * sizeof *s->token);
    memcpy(s->token, request->prompt, (size_t)request->prompt_count * sizeof *s->token);
    s->scope = request->scope ? new_scope(request->scope, s->count > g->short_most ? LONG : SHORT) : NULL;
    s->request.prompt = NULL;
    s->request.scope = NULL;
    share(g, s);
    s->turn = g->prompts_run + waiting_count(s);
    g->sequence[g->count++] = s;
    return s;
}

int32_t sequence_shared(const struct sequence *s)
{
    return s->shared_count;
}

static void remove_at(struct generator *g, int index)
{
    const struct sequence *s = g->sequence[index];

    if (s->scope)
        kept_add(g->kept, s->scope, s->token, s->position, s->cache);
    free_sequence(g, g->sequence[index]);
    memmove(&g->sequence[index], &g->sequence[index + 1], (size_t)(g->count - index - 1) * sizeof *g->sequence);
    g->count--;
}

void generator_remove(struct generator *g, struct sequence *sequence)
{
    for (int i = 0; i < g->count; i++) {
        if (g->sequence[i] == sequence) {
            remove_at(g, i);
            return;
        }
    }
}

int generator_count(const struct generator *g)
{
    return g->count;
}

/* The prompt whose turn it is among those that have none of this step yet. */
static struct sequence *next_prompt(const struct generator *g)
{
    struct sequence *next = NULL;

    for (int i = 0; i < g->count; i++) {
        struct sequence *s = g->sequence[i];
        if (waiting_count(s) > 1 && s->step_tokens == 0 && (!next || s->turn < next->turn))
            next = s;
    }
    return next;
}

/* `left`: tokens that the step still takes. */
static int32_t share_out_prompts(struct generator *g, int32_t left)
{
    int32_t all = 0;

    while (left > 0 && all < g->prompt_tokens) {
        struct sequence *s = next_prompt(g);
        int32_t count = g->prompt_tokens - all;
        if (!s)
            break;
        share(g, s);
        if (waiting_count(s) <= count + g->prompt_tokens / 4)
            count = waiting_count(s);
        s->step_tokens = count < left ? count : left;
        left -= s->step_tokens;
        all += s->step_tokens;
    }
    g->prompts_run += all;
    return all;
}

/* Shares out the tokens of a step: those that were drawn first. */
static int32_t share_out(struct generator *g)
{
    int32_t all = 0;

    for (int i = 0; i < g->count; i++) {
        struct sequence *s = g->sequence[(g->next + i) % g->count];
        s->step_tokens = waiting_count(s) == 1 && all < g->tokens;
        all += s->step_tokens;
    }
    g->next = (g->next + 1) % g->count;
    return all + share_out_prompts(g, g->tokens - all);
}

/* A step's sequences: those with the same adapter side by side, otherwise in their order. */
static int32_t list_taking_part(const struct generator *g, struct sequence *list[SEQUENCES_MAX])
{
    int32_t count = 0;

    for (int i = 0; i < g->count; i++) {
        struct sequence *s = g->sequence[i];
        int32_t at = count;
        if (!s->step_tokens)
            continue;
        for (int32_t j = 0; j < count; j++)
            if (list[j]->request.adapter == s->request.adapter)
                at = j + 1;
        memmove(&list[at + 1], &list[at], (size_t)(count - at) * sizeof *list);
        list[at] = s;
        count++;
    }
    return count;
}

/* A step's flat stream: a document for each sequence that takes part, caches layer by layer, the
 * last row of each that draws. */
struct step {
    struct batch batch;
    const struct adapter *adapter[SEQUENCES_MAX];
    int32_t rows[SEQUENCES_MAX], row_count;
    bool has_adapter;
};

static void make_step(struct generator *g, int32_t T, struct step *step)
{
    int32_t *tok = arena_new_array(&g->step, int32_t, (size_t)T), *pos = arena_new_array(&g->step, int32_t, (size_t)T);
    int32_t *cu = arena_new_array(&g->step, int32_t, SEQUENCES_MAX + 1);
    int32_t *length = arena_new_array(&g->step, int32_t, SEQUENCES_MAX);
    struct sequence *list[SEQUENCES_MAX + 1];
    int32_t at = 0, docs = list_taking_part(g, list);

    step->row_count = 0;
    step->has_adapter = false;
    for (int32_t doc = 0; doc < docs; doc++) {
        struct sequence *s = list[doc];
        for (int32_t t = 0; t < s->step_tokens; t++) {
            tok[at + t] = s->token[s->position + t];
            pos[at + t] = s->position + t;
        }
        for (int32_t l = 0; l < g->layers; l++)
            g->cache[l * docs + doc] = s->cache->layer[l];
        at += s->step_tokens;
        cu[doc + 1] = at;
        length[doc] = s->count;
        s->step_row = s->step_tokens == waiting_count(s) ? step->row_count : -1;
        if (s->step_row >= 0)
            step->rows[step->row_count++] = at - 1;
        step->adapter[doc] = s->request.adapter;
        step->has_adapter |= s->request.adapter != NULL;
    }
    step->batch =
        (struct batch){.T = T, .doc_count = docs, .cu_seqlens = cu, .tok = tok, .pos = pos, .doc_length = length};
}

static struct sequence_token draw_token(struct generator *g, struct sequence *s, const float *logits)
{
    struct sequence_token token = {0};

    token.id = sample_token(logits, g->vocab, &s->request.sampling, (uint32_t)s->drawn_count, g->order);
    if (s->request.logprobs >= 0) {
        token.top_count = s->request.logprobs < g->vocab ? s->request.logprobs : g->vocab;
        token.logprob = sample_logprobs(logits, g->vocab, token.id, token.top_count, token.top);
    }
    return token;
}

/* Its first token beyond the length that the short factors are for: all before it is run once more with the long ones,
 * as if it had been the prompt. */
static void run_again(struct generator *g, struct sequence *s)
{
    s->position = 0;
    if (s->scope)
        s->scope[0] = LONG;
    for (int32_t l = 0; l < g->layers; l++)
        s->cache->layer[l].length = 0;
    s->turn = g->prompts_run + waiting_count(s);
}

/* Moves a sequence on behind the step; false when it has ended. */
static bool advance(struct generator *g, struct sequence *s)
{
    struct sequence_token token;
    bool is_last;

    for (int32_t l = 0; l < g->layers; l++)
        s->cache->layer[l].length += s->step_tokens;
    s->position += s->step_tokens;
    if (s->step_row < 0)
        return true;
    token = draw_token(g, s, g->logits + (size_t)s->step_row * (size_t)g->vocab);
    s->drawn_count++;
    is_last = s->drawn_count == s->request.max_tokens;
    if (!s->on_token(s->context, &token, is_last) || is_last)
        return false;
    s->token[s->count++] = token.id;
    if (s->count - 1 == g->short_most)
        run_again(g, s);
    return true;
}

bool generator_step(struct generator *g)
{
    struct step step;

    if (g->count == 0)
        return false;
    arena_reset(&g->step);
    make_step(g, share_out(g), &step);
    model_forward(g->model, &step.batch, g->cache, step.has_adapter ? step.adapter : NULL, step.rows, step.row_count,
                  g->logits);
    for (int i = 0; i < g->count;) {
        struct sequence *s = g->sequence[i];
        if (s->step_tokens && !advance(g, s))
            remove_at(g, i);
        else
            i++;
    }
    return true;
}
