/* hub/download.h - a model from a Hub into the cache of this disk (hub/cache.h).
 *
 * The revision becomes a commit, the commit a list of files with sizes and hashes; of these the ones that a model or an
 * adapter needs are fetched, several at once, each going on where an earlier transfer ended. A file is held against its
 * size and hash before it gets its name. What is there already is not fetched again. Nothing but the last links makes a
 * half model visible: stopped at any instruction, the next download goes on.
 *
 * Blocks. Threads call the callbacks one at a time. */
#pragma once

#include "http/outgoing.h"

struct hub_download {
    const char *endpoint;                 /* NULL: https://huggingface.co */
    const char *token;                    /* NULL: none */
    const struct outgoing_policy *policy; /* NULL: every place may be reached */
    const char *cache;                    /* made when absent */
    const char *repo, *revision;          /* revision NULL: main */
    bool is_offline;                      /* what the cache has, and no request */
    int transfers;                        /* at once; 0: 4 */
    int64_t retry_ms;                     /* before a transfer that broke goes on, doubling four times; 0: 1 s */
    bool gives_room_back; /* a disk that fills up gets back what has come of unfinished files, else that stays */

    /* What there is to do, before it begins: bytes of all files, and how many of them are there. False: do not. */
    bool (*on_plan)(void *context, const char *commit, int files, uint64_t bytes, uint64_t present);
    /* About twice a second. False: stop, ERR_CANCELLED. */
    bool (*on_progress)(void *context, uint64_t done, uint64_t bytes);
    void *context;
};

struct hub_model {
    const char *folder, *commit;
    bool is_adapter;
    const char *base, *base_revision; /* what an adapter says that it is for; NULL: it does not */
};

/* Texts of the model live in the arena. ERR_IO, ERR_TIMEOUT: may work later; the texts of others say what to change. */
bool hub_download(const struct hub_download *download, struct arena *arena, struct hub_model *model, struct err *err);
