/* model/checkpoint.h - weights on disk in the layouts that other tools read.
 *
 * Writers fill a folder that the caller made; they sync every file, but the caller commits (MANIFEST, rename, sync). */
#pragma once

#include "model/decoder.h"

enum { CHECKPOINT_FILES_MAX = 4096 };

struct checkpoint_file {
    const char *name; /* in the arena */
    uint64_t bytes;
    char sha256[65];
};
struct checkpoint_files {
    struct checkpoint_file *file; /* in the arena; in the order written */
    int count;
};

/* Everything a user gets. Without an adapter: Hugging Face layout, weights in the base's types (masters rounded once),
 * sharded above 5 GB; config.json in the input's dialect, generation_config.json, tokenizer and template files copied
 * from the base. With one: PEFT layout, adapter_model.safetensors in f32 and adapter_config.json; tokenizer and
 * template files. base_name is what adapter_config.json calls the base. */
bool checkpoint_write(struct model *model, const char *folder, const char *base_name, struct arena *arena,
                      struct checkpoint_files *files, struct err *err);

/* Bytes of the files that checkpoint_write would write, before it does: weights to the byte, small texts as 16 KiB.
 * Tensors that are taken over from the base unread are known only to a model that has its files open. */
uint64_t checkpoint_bytes(const struct model *model);

/* adapter_config.json of a PEFT folder: rank, alpha, dropout, targets (in the arena). What attune cannot do (DoRA, rank
 * patterns, biases, modules_to_save …) is ERR_UNSUPPORTED and named. */
bool adapter_config_read(struct arena *arena, const char *folder, struct lora_config *lora, struct err *err);

/* Recovery: p.<name>, m.<name>, v.<name> of every trained param, f32, into one file; and back. Reading checks that
 * exactly these tensors with these shapes are there before it changes anything. */
bool checkpoint_write_state(struct model *model, const char *path, uint64_t *bytes, char sha256[65], struct err *err);
uint64_t checkpoint_state_bytes(const struct model *model); /* of that file, to the byte */
bool checkpoint_read_state(struct model *model, const char *path, struct err *err);
