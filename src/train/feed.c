#include "train/feed.h"
#include "base/random.h"

#include <stdlib.h>

void feed_init(struct feed *feed, struct arena *arena, const struct dataset *data, bool is_packed, uint32_t capacity,
               uint32_t batch_size, uint64_t seed)
{
    *feed = (struct feed){.data = data, .batch_size = batch_size, .seed = seed, .order_epoch = -1};
    ASSERT(!is_packed || data->summary.kind != EXAMPLE_PREFERENCE);
    if (is_packed) {
        uint32_t *length = mem_alloc((size_t)data->count * sizeof *length);
        for (uint32_t i = 0; i < data->count; i++)
            length[i] = data->entry[i].count;
        feed->rows = pack_best_fit(arena, length, data->count, capacity);
        free(length);
    } else {
        feed->rows = pack_single(arena, data->count, (uint32_t)example_kind_sequences(data->summary.kind));
    }
    feed->row_tokens = arena_new_array(arena, uint32_t, feed->rows.row_count);
    for (uint32_t row = 0; row < feed->rows.row_count; row++) {
        for (uint32_t i = feed->rows.start[row]; i < feed->rows.start[row + 1]; i++)
            feed->row_tokens[row] += data->entry[feed->rows.example[i]].count;
        if (feed->row_tokens[row] > feed->longest_row)
            feed->longest_row = feed->row_tokens[row];
    }
    feed->order = arena_new_array(arena, uint32_t, feed->rows.row_count);
    feed->steps_per_epoch = (feed->rows.row_count + (int64_t)batch_size - 1) / batch_size;
}

const uint32_t *feed_order(struct feed *feed, int64_t epoch)
{
    struct mt19937 mt;

    if (feed->order_epoch != epoch) {
        mt19937_seed(&mt, feed->seed + (uint64_t)epoch);
        mt19937_permutation(&mt, feed->order, feed->rows.row_count);
        feed->order_epoch = epoch;
    }
    return feed->order;
}

/* A stream that is being filled, document by document. */
struct stream {
    const struct dataset *data;
    int32_t *tok, *cu_seqlens;
    float *weight;
    uint32_t *example; /* of each document */
    int32_t token_count, doc_count;
};

static struct stream stream_new(const struct dataset *data, struct arena *arena, uint32_t tokens, uint32_t docs)
{
    return (struct stream){
        .data = data,
        .tok = arena_new_array(arena, int32_t, tokens),
        .cu_seqlens = arena_new_array(arena, int32_t, (size_t)docs + 1),
        .weight = arena_new_array(arena, float, tokens),
        .example = arena_new_array(arena, uint32_t, docs),
    };
}

static void stream_add(struct stream *s, uint32_t example)
{
    const struct dataset_entry *entry = &s->data->entry[example];
    const uint32_t *token = s->data->tokens + entry->start;

    for (uint32_t i = 0; i < entry->count; i++) {
        s->tok[s->token_count] = (int32_t)(token[i] & ~DATASET_TRAINS);
        s->weight[s->token_count++] = token[i] & DATASET_TRAINS ? 1 : 0;
    }
    s->example[s->doc_count++] = example;
    s->cu_seqlens[s->doc_count] = s->token_count;
}

/* Examples as groups that must stay together: group g is example[start[g] .. start[g+1]). */
struct groups {
    const uint32_t *example, *start;
    const uint32_t *pick; /* order of the groups; NULL: as they are */
    uint32_t count;
};

static uint32_t group_at(const struct groups *groups, uint32_t index)
{
    return groups->pick ? groups->pick[index] : index;
}

static uint32_t group_tokens(const struct dataset *data, const struct groups *groups, uint32_t group)
{
    uint32_t tokens = 0;

    for (uint32_t i = groups->start[group]; i < groups->start[group + 1]; i++)
        tokens += data->entry[groups->example[i]].count;
    return tokens;
}

/* How many groups from `first` on go into one micro-batch, and what they hold. */
static uint32_t measure(const struct dataset *data, const struct groups *groups, uint32_t first, uint32_t tokens_max,
                        uint32_t groups_max, uint32_t *tokens, uint32_t *docs)
{
    uint32_t taken = 0;

    *tokens = *docs = 0;
    while (first + taken < groups->count && (groups_max == 0 || taken < groups_max)) {
        uint32_t group = group_at(groups, first + taken), more = group_tokens(data, groups, group);
        if (taken > 0 && *tokens + more > tokens_max)
            break;
        *tokens += more;
        *docs += groups->start[group + 1] - groups->start[group];
        taken++;
    }
    ASSERT(*tokens <= tokens_max);
    return taken;
}

static void make_micro(const struct dataset *data, struct arena *arena, const struct groups *groups, uint32_t first,
                       uint32_t taken, uint32_t tokens, uint32_t docs, float scale, struct micro_batch *micro)
{
    struct stream stream = stream_new(data, arena, tokens, docs);

    for (uint32_t g = first; g < first + taken; g++) {
        uint32_t group = group_at(groups, g);
        for (uint32_t i = groups->start[group]; i < groups->start[group + 1]; i++)
            stream_add(&stream, groups->example[i]);
    }
    micro->example = stream.example;
    batch_make(arena, &micro->batch, stream.tok, stream.cu_seqlens, stream.doc_count, NULL, stream.weight, scale);
}

static void make_step(const struct dataset *data, struct arena *arena, const struct groups *groups, uint32_t tokens_max,
                      uint32_t groups_max, struct feed_step *out)
{
    *out = (struct feed_step){.micro = arena_new_array(arena, struct micro_batch, groups->count)};
    for (uint32_t g = 0; g < groups->count; g++) {
        uint32_t group = group_at(groups, g);
        for (uint32_t i = groups->start[group]; i < groups->start[group + 1]; i++)
            out->supervised += data->entry[groups->example[i]].trained_count;
    }
    ASSERT(out->supervised > 0 || groups->count == 0); /* every example of a dataset has something that trains */
    for (uint32_t first = 0, taken; first < groups->count; first += taken) {
        struct micro_batch *micro = &out->micro[out->micro_count++];
        uint32_t tokens, docs;
        taken = measure(data, groups, first, tokens_max, groups_max, &tokens, &docs);
        micro->row_offset = (uint64_t)out->tokens;
        make_micro(data, arena, groups, first, taken, tokens, docs, (float)(1.0 / (double)out->supervised), micro);
        out->tokens += tokens;
    }
}

void feed_step_make(struct feed *feed, struct arena *arena, int64_t step, uint32_t tokens_max, struct feed_step *out)
{
    int64_t first = step % feed->steps_per_epoch * feed->batch_size, left = feed->rows.row_count - first;
    struct groups groups = {.example = feed->rows.example, .start = feed->rows.start};

    groups.pick = feed_order(feed, step / feed->steps_per_epoch) + first;
    groups.count = left < feed->batch_size ? (uint32_t)left : feed->batch_size;
    make_step(feed->data, arena, &groups, tokens_max, 0, out);
}

void feed_examples_make(const struct dataset *data, struct arena *arena, const uint32_t *example, uint32_t count,
                        uint32_t together, uint32_t tokens_max, uint32_t groups_max, struct feed_step *out)
{
    uint32_t *start = arena_new_array(arena, uint32_t, (size_t)count / together + 1);
    struct groups groups = {.example = example, .start = start, .count = count / together};

    for (uint32_t i = 0; i <= groups.count; i++)
        start[i] = i * together;
    make_step(data, arena, &groups, tokens_max, groups_max, out);
}
