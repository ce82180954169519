/* model/batch.h - makes the flat stream of a micro-batch (struct batch, compute/backend.h) from documents. */
#pragma once

#include "compute/backend.h"
#include "base/arena.h"

/* tok [T] are the documents one behind the other, cu_seqlens [doc_count + 1] their borders (copied neither: they must
 * outlive the batch). first_pos [doc_count] is the position of each document's first token, NULL for 0 (inference
 * continues). weight [T], or NULL for none: weight[t] is the supervision of token t as a label, 0 for none; it lands in
 * row_weight times `scale` (1/divisor of the optimizer step) at the row before it. A document's first token is never a
 * label. */
void batch_make(struct arena *arena, struct batch *batch, const int32_t *tok, const int32_t *cu_seqlens,
                int32_t doc_count, const int32_t *first_pos, const float *weight, float scale);
