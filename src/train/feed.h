/* train/feed.h - which tokens each optimizer step sees.
 *
 * A step takes the next batch_size rows of the epoch's order; the last step of an epoch takes what is left. The order
 * is torch.randperm by a generator seeded with seed + epoch (from 0), as the Hugging Face Trainer draws it. Everything
 * follows from (seed, step): a resumed run feeds exactly what the first would have.
 *
 * The rows of a step are cut into micro-batches of at most `tokens_max` tokens, whole rows in order. All share one
 * divisor: the number of supervised tokens of the whole step. A row of an unpacked run is one example, of a packed one
 * several; either way a micro-batch is a flat stream of documents. A preference is a row of two documents, chosen and
 * rejected. "Examples" are the data set's sequences here, by their index. */
#pragma once

#include "data/dataset.h"
#include "data/pack.h"
#include "model/batch.h"

struct feed {
    const struct dataset *data;
    struct rows rows;
    uint32_t *row_tokens; /* [row_count] */
    uint32_t longest_row; /* tokens */
    uint32_t batch_size;
    uint64_t seed;
    int64_t steps_per_epoch;
    uint32_t *order;     /* [row_count] of epoch `order_epoch` */
    int64_t order_epoch; /* from 0; -1: none drawn yet */
};

void feed_init(struct feed *feed, struct arena *arena, const struct dataset *data, bool is_packed, uint32_t capacity,
               uint32_t batch_size, uint64_t seed);

/* [row_count] the rows of an epoch (from 0) in the order in which they come; valid until another epoch's is asked for.
 */
const uint32_t *feed_order(struct feed *feed, int64_t epoch);

struct micro_batch {
    struct batch batch;
    const uint32_t *example; /* [doc_count] which one each document is */
    uint64_t row_offset;     /* tokens of this step before it */
};

struct feed_step {
    struct micro_batch *micro; /* in the arena */
    int micro_count;
    int64_t tokens, supervised;
};

/* Step from 0. tokens_max must hold the longest row. Arrays lie in `arena`, which lives for the step. */
void feed_step_make(struct feed *feed, struct arena *arena, int64_t step, uint32_t tokens_max, struct feed_step *out);

/* The same stream from a list of examples, for evaluation: documents in order, cut into micro-batches of at most
 * tokens_max tokens. `together` neighbours are never parted: 2 for pairs, else 1; count is a multiple of it. groups_max
 * of these make a micro-batch; 0: as many as fit. */
void feed_examples_make(const struct dataset *data, struct arena *arena, const uint32_t *example, uint32_t count,
                        uint32_t together, uint32_t tokens_max, uint32_t groups_max, struct feed_step *out);
