/* model/adapter.h - adapters beside each other on one resident base.
 *
 * A model that was opened for inference with a slot_rank takes any number of PEFT adapters of up to that rank, opened
 * and closed while it runs; model_forward is told which document of a batch meets which. A document's logits have the
 * bits that they have on a model opened with that adapter alone.
 *
 * What an adapter here may hold is LoRA on the linear layers of attention and dense MLPs. DoRA, adapters on embeddings
 * or head and modules that were trained whole change what documents share: they need a model of their own
 * (model_options.adapter_folder). */
#pragma once

#include "model/decoder.h"

struct adapter;

/* ERR_UNSUPPORTED: it needs a model of its own, and the text says why. Other errors: it cannot be
 * read or is not this base's. */
bool adapter_open(struct adapter **adapter, struct model *base, const char *folder, struct err *err);
void adapter_close(struct adapter *adapter); /* NULL is fine */
uint64_t adapter_bytes(const struct adapter *adapter); /* that it holds in memory */
