/* model/memory.h - where a model's numbers lie: in the process, or on a device.
 *
 * All that operations work on goes through these functions when the host fills or reads it. Over a backend without a
 * memory of its own they are memcpy, memset and malloc, and nothing is copied that can be read where it is. */
#pragma once

#include "model/decoder_int.h"

/* Zeros; takes them from the system or from the device. */
bool memory_take_regions(struct model *model, struct err *err);
void memory_give_regions(struct model *model);

/* Zeros; NULL: the device has no room. */
void *memory_take(struct model *model, size_t bytes);
void memory_give(struct model *model, void *at);

void memory_zero(struct model *model, void *at, size_t bytes);
void memory_write(struct model *model, void *to, const void *from, size_t bytes);
void memory_read(struct model *model, void *to, const void *from, size_t bytes);
/* Within the memory of operations: `rows` stretches of whole floats, ld bytes behind each other. */
void memory_copy_rows(struct model *model, void *to, size_t to_ld, const void *from, size_t from_ld, size_t row_bytes,
                      int32_t rows);
/* Where operations have a memory of their own, `to` holds it behind model_finish. */
void memory_read_later(struct model *model, void *to, const void *from, size_t bytes);
/* rows of cols elements of `size` bytes; `ld` elements between rows at `to`, none between those of `from`. */
void memory_write_rows(struct model *model, void *to, const void *from, size_t size, int32_t rows, int32_t cols,
                       int32_t ld);
/* A matrix as the host can read it: itself, or a copy that *copy then holds, to be freed by the caller. */
struct mat memory_view(struct model *model, struct mat mat, void **copy);

/* The batch as operations take it: its arrays on the device. */
struct batch memory_batch(struct model *model, const struct batch *batch);
