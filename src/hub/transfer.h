/* hub/transfer.h - files of a commit into blobs of the cache, several at once. */
#pragma once

#include "hub/get.h"
#include "hub/listing.h"

struct hub_transfers {
    const struct hub_reader *reader; /* each transfer has one like it */
    const char *cache, *commit;
    const struct hub_file *const *files;
    int count, threads;
    int64_t retry_ms;
    bool gives_room_back; /* as hub_download's */
    bool (*on_progress)(void *context, uint64_t done, uint64_t bytes); /* as hub_download's */
    void *context;
};

/* All of them, or the first error. */
bool hub_transfers_run(const struct hub_transfers *transfers, struct err *err);

/* Bytes of the file that are in the cache, whole or not. */
uint64_t hub_file_present(struct arena *arena, const char *cache, const char *repo, const struct hub_file *file);
