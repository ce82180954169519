/* model/checkpoint_int.h - what the files of checkpoints share. */
#pragma once

#include "model/checkpoint.h"
#include "model/decoder_int.h"

/* The text of adapter_config.json, with PEFT's long-established keys. */
void adapter_config_write(struct strbuf *out, const struct model *model, const char *base_name);

/* folder.c: copies every file of a model folder that is no weight file. */
bool folder_copy_others(struct arena *arena, const char *from, const char *to, struct err *err);

/* state.c: the tensors of a recovery state, and where the numbers of one are in the memory of operations. */
int state_entries(const struct model *m, struct arena *arena, struct safetensors_entry **entries);
struct mat state_mat(struct model *m, const struct safetensors_entry *entry);

/* Streams rows [rows, cols] that lie ld elements apart, converted. */
bool write_rows(struct safetensors_writer *writer, const void *at, enum dtype from, enum dtype to, int32_t rows,
                int32_t cols, int32_t ld, struct err *err);
