/* model/quantize.h - a model folder whose linear layers are codes of four bits, as transformers with bitsandbytes
 * writes and loads it.
 *
 * The weights of attention and MLP become NF4 with double quantization (model/codes.h has the layout), one tensor of
 * the files at a time; everything else keeps its bytes and its type. config.json gains quantization_config. Memory is
 * bounded by the codes of one shard. */
#pragma once

#include "base/pool.h"
#include "model/checkpoint.h"

/* Writes the folder `out`, which must not exist: the shards of `folder` under their names, an index if there is one,
 * and every other file that is no weight file. compute_type is what transformers shall compute in: F32 or BF16. It
 * appears complete under its name (written as `<out>.tmp`, synced, renamed) or not at all. ERR_CONFLICT when `out` is
 * there or the weights are codes already. */
bool quantize_write(const char *folder, const char *out, enum dtype compute_type, struct pool *pool, struct err *err);
